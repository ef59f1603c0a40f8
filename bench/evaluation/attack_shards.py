"""Attack one shard of a cell, or several in one batch where a device would idle on one."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.isolation import isolated
from bench.core.networks import digest_of_weights
from bench.core.precision import lowered
from bench.core.protocols import Images, WarmAttack
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.errors import PluginError
from bench.evaluation.propose import Proposal, keep, propose
from bench.evaluation.survivors import best_before, left_over
from bench.results.cell import Search
from bench.results.locks import Shard, alone, share
from bench.results.progress import Work
from bench.results.store import Store

if TYPE_CHECKING:
    from bench.evaluation.run import Prepared

# Images of a batch: more keep a GPU hardly busier, and leave other GPUs without work.
_TOGETHER = {"cpu": 0}
_ELSEWHERE = 500


def searched_of(prepared: Prepared) -> Defense:
    """Return the defense that the attack sees: a copy, so that it cannot change the judge's."""
    search = prepared.cell.search
    if prepared.cell.images:  # nothing is searched for
        return prepared.defense
    if search is not Search.FLOAT32:
        return lowered(prepared.defense, getattr(torch, search.value))
    try:
        return copy.deepcopy(prepared.defense)
    except (
        Exception
    ):  # a purifier may hold a lock, a file or a server: its weights are compared
        return prepared.defense


def attacked(
    prepared: Prepared, searched: Defense, images: Images, shard: Shard, *, store: Store
) -> Proposal:
    """Attack the images that are left of a shard, or read what an earlier run proposed."""
    path = store.proposal(prepared.cell.proposal_key(), *shard)
    start = _start(prepared, images, [shard], store=store)
    return _proposed(prepared, searched, images, shard, start=start, path=path)


def attacked_together(
    prepared: Prepared,
    searched: Defense,
    survivors: set[int] | None,
    *,
    store: Store,
    device: torch.device,
) -> Work[None]:
    """Attack the missing shards of a cell, some of them in one batch; keep their proposals.

    A batch is always the same images, whichever shards are missing, so that their bits depend
    neither on the number of workers nor on an interruption. Only attacks that say that no image
    depends on another one are run like this, and a CPU has no use for it.
    """
    cell = prepared.cell
    images = _TOGETHER.get(device.type, _ELSEWHERE)
    if (
        images <= cell.shard
        or not getattr(prepared.attack, "independent", False)
        or getattr(prepared.defense.purifier, "by_block", False)
    ):
        return
    key, count = cell.proposal_key(), images // cell.shard
    shards = [shard for shard in cell.shards() if _has_images(shard, survivors)]
    parts = [shards[at : at + count] for at in range(0, len(shards), count)]
    batches = {(part[0][0], part[-1][1]): part for part in parts if len(part) > 1}

    def unproposed() -> list[Shard]:
        missing = {
            shard for shard in store.missing(cell) if not store.proposal(key, *shard).is_file()
        }
        return [batch for batch, part in batches.items() if missing.intersection(part)]

    def attack(batch: Shard) -> None:
        with ExitStack() as held:
            for shard in batches[batch]:  # who attacks one by one waits for none meanwhile
                held.enter_context(alone(store.claim_on_shard(key, *shard)))
            _attack_batch(prepared, searched, batch, batches[batch], survivors, store, device)

    if unproposed():
        yield from share(
            f"{cell.defense.name} under {cell.attack.name}",
            cell.n,
            left=unproposed,
            claim=lambda batch: store.claim_on_shard(key, *batch).with_suffix(".batch"),
            work=attack,
        )


def _has_images(shard: Shard, survivors: set[int] | None) -> bool:
    return survivors is None or any(shard[0] <= index < shard[1] for index in survivors)


def _attack_batch(
    prepared: Prepared,
    searched: Defense,
    batch: Shard,
    shards: list[Shard],
    survivors: set[int] | None,
    store: Store,
    device: torch.device,
) -> None:
    """Attack a batch and keep the proposals that are missing, shard by shard."""
    images = left_over(prepared.pixels.images(*batch), survivors).to(device)
    start = _start(prepared, images, shards, store=store)
    whole = _proposed(prepared, searched, images, batch, start=start)
    for shard in shards:
        rows = (images.indices >= shard[0]) & (images.indices < shard[1])
        path = store.proposal(prepared.cell.proposal_key(), *shard)
        if not path.is_file():
            keep(path, replace(whole, x_adv=whole.x_adv[rows]))
        # The cost is that of the first shard, for it was paid once.
        whole = replace(whole, passes={}, seconds=0.0)


def _start(
    prepared: Prepared, images: Images, shards: list[Shard], *, store: Store
) -> Tensor | None:
    """Return where a warm attack begins (N, C, H, W); None where it begins at the images."""
    cell, attack = prepared.cell, prepared.attack
    if not (cell.after and isinstance(attack, WarmAttack) and attack.warm):
        return None
    found = []
    for start, stop in shards:
        rows = (images.indices >= start) & (images.indices < stop)
        found.append(best_before(cell, images[rows], start, stop, store=store))
    return torch.cat(found)


def _proposed(
    prepared: Prepared,
    searched: Defense,
    images: Images,
    block: Shard,
    *,
    start: Tensor | None,
    path: Path | None = None,
) -> Proposal:
    cell, defense, attack = prepared.cell, prepared.defense, prepared.attack
    view = view_of(searched, cell.threat.access)
    seen = searched.networks()
    if view.access is Access.TRANSFER:
        seen = {"classifier": searched.classifier}
    chance = Rng.seeded(cell.seed, images.indices)
    shared = digest_of_weights(defense) if searched is defense else None
    with isolated(chance.fork("attack", "generators", block[0]).integer()):
        proposal = propose(
            attack,
            view,
            images,
            threat=cell.threat,
            seed=cell.seed,
            networks=seen,
            path=path,
            start=start,
        )
    if searched is defense and shared != digest_of_weights(defense):
        raise PluginError(
            f"the attack {cell.attack.name} changed the weights of the defense. An attack only "
            "looks at it: work on a copy."
        )
    return proposal
