"""The images of a figure: clean ones, and attacked ones that it shares with `bench run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core.access import view_of
from bench.core.batch_size import in_blocks
from bench.core.border import blamed
from bench.core.protocols import EnergyPurifier, Images, SteppedPurifier, fits
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.errors import PluginError, UsageError
from bench.evaluation.propose import propose
from bench.evaluation.run import Prepared
from bench.experiments.prepare import Plugins, prepare
from bench.results.progress import Progress, Work
from bench.results.workspace import Workspace


@dataclass(frozen=True)
class Attacked:
    """The first test images and ``x_adv`` (N, C, H, W), what an attack made of them."""

    prepared: Prepared
    images: Images
    x_adv: Tensor

    @property
    def streams(self) -> Rng:
        """The figure's own noise: neither the attack's nor the judge's."""
        return Rng.seeded(self.prepared.cell.seed, self.images.indices).fork("figure")


def prepared_for(plugins: Plugins, *, workspace: Workspace, figure: str) -> Work[Prepared]:
    """Load or train what a figure of energies needs; raises UsageError where it has none."""
    if plugins.impossible:
        raise UsageError(f"this combination is not supported: {plugins.impossible}.")
    workspace.store.probe()
    prepared = yield from prepare(plugins, workspace=workspace)
    if not fits(prepared.defense.purifier, EnergyPurifier):
        raise UsageError(
            f"the defense '{plugins.request.defense}' has no energy, which '{figure}' shows. "
            "Choose one whose purifier has an `energy`, such as ebm or adv_ebm."
        )
    return prepared


def attacked(prepared: Prepared, *, count: int, workspace: Workspace) -> Work[Attacked]:
    """Attack the first ``count`` images, or read what a run of the same cell proposed.

    Whole shards are attacked, as `bench run` would, so that neither attacks anything twice.
    """
    cell, defense = prepared.cell, prepared.defense
    view = view_of(defense, cell.threat.access)
    bare = view.access is Access.TRANSFER
    networks = {"classifier": defense.classifier} if bare else defense.networks()
    found = []
    shards = [(start, stop) for start, stop in cell.shards() if start < count]
    for number, (start, stop) in enumerate(shards):
        what = f"{cell.defense.name} under {cell.attack.name}"
        yield Progress(what, number, len(shards), unit="shards")
        proposal = propose(
            prepared.attack,
            view,
            prepared.pixels.images(start, stop).to(workspace.device),
            threat=cell.threat,
            seed=cell.seed,
            networks=networks,
            path=workspace.store.proposal(cell.proposal_key(), start, stop),
        )
        found.append(proposal.x_adv)
    images = prepared.pixels.images(0, count).to(workspace.device)
    return Attacked(prepared, images, torch.cat(found)[:count])


def energies(prepared: Prepared, x: Tensor) -> np.ndarray:
    """Measure the energy (N,) of images (N, C, H, W)."""
    purifier = prepared.defense.purifier
    assert fits(purifier, EnergyPurifier)
    name = f"the energy of the purifier {type(purifier).__name__}"

    def of(part: slice) -> Tensor:
        with blamed(name):
            found = purifier.energy(x[part])
        if not isinstance(found, Tensor) or found.shape != x[part].shape[:1]:
            raise PluginError(f"{name} is no number per image. Return one tensor (N,).")
        return found

    return _of_parts(of, x).cpu().numpy()


def predictions(prepared: Prepared, x: Tensor) -> np.ndarray:
    """Name the class (N,) that the bare classifier sees in images (N, C, H, W)."""
    classify = prepared.defense.classify
    return _of_parts(lambda part: classify(x[part]).argmax(1), x).cpu().numpy()


def purified(prepared: Prepared, x: Tensor, *, rng: Rng) -> Tensor:
    """Purify images (N, C, H, W) once."""
    defense = prepared.defense
    return _of_parts(lambda part: defense.purify(x[part], rng=rng[part]), x)


def path(prepared: Prepared, x: Tensor, *, rng: Rng) -> Iterator[Tensor]:
    """Yield images (N, C, H, W) after each purification step; raises UsageError.

    The noise has the distribution of the defense's own, drawn from other streams.
    """
    purifier, name = prepared.defense.purifier, prepared.cell.defense.name
    steps = prepared.cell.defense.params.get("steps")
    if not fits(purifier, SteppedPurifier) or steps is None:
        raise UsageError(
            f"the defense '{name}' does not purify step by step: a strip needs a purifier with "
            "`step` and a parameter `steps`, such as ebm or adv_ebm."
        )
    with torch.no_grad():
        for k in range(steps):
            x = prepared.defense.purification_step(x, rng=rng.fork("step", k))
            yield x


def about(*prepared: Prepared) -> dict[str, Any]:
    """Return what a figure's numbers depend on: checkpoints, cells and the seed."""
    cells = [one.cell for one in prepared]
    parts = [part for cell in cells for part in (cell.classifier, cell.defense)]
    return {
        "seed": cells[0].seed,
        "checkpoints": _digests(parts),
        "data": cells[0].data,
        "cells": [cell.canonical() for cell in cells],
    }


def _digests(parts: Any) -> Mapping[str, str]:
    return {part.name: part.checkpoint for part in parts if part.checkpoint}


def _of_parts(work: Callable[[slice], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat(in_blocks(work, len(x), draws=1, device=x.device))
