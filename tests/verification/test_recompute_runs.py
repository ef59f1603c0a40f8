"""runs.csv is compared with the cells: another value is found, an older table is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ..command import Bench
from .one_cell import RUN, only


def test_another_robust_accuracy_in_runs_is_found(bench: Bench, folder: Path) -> None:
    runs = pd.read_csv(folder / "runs.csv")
    runs["robust"] += 0.01
    runs.to_csv(folder / "runs.csv", index=False)
    said = bench("verify")
    assert said.code == 1
    assert f"runs.csv has other values for {only(folder).name}: robust" in said.out


def edit_runs(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    runs = folder / "runs.csv"
    change(pd.read_csv(runs, dtype=str, keep_default_na=False)).to_csv(runs, index=False)


def not_finished(rows: pd.DataFrame) -> pd.DataFrame:
    numbers = ["clean", "robust", "passes", "seconds", "commit", "date"]
    return rows.assign(state="unfinished", **dict.fromkeys(numbers, ""))


OLDER: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "without the cell": lambda rows: rows.iloc[:0],
    "the cell unfinished": not_finished,
    "a failure that was dropped": lambda rows: pd.concat(
        [rows, rows.assign(key="f" * 16, state="failed", robust="")]
    ),
}


@pytest.mark.parametrize("kind", OLDER)
def test_runs_that_are_older_than_the_folder_are_no_contradiction(
    bench: Bench, folder: Path, kind: str
) -> None:
    """As after a kill, or beside a command that runs."""
    edit_runs(folder, OLDER[kind])
    said = bench("verify")
    assert said.code == 0, said.out
    late = f"NOT CHECKED runs.csv is older than the cells {only(folder).name}" in said.out
    assert late == (kind != "a failure that was dropped")


@pytest.mark.parametrize(
    "column", ["robust_high", "seconds", "passes", "n", "defense", "commit"]
)
def test_another_value_in_runs_is_found(bench: Bench, folder: Path, column: str) -> None:
    edit_runs(folder, lambda rows: rows.assign(**{column: "77"}))
    said = bench("verify")
    assert said.code == 1
    assert f"runs.csv has other values for {only(folder).name}: {column}" in said.out


def test_a_number_of_a_cell_without_outcomes_is_found(bench: Bench, folder: Path) -> None:
    rows = pd.read_csv(folder / "runs.csv", dtype=str, keep_default_na=False)
    cell = only(folder)
    assert bench(*RUN, "--seed=1").code == 0
    (cell / "outcomes.parquet").unlink()
    rows.to_csv(folder / "runs.csv", index=False)
    said = bench("verify")
    assert said.code == 1
    assert f"runs.csv has other cells than the folder: {cell.name}" in said.out
