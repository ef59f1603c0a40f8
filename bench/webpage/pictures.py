"""Chosen images of each defense: clean, as the attack left them, and purified step by step."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.core.access import view_of
from bench.core.protocols import SteppedPurifier, fits
from bench.errors import BenchError, StoreError, UsageError
from bench.evaluation.propose import propose
from bench.evaluation.run import Prepared
from bench.figures.images import Attacked, path, predictions, purified
from bench.figures.strips import chosen as chosen_steps
from bench.figures.strips import shown
from bench.results.progress import Progress, Work
from bench.results.store import read_rows
from bench.results.workspace import Workspace
from bench.verification.rejudge import read_cell, rebuild
from bench.webpage.chosen import Chosen
from bench.webpage.defenses import Told

MOST = 50  # strips on a page
_EXACT = 48  # pixels of a side, up to which a picture is stored as it is
_SIDE = 112  # pixels of a side of any other, which is compressed


@dataclass(frozen=True)
class Picture:
    """One image as a data URI, what it is, what it is taken for, and all of it in words."""

    source: str
    head: str
    said: str
    alt: str


@dataclass(frozen=True)
class Strip:
    """The pictures of one image of a defense, and the cell whose attack made it."""

    title: str
    image: str
    key: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Strips:
    """The strips of a page, and why others are missing."""

    found: tuple[Strip, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Wanted:
    """An image of a cell: its row in the outcomes, and how the attacks ended."""

    key: str
    row: Any
    end: str


def strips(
    chosen: Chosen, told: Sequence[Told], indices: Sequence[int], *, workspace: Workspace
) -> Work[Strips]:
    """Read stored images and purify them; raises BenchError where there is none to show.

    Each image is that of the attack that broke it first, else of the last one that it survived.
    """
    kinds = [one for one in told if one.story is not None]
    wanted = {one.anchor: _wanted(chosen, one, indices) for one in kinds}
    count = sum(map(len, wanted.values()))
    if not count:
        raise UsageError(
            f"no cell has an image {', '.join(map(str, indices))}: choose from the first n, "
            "which are 0 to n - 1."
        )
    if count > MOST:
        raise UsageError(
            f"{count} strips are too many for a page, which has at most {MOST}. Choose fewer "
            "images, or one defense."
        )
    found: list[Strip] = []
    errors: list[tuple[Told, BenchError]] = []
    for number, one in enumerate(kinds):
        yield Progress(f"pictures of {one.title}", number, len(kinds))
        try:
            if wanted[one.anchor]:
                found += yield from _of_defense(chosen, one, wanted[one.anchor], workspace)
        except BenchError as error:
            errors.append((one, error))
    if not found:
        raise errors[0][1]
    return Strips(tuple(found), tuple(f"{one.title}: {error}" for one, error in errors))


def _wanted(chosen: Chosen, one: Told, indices: Sequence[int]) -> list[_Wanted]:
    frames = {
        key: read_rows(chosen.store.outcomes(key)).set_index("index", drop=False)
        for key in one.keys
    }
    sound = {key: frame for key, frame in frames.items() if frame["legal"].all()}
    found = []
    for index in dict.fromkeys(indices):
        tried = [
            (key, frame.loc[index]) for key, frame in sound.items() if index in frame.index
        ]
        if not tried:
            continue
        broke = next((pair for pair in tried if not pair[1]["robust"]), None)
        key, row = broke or tried[-1]
        attack = chosen.contents[key]["attack"]["name"]
        end = (
            f"it survives everything, last {attack}" if broke is None
            else f"broken by {attack}" if row["clean"]
            else f"wrong without an attack; attacked by {attack}"
        )  # fmt: skip
        found.append(_Wanted(key, row, f"{end} ({chosen.contents[key]['access']})"))
    return found


def _of_defense(
    chosen: Chosen, one: Told, wanted: list[_Wanted], workspace: Workspace
) -> Work[list[Strip]]:
    store = chosen.store
    for image in wanted:
        file = _stored(chosen, image)
        if not file.is_file():
            raise StoreError(
                f"the images that its attacks made are not stored here ({file}): they are not "
                "tracked in git. Copy that folder from where the cell was made, or leave "
                "--image out."
            )
    prepared = yield from rebuild(read_cell(store, one.keys[0]), workspace=workspace)
    found = []
    for image in wanted:
        cell = read_cell(store, image.key)
        found.append(_strip(replace(prepared, cell=cell), one, image, chosen, workspace))
    return found


def _shard(chosen: Chosen, image: _Wanted) -> tuple[int, int]:
    cell, index = chosen.contents[image.key], int(image.row["index"])
    start = index - index % cell["shard"]
    return start, min(start + cell["shard"], cell["n"])


def _stored(chosen: Chosen, image: _Wanted) -> Any:
    key = read_cell(chosen.store, image.key).proposal_key()
    return chosen.store.proposal(key, *_shard(chosen, image))


def _strip(
    prepared: Prepared, one: Told, image: _Wanted, chosen: Chosen, workspace: Workspace
) -> Strip:
    start, stop = _shard(chosen, image)
    rows = read_rows(chosen.store.outcomes(image.key))["index"]
    here = rows[(rows >= start) & (rows < stop)]  # those that cheaper attacks left
    images = prepared.pixels.images(start, stop)
    images = images[torch.tensor([int(i) in set(here) for i in images.indices])]
    proposal = propose(
        prepared.attack,  # refuses: what is not stored is not made here
        view_of(prepared.defense, prepared.cell.threat.access),
        images.to(workspace.device),
        threat=prepared.cell.threat,
        seed=prepared.cell.seed,
        networks={},
        path=_stored(chosen, image),
    )
    index = int(image.row["index"])
    place = images.indices == index
    attacked = Attacked(prepared, images[place].to(workspace.device), proposal.x_adv[place])
    pictures = tuple(_pictures(attacked, one, image, index))
    label = int(image.row["label"])
    return Strip(
        f"{one.title}: {one.place}",
        f"Image {index} of class {label}, {image.end}.",
        image.key,
        pictures,
    )


def _pictures(made: Attacked, one: Told, image: _Wanted, index: int) -> Iterator[Picture]:
    votes = [int(np.argmax(image.row[name])) for name in ("clean_votes", "votes")]
    stages = [("clean", made.images.x, votes[0]), ("attacked", made.x_adv, votes[1])]
    for head, x in _purified(made):
        stages.append((head, x, int(predictions(made.prepared, x)[0])))
    label = int(image.row["label"])
    for head, x, seen in stages:
        verdict = f"class {seen}" + ("" if seen == label else ", wrong")
        alt = f"Image {index} of {one.defense}, {head}: taken for {verdict}"
        yield Picture(_source(shown(x)[0]), head, verdict, alt)


def _purified(made: Attacked) -> Iterator[tuple[str, Tensor]]:
    prepared = made.prepared
    steps = prepared.cell.defense.params.get("steps")
    if not fits(prepared.defense.purifier, SteppedPurifier) or not steps:
        yield "purified", purified(prepared, made.x_adv, rng=made.streams)
        return
    kept = chosen_steps(steps)
    for k, x in enumerate(path(prepared, made.x_adv, rng=made.streams), 1):
        if k in kept:
            yield f"purified, {k} of {steps} steps", x


def _source(picture: np.ndarray) -> str:
    """Write a picture (H, W, C) in [0, 1] as a data URI: large ones smaller, compressed."""
    pixels = (255 * picture).round().astype(np.uint8)
    drawn = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    if max(drawn.size) <= _EXACT:
        drawn.save(buffer, "png", optimize=True)
        kind = "png"
    else:
        drawn.thumbnail((_SIDE, _SIDE))
        drawn.save(buffer, "webp", quality=80)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
