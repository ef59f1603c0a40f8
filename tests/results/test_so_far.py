"""The accuracy that is shown while a cell is measured is that of the images judged so far."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from torch import Tensor

from bench.evaluation.run import run_cell
from bench.results import so_far
from bench.results.progress import Progress, Work
from bench.results.so_far import certified, robust, with_accuracy
from bench.results.stats import wilson
from bench.results.workspace import Workspace

from ..cells import Counting, prepared, stop_after


class Far(Counting):
    """Leaves the ball."""

    def __call__(self, view: Any, x: Tensor, y: Tensor, **given: Any) -> Tensor:
        return (x + 0.5).clamp(0, 1)


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(so_far, "_EVERY_S", -1.0)


def written(right: int, n: int) -> str:
    low, high = wilson(right, n)
    return f"{100 * right / n:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def reports(work: Work[None]) -> list[Progress]:
    return list(work)


def test_it_is_that_of_the_rows_so_far_and_at_the_end_that_of_the_cell(
    workspace: Workspace,
) -> None:
    made = prepared(n=12, shard=4)
    work = with_accuracy(run_cell(made, workspace=workspace), made.cell, store=workspace.store)
    found = reports(work)
    rows = pd.read_parquet(workspace.store.outcomes(made.cell.key()))
    assert [one.done for one in found] == [0, 4, 8, 12]
    assert found[0].figures == {}
    for one in found[1:]:
        right = int(rows["robust"][: one.done].sum())
        assert one.figures == {"robust": written(right, one.done)}
        assert one.unit == "images"


def test_a_resumed_cell_counts_what_was_there(workspace: Workspace) -> None:
    made = prepared(n=12, shard=4)
    stop_after(made, workspace, 2)
    work = with_accuracy(run_cell(made, workspace=workspace), made.cell, store=workspace.store)
    first = next(work)
    assert first.done == 8
    assert str(first.figures["robust"]).endswith(")")
    work.close()


def test_a_void_cell_has_no_accuracy(workspace: Workspace) -> None:
    made = prepared(attack=Far(), n=8, shard=4)
    work = with_accuracy(run_cell(made, workspace=workspace), made.cell, store=workspace.store)
    assert reports(work)[-1].figures == {"void": "8 images outside the ball"}


def test_images_that_cheaper_attacks_broke_are_counted_as_broken(workspace: Workspace) -> None:
    made = prepared(n=4, shard=4)
    rows = pd.DataFrame({"robust": [True], "legal": [True]})
    path = workspace.store.shard(made.cell.key(), 0)
    path.parent.mkdir(parents=True)
    rows.to_parquet(path)

    def work() -> Work[None]:
        yield Progress("last", 4, 4)

    (last,) = with_accuracy(work(), made.cell, store=workspace.store)
    assert last.figures == {"robust": written(1, 4)}


def test_a_shard_that_cannot_be_read_ends_no_work(workspace: Workspace) -> None:
    made = prepared(n=4, shard=4)
    path = workspace.store.shard(made.cell.key(), 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")

    def work() -> Work[str]:
        yield Progress("last", 4, 4)
        return "result"

    watched = with_accuracy(work(), made.cell, store=workspace.store)
    assert next(watched).figures == {}
    with pytest.raises(StopIteration) as stop:
        next(watched)
    assert stop.value.value == "result"


def test_closing_it_closes_the_work(workspace: Workspace) -> None:
    closed = []

    def work() -> Work[None]:
        try:
            yield Progress("first", 0, 4)
        finally:
            closed.append(True)

    inner = work()
    watched = with_accuracy(inner, prepared(n=4).cell, store=workspace.store)
    next(watched)
    watched.close()
    assert closed == [True]


def test_what_is_counted() -> None:
    rows = pd.DataFrame({"class": [1, 1, 2], "label": [1, 1, 1], "radius": [0.5, 0.0, 0.5]})
    assert certified(rows) == 1
    assert robust(pd.DataFrame({"robust": [True, False, True]})) == 2
