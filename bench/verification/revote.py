"""Repeat the votes of verified cells in this process, with the defense loaded afresh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.errors import BenchError
from bench.evaluation.batch_votes import votes_alone, votes_beside
from bench.evaluation.judge import vote
from bench.evaluation.run import Prepared
from bench.plugins.as_defense import draws_by_block
from bench.results.progress import Work
from bench.results.stats import worsens
from bench.results.store import read_rows
from bench.results.workspace import Workspace
from bench.verification.problem import Problem
from bench.verification.recompute import CheckedCell, Report
from bench.verification.rejudge import read_cell, rebuild, repeat
from bench.verification.stored import Shown, shown

_ALLOWED = 0.005  # the share of verdicts that another machine's rounding may change
_ALONE = 16  # images of a cell that are judged alone and beside foreign ones
_LEVEL = 0.01  # of the test whether another batch moves more images than other noise


def revote(report: Report, *, workspace: Workspace) -> Work[Report]:
    """Judge every cell again from its stored images and add what differs to the report."""
    cells = []
    for checked in report.cells:
        cells.append((yield from _revoted(checked, workspace)))
    return replace(report, cells=tuple(cells))


def _revoted(checked: CheckedCell, workspace: Workspace) -> Work[CheckedCell]:
    try:
        cell = read_cell(workspace.store, checked.key)
        rows = read_rows(workspace.store.outcomes(checked.key))
        again = yield from repeat(cell, workspace=workspace)
        found = difference(rows, again)
        if found is None:
            prepared = yield from rebuild(cell, workspace=workspace)
            found = _in_other_company(prepared, rows, workspace)
    except BenchError as error:
        found = Problem(False, f"votes: {error}")
    if found is None:
        return checked
    return replace(checked, findings=(*checked.findings, found))


def _in_other_company(
    prepared: Prepared, rows: pd.DataFrame, workspace: Workspace
) -> Problem | None:
    """Return how many images are voted otherwise alone or beside foreign ones; None for none.

    Rounding may move one of them. Where noise is known to go by the block it may move as many
    as other streams do.
    """
    moved, by_chance = [], []
    for seen in shown(prepared, rows, workspace=workspace, most=_ALONE):
        for votes in (votes_alone, votes_beside):
            moved.append(_elect_another(votes, prepared, seen, seen.rng))
            if draws_by_block(prepared.defense.purifier):
                other = seen.rng.fork("other", votes.__name__)
                by_chance.append(_elect_another(_votes_together, prepared, seen, other))
    n, voted = int(sum(map(np.sum, moved))), sum(map(len, moved))
    if n <= 1 or n <= _ALLOWED * voted:
        return None
    if by_chance and worsens(~np.concatenate(by_chance), ~np.concatenate(moved)) > _LEVEL:
        return None
    return Problem(
        True,
        f"{n} of {voted} votes on single images and beside foreign ones elect another "
        "class: the verdicts depend on the batch",
    )


def _elect_another(
    votes: Callable[..., Tensor], prepared: Prepared, seen: Shown, rng: Rng
) -> npt.NDArray[np.bool_]:
    """Find the images that elect another class than they did for the judge."""
    cell = prepared.cell
    found = votes(
        prepared.defense, seen.x, seen.y, draws=cell.draws, rng=rng, sequential=cell.sequential
    )
    other: npt.NDArray[np.bool_] = (found.argmax(1) != seen.votes.argmax(1)).cpu().numpy()
    return other


def _votes_together(defense: Defense, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return vote(defense, x, y, **options).votes


def difference(stored: pd.DataFrame, again: pd.DataFrame) -> Problem | None:
    """Return how the verdicts of two judgements differ; None where every vote is the same."""
    if not np.array_equal(stored["index"], again["index"]):
        return Problem(True, "judged again, it has rows of other images")
    if stored.empty:  # cheaper attacks left the cell no image
        return None
    votes = verdicts = np.zeros(len(stored), bool)
    for name in ("clean_votes", "votes"):
        one, other = (np.stack(list(frame[name])) for frame in (stored, again))
        if one.shape != other.shape:
            return Problem(True, f"judged again, '{name}' have other classes")
        votes = votes | (one != other).any(1)
    for name in ("clean", "robust"):
        verdicts = verdicts | (stored[name] != again[name]).to_numpy()
    if not (votes.any() or verdicts.any()):
        return None
    wrong = bool(verdicts.mean() > _ALLOWED)
    text = (
        f"judged again, votes differ on {votes.sum()} and verdicts on {verdicts.sum()} of "
        f"{len(stored)} images"
    )
    if not wrong:
        text += " (on the machine that made them it has to be 0)"
    return Problem(wrong, text)
