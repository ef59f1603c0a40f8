"""Repeat votes in a process that is told nothing but images and numbers to draw from.

There is no judge, no attack and no audit in that process, no image index and no purpose: a
defense that recognises one of them cannot vote there as it did for the judge.
"""

from __future__ import annotations

import multiprocessing
import secrets
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from bench.core.access import view_of
from bench.core.batch_size import in_blocks
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.errors import BenchError, PluginError
from bench.evaluation.judge import elected
from bench.results.cell import Cell
from bench.results.progress import Progress, Work, finish
from bench.results.stats import exceeds, worsens
from bench.results.store import read_rows
from bench.results.workspace import Workspace
from bench.verification.problem import Problem
from bench.verification.recompute import CheckedCell, Report
from bench.verification.rejudge import read_cell, rebuild
from bench.verification.stored import Shown, shown

_IMAGES = 64  # of a cell
_ROUNDING = 0.01  # the share of images that another process may move
_LEVEL = 0.01  # of the exact tests

Array = npt.NDArray[Any]


def blind(report: Report, *, workspace: Workspace) -> Work[Report]:
    """Compare the votes of every cell with those of a blind process; add what differs."""
    cells: list[CheckedCell] = []
    for checked in report.cells:
        yield Progress("blind votes", len(cells), len(report.cells), unit="cells")
        try:
            found = yield from _difference(read_cell(workspace.store, checked.key), workspace)
        except BenchError as error:
            # What worked for the judge and fails here is a difference; the rest is missing.
            found = Problem(isinstance(error, PluginError), f"blind votes: {error}")
        more = () if found is None else (found,)
        cells.append(replace(checked, findings=(*checked.findings, *more)))
    return replace(report, cells=tuple(cells))


def _difference(cell: Cell, workspace: Workspace) -> Work[Problem | None]:
    """Return how the stored verdicts differ from those of a blind process; None for chance."""
    prepared = yield from rebuild(cell, workspace=workspace)
    rows = read_rows(workspace.store.outcomes(cell.key()))
    sights = list(shown(prepared, rows, workspace=workspace, most=_IMAGES))
    said = []
    for seen, votes in zip(sights, _blind_votes(cell, sights, workspace), strict=True):
        was, now = (elected(each.cpu(), seen.y.cpu()).numpy() for each in (seen.votes, votes))
        moved, n = int((was != now).sum()), len(was)
        if prepared.defense.stochastic:
            wrong = min(worsens(was, now), worsens(now, was)) <= _LEVEL / 2
        else:
            wrong = moved > 1 and exceeds(moved, n, _ROUNDING) <= _LEVEL
        if wrong:
            said.append(f"{moved} of {n} {seen.what} images")
    if not said:
        return None
    return Problem(
        True,
        f"in a process that sees tensors only, other verdicts on {' and '.join(said)}: the "
        "defense depends on who calls it, on its streams or on what was called before",
    )


def _blind_votes(cell: Cell, sights: list[Shown], workspace: Workspace) -> list[Tensor]:
    """Vote in a fresh process on what the judge saw; raises PluginError where it dies."""
    tasks = []
    for seen in sights:
        numbers = [secrets.randbits(62) for _ in range(len(seen.x))]
        tasks.append((seen.x.cpu().numpy(), numbers))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            found = pool.submit(_work, cell.canonical(), workspace, tasks).result()
        except BrokenProcessPool as error:
            raise PluginError("the process died: see above for what it said.") from error
    return [torch.from_numpy(votes) for votes in found]


def _work(
    content: dict[str, Any], workspace: Workspace, tasks: list[tuple[Array, list[int]]]
) -> list[Array]:
    cell = Cell.read(content)
    defense = finish(rebuild(cell, workspace=workspace)).defense
    access = Access.FULL if defense.purifier.differentiable else Access.BPDA
    view, draws = view_of(defense, access), cell.draws if defense.stochastic else 1
    found = []
    for x, numbers in tasks:
        images = torch.from_numpy(x).to(workspace.device)
        rng = Rng.seeded(0, numbers, device=workspace.device)
        found.append(_counted(view, images, rng=rng, draws=draws).cpu().numpy())
    return found


def _counted(view: View, x: Tensor, *, rng: Rng, draws: int) -> Tensor:
    """Count votes (N, K) on x (N, C, H, W), with gradients on as for an attack."""

    def of(block: slice) -> Tensor:
        images = x[block].clone().requires_grad_()
        logits = view(images, rng=rng[block].repeat(draws)).detach()
        seen = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
        votes: Tensor = seen.reshape(-1, draws, logits.shape[1]).sum(1)
        return votes

    return torch.cat(in_blocks(of, len(x), draws=draws, device=x.device))
