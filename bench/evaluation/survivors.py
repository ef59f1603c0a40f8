"""Cheap attacks first, expensive ones on survivors: the same minimum per image at less cost.

An image that one attack broke stays broken whatever the others do, so that no other attack
has to see it. (Of attacks whose images do not depend on their batch; AutoAttack's noise on a
stochastic view does.) A cell on survivors names the cells before it, which makes its images a
fixed list; an attack that takes a warm start begins at the best image that those cells found.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.core.protocols import Images
from bench.errors import StoreError
from bench.results.cell import Cell
from bench.results.files import read_json
from bench.results.store import Store, read_rows


def survivors_of(cell: Cell, *, store: Store) -> set[int] | None:
    """Return the images that every cell before this one left robust; None for all images."""
    if not cell.after:
        return None
    frames = [read_rows(store.outcomes(key)) for key in cell.after]
    return set.intersection(*(set(one["index"][one["robust"].astype(bool)]) for one in frames))


def left_over(images: Images, survivors: set[int] | None) -> Images:
    """Keep the survivors among the images of a shard."""
    if survivors is None:
        return images
    return images[torch.tensor([int(i) in survivors for i in images.indices], dtype=torch.bool)]


def best_before(
    cell: Cell, images: Images, shards: list[tuple[int, int]], *, store: Store
) -> Tensor:
    """Return the best proposals (N, C, H, W) of the cells before this one, for images (N,).

    Best is what the fewest draws of the judge classified right; the first one among equals.
    """
    x = images.x.clone()
    least = np.full(len(x), np.inf)
    place = {index: row for row, index in enumerate(images.indices.tolist())}
    for key in cell.after:
        outcomes = read_rows(store.outcomes(key))
        for start, stop in shards:
            frame = outcomes[(outcomes["index"] >= start) & (outcomes["index"] < stop)]
            if frame.empty:
                continue
            proposed = _proposed(key, start, stop, store=store).to(x)
            votes = np.stack(list(frame["votes"]))
            labels = frame["label"].to_numpy()
            shares = votes[np.arange(len(frame)), labels] / votes.sum(1)
            shares = np.where(frame["legal"], shares, np.inf)
            asked = np.array([index in place for index in frame["index"]])
            here = np.array([place.get(index, 0) for index in frame["index"]])
            taken = np.flatnonzero(asked & (shares < least[here]))
            x[torch.from_numpy(here[taken]).to(x.device)] = proposed[
                torch.from_numpy(taken).to(x.device)
            ]
            least[here[taken]] = shares[taken]
    return x


def _proposed(key: str, start: int, stop: int, *, store: Store) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    before = Cell.read(read_json(store.cell(key) / "cell.json"))
    path = store.proposal(before.proposal_key(), start, stop)
    try:
        return load_file(path)["x_adv"]
    except (KeyError, OSError, SafetensorError) as error:
        raise StoreError(
            f"a warm start needs the images of cell {key}, and {path} cannot be read: {error}. "
            "Delete the cell's folder to make them again, or --set attack.warm=false."
        ) from error
