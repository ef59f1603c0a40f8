"""Repeat the votes of verified cells in this process, with the defense loaded afresh.

They are repeated block by block as the judge did, then on single images and beside foreign
ones. Of a defense that draws from generators of the process only the first can be asked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from bench.core.isolation import generator_states, isolated
from bench.errors import BenchError
from bench.evaluation.batch_votes import votes_alone, votes_beside
from bench.evaluation.run import Prepared
from bench.results.files import read_json
from bench.results.progress import Work
from bench.results.provenance import BY_BLOCK
from bench.results.store import read_rows
from bench.results.workspace import Workspace
from bench.verification.problem import Problem
from bench.verification.recompute import CheckedCell, Report
from bench.verification.rejudge import read_cell, rebuild, repeat
from bench.verification.stored import shown

_ALLOWED = 0.005  # the share of verdicts that another machine's rounding may change
_ALONE = 16  # images of a cell that are judged alone and beside foreign ones
_BY_BLOCK = (
    f"votes on single images and beside foreign ones: {BY_BLOCK}, the defense draws from other "
    "streams than an image's own. Votes were repeated block by block"
)


def revote(report: Report, *, workspace: Workspace) -> Work[Report]:
    """Judge every cell again from its stored images and add what differs to the report."""
    cells = []
    for checked in report.cells:
        cells.append((yield from _revoted(checked, workspace)))
    return replace(report, cells=tuple(cells))


def _revoted(checked: CheckedCell, workspace: Workspace) -> Work[CheckedCell]:
    findings = checked.findings
    try:
        cell = read_cell(workspace.store, checked.key)
        rows = read_rows(workspace.store.outcomes(checked.key))
        again = yield from repeat(cell, workspace=workspace)
        findings = tuple(one for one in findings if not one.until_loaded)
        found = difference(rows, again)
        if found is None:
            prepared = yield from rebuild(cell, workspace=workspace)
            found = _in_other_company(prepared, rows, workspace)
    except BenchError as error:
        found = Problem(False, f"votes: {error}")
    return replace(checked, findings=findings if found is None else (*findings, found))


def _in_other_company(
    prepared: Prepared, rows: pd.DataFrame, workspace: Workspace
) -> Problem | None:
    """Return how many images are voted otherwise alone or beside foreign ones; None for none.

    Rounding may move one of them. What draws from generators of the process is not asked.
    """
    cell, moved, voted = prepared.cell, 0, 0
    about = read_json(workspace.store.cell(cell.key()) / "provenance.json")
    if BY_BLOCK in about["flags"]:
        return Problem(False, _BY_BLOCK)
    for seen in shown(prepared, rows, workspace=workspace, most=_ALONE):
        for votes in (votes_alone, votes_beside):
            with isolated(cell.seed):
                before = generator_states()
                found = votes(
                    prepared.defense,
                    seen.x,
                    seen.y,
                    draws=cell.draws,
                    rng=seen.rng,
                    sequential=cell.sequential,
                )
                if generator_states() != before:
                    return Problem(False, _BY_BLOCK)
            moved += int((found.argmax(1) != seen.votes.argmax(1)).sum())
            voted += len(found)
    if moved <= 1 or moved <= _ALLOWED * voted:
        return None
    return Problem(
        True,
        f"{moved} of {voted} votes on single images and beside foreign ones elect another "
        "class: the verdicts depend on the batch",
    )


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
