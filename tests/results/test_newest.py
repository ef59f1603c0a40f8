"""`bench table` in a folder with many results prints the newest, and says so."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from bench.results.render import Format, render
from bench.results.rows import all_rows, columns_of_rows, newest_rows
from bench.results.store import Store
from bench.results.table import collect, newest

from ..command import RUN, Bench


def keyed(number: int) -> str:
    return f"{number:016x}"


def test_the_newest_cells_are_kept_in_their_order_with_what_joins_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = []
    for number in range(8):
        key = keyed(number)
        folder = store.cell(key)
        folder.mkdir(parents=True)
        # The second half is not finished: it has no date, but its folder has a time.
        date = f"2026-01-0{8 - number}T00:00:00Z" if number < 4 else None
        os.utime(folder, (2_000_000_000 + number,) * 2)
        state = "done" if date else "unfinished"
        rows.append({"key": key, "date": date, "state": state})
    # In a clone the folders of what was skipped are the newest of all.
    for number in range(8, 12):
        folder = store.cell(keyed(number))
        folder.mkdir(parents=True)
        os.utime(folder, (2_100_000_000,) * 2)
        rows.append({"key": keyed(number), "date": None, "state": "skipped"})
    joined = f"{keyed(2)} {keyed(3)}", f"{keyed(0)} {keyed(1)}"
    rows += [{"key": keys, "date": "2026-01-08T00:00:00Z", "state": "done"} for keys in joined]
    rows.append({"key": "no key", "date": None, "state": "damaged"})
    found = newest(pd.DataFrame(rows), store, 5)
    expected = [keyed(0), keyed(4), keyed(5), keyed(6), keyed(7), joined[1], "no key"]
    assert list(found["key"]) == expected


def test_the_newest_are_read_as_they_are_cut_from_all(bench: Bench, tmp_path: Path) -> None:
    for seed in ("0", "1", "2"):
        assert bench(*RUN, "--seed", seed).code == 0
    store = Store(tmp_path / "results")
    broken = store.keys()[0]
    (store.cell(broken) / "cell.json").write_text("{")
    everything = collect(store)
    cut, cells = newest_rows(store, 1)
    assert [row["key"] for row in cut] == list(newest(everything, store, 1)["key"])
    assert broken in {row["key"] for row in cut}
    assert len(cut) == 2
    assert cells == 3


def test_a_table_of_rows_is_that_of_a_frame(bench: Bench, tmp_path: Path) -> None:
    assert bench(*RUN).code == 0
    assert bench(*RUN, "--seed", "1", "--set", "attack.tries=2").code == 0
    store = Store(tmp_path / "results")
    (store.cell(store.keys()[0]) / "cell.json").write_text("{")
    columns = columns_of_rows(all_rows(store))
    form: Format
    for form in ("csv", "md", "latex"):
        assert render(columns, form) == render(collect(store), form)
    assert render(columns, "csv").replace("'", "") == collect(store).to_csv(index=False)


def test_only_the_table_that_is_printed_is_cut(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.commands.table._NEWEST", 1)
    for seed in ("0", "1"):
        assert bench(*RUN, "--seed", seed).code == 0
    cut = bench("table")
    assert cut.out.count("\n| none |") == 1
    assert "the newest 1 of 2 rows. All of them: --all" in cut.err
    assert bench("table", "--all").out.count("\n| none |") == 2
    assert bench("table", "--format=csv").out.count("\nnone,") == 2
    assert bench("table", "-o", "table.md").code == 0
    assert (tmp_path / "table.md").read_text() == bench("table", "--all").out
