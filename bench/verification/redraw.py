"""Draw the votes of stored certificates again, with the defense loaded afresh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bench.certification.run import drawn
from bench.errors import BenchError
from bench.evaluation.run import Prepared
from bench.experiments.found_again import found_again
from bench.experiments.prepare import outline, prepare, resolve
from bench.results.cell import Cell
from bench.results.certificates import certificates, folder_of
from bench.results.progress import Progress, Work
from bench.results.workspace import Workspace
from bench.verification.problem import Problem

_ALLOWED = 0.005  # the share of classes and radii that another machine's rounding may change
_CLOSE = 0.05  # by which it may change a radius, as a share of sigma


def redrawn(*, workspace: Workspace) -> Work[list[Problem]]:
    """Draw every certificate again; list those whose votes are others."""
    found = []
    for one in certificates(workspace.store):
        said = f"certificate {one.key}"
        try:
            made = yield from _loaded(Cell.read(one.content), workspace)
            classes, radii, same = [], [], True
            for start, stop in made.cell.shards():
                yield Progress(f"{said} again", start, made.cell.n, unit="images")
                rows, _ = drawn(made, (start, stop), device=workspace.device)
                classes.append(rows["class"])
                radii.append(rows["radius"])
                stored = np.stack(list(one.rows["votes"][start:stop]))
                same = same and np.array_equal(np.stack(rows["votes"]), stored)
        except BenchError as error:
            found.append(Problem(False, f"{said}: votes: {error}"))
            continue
        sigma = made.cell.attack.params["sigma"]
        other = np.concatenate(classes) != one.rows["class"].to_numpy()
        moved = np.abs(np.concatenate(radii) - one.rows["radius"].to_numpy()) > _CLOSE * sigma
        found += _said(said, int((other | moved).sum()), len(other), same=same)
    return found


def _said(said: str, moved: int, n: int, *, same: bool) -> Iterator[Problem]:
    if moved or not same:
        text = f"{said}: drawn again, classes or radii differ on {moved} of {n} images"
        yield Problem(moved > _ALLOWED * n, text + ("" if moved else ", and votes elsewhere"))


def _loaded(cell: Cell, workspace: Workspace) -> Work[Prepared]:
    """Load what was certified; raises BenchError where it is not at hand."""
    asked = found_again(cell, folder_of(workspace.store), parts=("classifier", "defense"))
    settings = {name: value for name, value in asked.settings.items() if name != "attack"}
    plugins = resolve(replace(asked, attack="noise", access=None, settings=settings))
    here, untrained = outline(plugins, workspace)
    parts = ((here.classifier, cell.classifier), (here.defense, cell.defense))
    if here.data != cell.data or untrained or any(one != other for one, other in parts):
        raise BenchError("its data set, classifier or defense is not the one at hand")
    prepared = yield from prepare(plugins, workspace=workspace)
    return replace(prepared, cell=cell)
