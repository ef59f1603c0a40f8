"""The adversarial images that RobustBench's issue form asks for: one tensor, one per image."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.core.geometry import rounded, size
from bench.core.threat import Norm
from bench.data.load import load_test
from bench.deposits.leaderboard import Entry
from bench.errors import DataError, StoreError
from bench.evaluation.judge import TOLERANCE
from bench.results.cell import Cell
from bench.results.store import Store
from bench.results.workspace import Workspace


def adversarial(workspace: Workspace, made: Entry) -> Tensor:
    """Return for each image one that broke it, else the clean one: (n, C, H, W) float32.

    Raises StoreError where the images of a cell are not there, and DataError.
    """
    content = made.content
    pixels = load_test(content["dataset"], root=workspace.data, first=content["n"])
    if pixels.digest != content["data"]:
        raise DataError(
            f"the data set {content['dataset']} is not the one that was measured. Name its "
            "folder with --data."
        )
    found = pixels.images(0, content["n"]).x.clone()
    left = np.ones(content["n"], bool)
    for key in made.rows:
        cell = Cell.read(made.cells[key])
        rows = made.rows[key]
        index = rows["index"].to_numpy(np.int64)
        broke = (rows["clean"] & ~rows["robust"]).to_numpy(bool)
        for start, stop in cell.shards():
            block = np.flatnonzero((index >= start) & (index < stop))
            taken = block[broke[block] & left[index[block]]]
            if not len(taken):
                continue
            x_adv = _read(workspace.store, cell, (start, stop))
            whole = len(x_adv) == stop - start
            places = index[taken] - start if whole else np.searchsorted(block, taken)
            where = torch.from_numpy(index[taken])
            shown = x_adv[torch.from_numpy(places)]
            found[where] = rounded(shown, found[where], cell.bits) if cell.bits else shown
            left[index[taken]] = False
    _check(found, pixels.images(0, content["n"]).x, Cell.read(content))
    return found


def _read(store: Store, cell: Cell, shard: tuple[int, int]) -> Tensor:
    path = store.proposal(cell.proposal_key(), *shard)
    if not path.is_file():
        raise StoreError(
            f"the images of cell {cell.key()} are not in {path.parent} (git does not track "
            "them). Copy that folder from where the cell was made, or write the card only: "
            "--without-images."
        )
    return load_file(path)["x_adv"].float()


def _check(x_adv: Tensor, x: Tensor, cell: Cell) -> None:
    """Raise StoreError unless the images are in box and ball, measured in float64."""
    norm = Norm(cell.threat.norm)
    distance = size(x_adv.double() - x.double(), norm)
    legal = (distance <= cell.threat.radius + TOLERANCE) & (
        ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    )
    if not bool(legal.all()):
        raise StoreError(
            f"{int((~legal).sum())} stored images are outside of the ball, although their "
            "cells are not void: `bench verify` says which cell was changed."
        )
