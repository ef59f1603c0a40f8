"""Tables of damaged cells and damaged sidecars: shown or said, never a number."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from ..command import Bench, is_one_clear_message

TABLE = """
title: Two
layout: gain
baseline: none
runs:
  - {defenses: [none, gaussian], attacks: {name: noise, set: {tries: 1}}, threats: {eps: 0.3},
     classifiers: {name: small_cnn, set: {training: {epochs: 1}}}, n: 4, draws: 3}
"""
_MADE: list[Path] = []


@pytest.fixture
def folder(bench: Bench, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a table of two cells: made once, copied for every test."""
    (tmp_path / "two.yaml").write_text(TABLE)
    if not _MADE:
        made = tmp_path_factory.mktemp("made") / "results"
        done = bench("paper", "two.yaml", f"--results={made}")
        assert done.code == 0, done.err
        _MADE.append(made)
    shutil.copytree(_MADE[0], tmp_path / "results")
    return tmp_path / "results"


def cell_of(folder: Path, defense: str) -> Path:
    (found,) = (
        path.parent
        for path in folder.glob("cells/*/cell.json")
        if json.loads(path.read_text())["defense"]["name"] == defense
    )
    return found


@pytest.mark.parametrize("words", [("two.yaml",), ("--rebuild",)], ids=["again", "rebuilt"])
@pytest.mark.parametrize("defense", ["none", "gaussian"])
def test_a_damaged_cell_of_a_table_has_no_number(
    bench: Bench, folder: Path, words: tuple[str, ...], defense: str
) -> None:
    path = cell_of(folder, defense) / "outcomes.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    said = bench("paper", *words)
    assert said.code == 1
    assert "Traceback" not in said.err
    assert f"cell {path.parent.name} is damaged: outcomes.parquet" in said.err
    with (folder / "paper" / "two.csv").open(newline="") as lines:
        rows = {row["defense"]: row for row in csv.DictReader(lines)}
    assert set(rows) == {"none", "gaussian"}
    assert {row["state"] == "damaged" for row in rows.values()} == {True, False}
    assert [rows[defense][name] for name in ("state", "robust", "gain")] == ["damaged", "", ""]
    assert f"| {defense} " in (folder / "paper" / "two.md").read_text()


@pytest.mark.parametrize("words", [("two.yaml",), ("--rebuild",)], ids=["again", "rebuilt"])
def test_a_cell_of_which_nothing_is_known_is_named(
    bench: Bench, folder: Path, words: tuple[str, ...]
) -> None:
    path = cell_of(folder, "gaussian") / "cell.json"
    path.write_text("{")
    before = (folder / "paper" / "two.csv").read_bytes()
    said = bench("paper", *words)
    assert "Traceback" not in said.err
    if words == ("--rebuild",):
        is_one_clear_message(said, path.parent.name, "cell.json", "Delete its folder", code=1)
    assert (folder / "paper" / "two.csv").read_bytes() == before


SIDECARS = ["{", "[]", "{}", '{"runs": 3}', '{"runs": [{"cells": ["x"]}]}',
            '{"runs": [{"cells": [{"key": "../../x"}]}]}']  # fmt: skip


@pytest.mark.parametrize("text", SIDECARS)
def test_a_damaged_sidecar_is_one_sentence(bench: Bench, folder: Path, text: str) -> None:
    (folder / "paper" / "two.json").write_text(text)
    for words in (("two.yaml",), ("--rebuild",)):
        is_one_clear_message(bench("paper", *words), "Delete", code=1)
