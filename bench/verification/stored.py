"""What the judge of a stored cell was shown: images, labels, votes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.core.geometry import rounded
from bench.core.rng import Rng
from bench.evaluation.run import Prepared
from bench.results.workspace import Workspace


@dataclass(frozen=True)
class Shown:
    """Images x (N, C, H, W) with labels y (N,), the judge's streams (N,), its votes (N, K)."""

    what: str
    x: Tensor
    y: Tensor
    rng: Rng
    votes: Tensor


def shown(
    prepared: Prepared, rows: pd.DataFrame, *, workspace: Workspace, most: int
) -> Iterator[Shown]:
    """Read what the judge saw in a cell's first shard: ``most`` clean and attacked images."""
    from safetensors.torch import load_file

    cell, device = prepared.cell, workspace.device
    for start, stop in cell.shards():
        here = rows[(rows["index"] >= start) & (rows["index"] < stop)]
        if not here.empty:
            break
    else:
        return
    path = workspace.store.proposal(cell.proposal_key(), start, stop)
    found = load_file(path)["x_adv"].float()
    index = torch.tensor(here["index"].to_numpy(np.int64))
    if len(found) == stop - start:
        found = found[index - start]
    here, index, found = here[:most], index[:most], found[:most].to(device)
    images = prepared.pixels.images(start, stop)[index - start].to(device)
    if cell.bits:
        found = rounded(found, images.x, cell.bits)
    legal = torch.tensor(here["legal"].to_numpy(dtype=bool), device=device)
    attacked = torch.where(legal.reshape(-1, 1, 1, 1), found, images.x)
    judging = Rng.seeded(cell.seed, images.indices).fork("judge")
    for what, column, purpose, x in (
        ("clean", "clean_votes", "clean", images.x),
        ("attacked", "votes", "adversarial", attacked),
    ):
        votes = torch.from_numpy(np.stack(list(here[column]))).to(device)
        yield Shown(what, x, images.y, judging.fork(purpose), votes)
