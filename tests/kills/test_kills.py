"""A bounded run of the kills, and that it sees what it looks for."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from ..children import forked_with
from .same import differences
from .trials import PRELOAD, kill_many, killed, prepare, worked

KILLS = 4


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServerContext]:
    with forked_with(PRELOAD) as context:
        yield context


def test_killed_commands_end_as_if_nobody_had_killed_them(
    children: ForkServerContext, tmp_path: Path
) -> None:
    counts, bad = kill_many(children, KILLS, 0, tmp_path, names=["paper"])
    assert bad == []
    assert counts.total() >= KILLS


def test_what_a_kill_leaves_and_changes_is_seen(
    children: ForkServerContext, tmp_path: Path
) -> None:
    scenario = prepare(children, "run", tmp_path)
    ours = tmp_path / "ours"
    shutil.copytree(scenario.whole, ours)
    assert list(differences(ours, scenario.whole)) == []
    (cell,) = (ours / "results" / "cells").iterdir()
    (cell / ".outcomes.parquet.abcd1234").touch()
    (cell / "shards").mkdir()
    (ours / "results" / "claims" / "train-x").touch()
    (cell / "outcomes.parquet").write_bytes(b"PAR1")
    about = json.loads((cell / "provenance.json").read_text())
    (cell / "provenance.json").write_text(json.dumps({**about, "date": "now", "flags": ["x"]}))
    next((ours / "results" / "checkpoints" / "digits").glob("*.safetensors")).unlink()
    found = " ".join(differences(ours, scenario.whole))
    for name in ("behind: results/cells/", ".abcd1234", "/shards", "claims/train-x",
                 "missing: results/checkpoints", "content: results/cells/"):  # fmt: skip
        assert name in found
    assert "provenance.json" in found
    assert "runs.csv" not in found
    # A command that ends otherwise is told of too.
    assert worked(children, ours, ("table", "--results=nowhere")) is not None
    broken = scenario.__class__(**{**vars(scenario), "words": ("table", "--results=nowhere")})
    said = killed(children, broken, random.Random(0), tmp_path / "trial", Counter())
    assert any("it ends with (2, " in one for one in said)
