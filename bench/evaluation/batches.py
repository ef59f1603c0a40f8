"""Attack several shards of a cell in one batch, where a device would idle on one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from bench.core.defense import Defense
from bench.evaluation.propose import keep
from bench.evaluation.run import Prepared, attacked
from bench.evaluation.survivors import left_over
from bench.results.locks import Shard, alone, share
from bench.results.progress import Work
from bench.results.workspace import Workspace

_TOGETHER = 500  # images: more keep a GPU hardly busier, and leave other GPUs without work


def attack_in_batches(
    prepared: Prepared,
    searched: Defense,
    survivors: set[int] | None,
    *,
    workspace: Workspace,
) -> Work[None]:
    """Attack the missing shards of a cell, in batches; keep their proposals.

    A batch is always the same images, whichever shards are missing, so that their bits depend
    neither on the number of workers nor on an interruption. Only attacks that say that no image
    depends on another one are run like this.
    """
    cell, store = prepared.cell, workspace.store
    by_block = getattr(prepared.defense.purifier, "by_block", False)
    if by_block or not getattr(prepared.attack, "independent", False):
        return
    key, count = cell.proposal_key(), max(1, _TOGETHER // cell.shard)
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
            _attack_batch(prepared, searched, batch, batches[batch], survivors, workspace)

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
    workspace: Workspace,
) -> None:
    """Attack a batch and keep the proposals that are missing, shard by shard."""
    images = left_over(prepared.pixels.images(*batch), survivors).to(workspace.device)
    whole = attacked(prepared, searched, images, shards, None, store=workspace.store)
    for shard in shards:
        rows = (images.indices >= shard[0]) & (images.indices < shard[1])
        path = workspace.store.proposal(prepared.cell.proposal_key(), *shard)
        if not path.is_file():
            keep(path, replace(whole, x_adv=whole.x_adv[rows]))
        # The cost is that of the first shard, for it was paid once.
        whole = replace(whole, passes={}, seconds=0.0)
