"""What is remembered of cells is never another number than their files say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.results import index
from bench.results.cell import subject_of
from bench.results.cell_row import damaged_cells, said_by_cells
from bench.results.files import read_json
from bench.results.store import Store
from bench.results.table import collect
from benchmarks.cells import fill

from ..command import Bench


@pytest.fixture(autouse=True)
def _fresh_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember cells that were written just now."""
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**9))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells whose files are read, in their order."""
    found: list[str] = []
    real = index.remembered

    def remembered(store: Store, keys: list[str], say: Callable[..., object]) -> object:
        def noted(key: str) -> object:
            found.append(key)
            return say(key)

        return real(store, keys, noted)

    monkeypatch.setattr("bench.results.cell_row.remembered", remembered)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three finished cells, one that is unfinished and one that failed."""
    fill(tmp_path / "results", 5)
    made = Store(tmp_path / "results")
    unfinished, failed = made.cells()[:2]
    for folder in (unfinished, failed):
        (folder / "outcomes.parquet").unlink()
        (folder / "provenance.json").unlink()
    (failed / "failed.json").write_text('{"reason": "it broke", "run": "1"}')
    return made


def without_index(store: Store) -> pd.DataFrame:
    shutil.rmtree(store.cache, ignore_errors=True)
    return collect(store)


def test_a_second_table_reads_no_cell_and_has_the_same_rows(
    store: Store, read: list[str]
) -> None:
    first = collect(store)
    assert sorted(read) == [folder.name for folder in store.cells()]
    read.clear()
    pd.testing.assert_frame_equal(collect(store), first, check_exact=True)
    assert read == []
    assert set(first["state"]) == {"done", "unfinished", "failed"}


CHANGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "deleted": lambda path: path.unlink(),
    "replaced": lambda path: (path.unlink(), path.write_bytes(b"{}")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (path.rename(path.with_name("moved")), path.symlink_to("nowhere")),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_of_a_cell_is_seen_though_its_time_is_put_back(
    store: Store, change: Callable[[Path], object]
) -> None:
    assert list(collect(store)["state"]).count("done") == 3
    names = ("cell.json", "provenance.json", "outcomes.parquet")
    for folder, name in zip(store.cells()[2:], names, strict=True):
        path = folder / name
        before = path.stat()
        change(path)
        if path.exists():
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = collect(store)
    pd.testing.assert_frame_equal(now, without_index(store), check_exact=True)
    assert "done" not in set(now["state"])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["cell.json", "provenance.json",
              "outcomes.parquet", "failed.json", "skipped.json"]),
              st.sampled_from(["write", "delete", "whole"])), max_size=4,
))  # fmt: skip
def test_whatever_happens_to_files_rows_are_those_of_a_first_reading(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, str]]
) -> None:
    store = Store(tmp_path_factory.mktemp("cells") / "results")
    fill(store.root, 5)
    cells = store.cells()
    said_by_cells(store)
    for number, name, change in steps:
        path = cells[number] / name
        if change == "delete":
            path.unlink(missing_ok=True)
        elif change == "whole":
            shutil.rmtree(path.parent, ignore_errors=True)
        elif path.parent.is_dir():
            path.write_text('{"reason": "of a test"}')
        now, damaged = collect(store), damaged_cells(store)
        pd.testing.assert_frame_equal(now, without_index(store), check_exact=True)
        assert damaged == damaged_cells(store)


def test_an_audit_that_comes_later_is_in_the_row(store: Store, read: list[str]) -> None:
    (done, *_) = collect(store)["key"][collect(store)["state"] == "done"]
    read.clear()
    report = store.audit(subject_of(read_json(store.cell(done) / "cell.json")))
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({
        "state": "stands", "verdict": "", "findings": [], "subject": {"n": 1},
        "accuracy": {"robust_high": 100.0},
    }))  # fmt: skip
    assert collect(store).set_index("key").loc[done, "audit"] == "stands"
    assert read == []


def test_files_that_may_change_unseen_are_read_each_time(
    store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_SETTLED_NS", 10**12)
    collect(store)
    read.clear()
    collect(store)
    assert len(read) == 5


@pytest.mark.parametrize(
    "spoilt",
    ["", "[]", "{}", '{"code": 1, "cells": {}}', '{"code": "CODE", "cells": []}',
     '{"code": "CODE", "cells": {"KEY": 1}}', '{"code": "CODE", "cells": {"KEY": []}}',
     '{"code": "CODE", "heads": [["n"]], "cells": {"KEY": [[], 1, [5], null, null]}}',
     '{"code": "CODE", "heads": [["n"]], "cells": {"KEY": [[], 0, [5, 6], null, null]}}'],
)  # fmt: skip
def test_a_damaged_index_is_none(store: Store, spoilt: str) -> None:
    first = collect(store)
    path = store.cache / "cells.json"
    code = json.loads(path.read_text())["code"]
    spoilt = spoilt.replace("CODE", code).replace("KEY", first["key"][0])
    path.write_text(spoilt)
    pd.testing.assert_frame_equal(collect(store), first, check_exact=True)
    assert len(json.loads(path.read_text())["cells"]) == 5


def test_another_version_reads_everything_again(
    store: Store, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(store)
    read.clear()
    monkeypatch.setattr(index, "digest_of_shipped", lambda: "another")
    collect(store)
    assert len(read) == 5


def test_nothing_is_written_where_nothing_can_be(store: Store, bench: Bench) -> None:
    """A folder of which another user is the owner is read as before."""
    store.cache.write_text("in the place of the folder")
    assert bench("table", f"--results={store.root}").code == 0
    assert store.cache.read_text() == "in the place of the folder"


def test_a_folder_without_cells_stays_as_it_is(tmp_path: Path) -> None:
    assert collect(Store(tmp_path / "none")).empty
    assert list(tmp_path.iterdir()) == []
