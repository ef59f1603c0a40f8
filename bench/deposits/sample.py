"""Votes on some of a cell's images once more, with the defense as it is on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from bench.core.geometry import rounded
from bench.core.isolation import isolated
from bench.core.protocols import Images
from bench.core.rng import Rng
from bench.deposits.same_votes import Compared, compared
from bench.deposits.unpack import Deposit
from bench.evaluation.judge import elected, judge, vote
from bench.evaluation.run import Prepared
from bench.results.files import read_json
from bench.results.provenance import BY_BLOCK
from bench.results.store import unchecked_rows
from bench.verification.problem import Problem

_SHOWN = 3  # images named in a message

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Judged:
    """How many images of a cell were judged again, whose votes moved, and what is wrong."""

    images: int
    moved: tuple[int, ...]
    problem: Problem | None


def judged_again(
    prepared: Prepared, places: list[int], deposit: Deposit, device: torch.device
) -> Judged:
    """Judge the rows of a cell at these places again; raises BenchError."""
    rows = unchecked_rows(deposit.store.outcomes(prepared.cell.key()))
    about = read_json(deposit.store.cell(prepared.cell.key()) / "provenance.json")
    flags = about.get("flags")
    # Its noise depends on who is in the block.
    whole = isinstance(flags, list) and BY_BLOCK in flags
    found: list[dict[str, Array]] = []
    index = rows["index"].to_numpy(np.int64)
    for start, stop in prepared.cell.shards():
        block = np.flatnonzero((index >= start) & (index < stop))
        wanted = np.intersect1d(block, places)
        if not len(wanted):
            continue
        shown = block if whole else wanted
        again = _block(prepared, rows, block, shown, (start, stop), deposit, device)
        chosen = np.searchsorted(shown, wanted)
        found.append({name: values[chosen] for name, values in again.items()})
    again = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    stored = rows.iloc[sorted(places)]
    said = [name for name in again if "logits" not in name]  # early cells have none
    try:
        result = compared({name: np.stack(list(stored[name])) for name in said}, again)
    except ValueError as error:
        return Judged(len(places), (), Problem(True, f"judged again, {error}"))
    moved = tuple(stored["index"].to_numpy(np.int64)[result.moved].tolist())
    return Judged(len(places), moved, _problem(stored, again, result))


def _block(
    prepared: Prepared,
    rows: pd.DataFrame,
    block: Array,
    shown: Array,
    shard: tuple[int, int],
    deposit: Deposit,
    device: torch.device,
) -> dict[str, Array]:
    """Judge the rows ``shown`` of a block; without attacked images only the clean ones."""
    cell, defense = prepared.cell, prepared.defense
    index = torch.from_numpy(rows["index"].to_numpy(np.int64)[shown])
    images = prepared.pixels.images(*shard)[index - shard[0]].to(device)
    chance = Rng.seeded(cell.seed, images.indices)
    with isolated(chance.fork("judge", "generators", shard[0]).integer()):
        if not deposit.images:
            return _clean(prepared, images, chance.fork("judge"))
        x_adv = _proposed(prepared, deposit, shard, np.searchsorted(block, shown), index)
        x_adv = x_adv.to(device)
        if cell.bits:
            x_adv = rounded(x_adv, images.x, cell.bits)
        outcomes = judge(
            defense, images.x, images.y, x_adv, threat=cell.threat, draws=cell.draws,
            rng=chance.fork("judge"), sequential=cell.sequential,
        )  # fmt: skip
    names = ("clean_votes", "clean_logits", "votes", "logits", "clean", "robust")
    return {name: getattr(outcomes, name).cpu().numpy() for name in names}


def _clean(prepared: Prepared, images: Images, rng: Rng) -> dict[str, Array]:
    """Vote on clean images only, as the judge does before it sees the attacked ones."""
    cell = prepared.cell
    ballot = vote(
        prepared.defense, images.x, images.y, draws=cell.draws, rng=rng.fork("clean"),
        sequential=cell.sequential,
    )  # fmt: skip
    found = {
        "clean_votes": ballot.votes,
        "clean_logits": ballot.logits,
        "clean": elected(ballot.votes, images.y),
    }
    return {name: values.cpu().numpy() for name, values in found.items()}


def _proposed(
    prepared: Prepared, deposit: Deposit, shard: tuple[int, int], places: Array, index: Tensor
) -> Tensor:
    """Read attacked images of a shard: of all its images, or of those with rows only."""
    from safetensors.torch import load_file

    path = deposit.store.proposal(prepared.cell.proposal_key(), *shard)
    x_adv = load_file(path)["x_adv"]
    if len(x_adv) == shard[1] - shard[0]:
        return x_adv[index - shard[0]]
    return x_adv[torch.from_numpy(places)]


def _problem(stored: pd.DataFrame, again: dict[str, Array], found: Compared) -> Problem | None:
    """Name the images that rounding does not explain; None where there is none."""
    if not found.wrong.any():
        return None
    index = stored["index"].to_numpy(np.int64)[found.wrong].tolist()
    text = f"judged again, rounding does not explain the votes of {named(index)}"
    places = np.flatnonzero(found.wrong).tolist()[:_SHOWN]
    return Problem(True, f"{text}: {'; '.join(_votes(stored, again, one) for one in places)}")


def named(index: Sequence[int]) -> str:
    """Name images in words."""
    names = ", ".join(map(str, index[:_SHOWN])) + (", ..." if len(index) > _SHOWN else "")
    return f"image {names}" if len(index) == 1 else f"{len(index)} images ({names})"


def _votes(stored: pd.DataFrame, again: dict[str, Array], place: int) -> str:
    """Write what was stored of the image at a place, and what is found."""
    row = stored.iloc[place]
    for name, what in (("votes", "votes"), ("clean_votes", "clean votes")):
        if name in again and (np.asarray(row[name]) != again[name][place]).any():
            said, found = (
                " ".join(map(str, one.tolist())) for one in (row[name], again[name][place])
            )
            return f"{what} of image {row['index']} are {said}, and here {found}"
    return f"the verdict on image {row['index']} does not follow from its votes"
