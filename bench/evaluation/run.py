"""One cell as one straight line: attack, judge, append, shard by shard."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.geometry import rounded
from bench.core.isolation import generator_states, isolated
from bench.core.networks import digest_of_weights
from bench.core.passes import count_passes
from bench.core.protocols import Attack, Images, Pixels, WarmAttack
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.errors import PluginError
from bench.evaluation.judge import Outcomes, judge
from bench.evaluation.propose import Proposal, propose
from bench.evaluation.survivors import best_before, left_over, survivors_of
from bench.plugins.remarks import remarks
from bench.results.cell import Cell, Search
from bench.results.locks import Shard, share
from bench.results.progress import Work
from bench.results.provenance import BY_BLOCK, joined, provenance
from bench.results.settings import NOTHING_SET, Settings
from bench.results.store import Store
from bench.results.workspace import Workspace

_ONE_BY_ONE = ["cpu"]  # devices that one shard keeps busy


@dataclass(frozen=True)
class Prepared:
    """A cell and everything it is measured with."""

    cell: Cell
    defense: Defense
    attack: Attack
    pixels: Pixels


def run_cell(
    prepared: Prepared, *, workspace: Workspace, settings: Settings = NOTHING_SET
) -> Work[None]:
    """Evaluate what is missing of a cell and store it; raises BenchError.

    ``settings`` is what the user set, for the table; the cell has all parameters.
    """
    cell, store = prepared.cell, workspace.store
    if store.done(cell):
        store.tidy(cell)  # for a process that died before it could
        return
    store.open(cell, settings)
    survivors = survivors_of(cell, store=store)
    searched = _searched(prepared)
    if workspace.device.type not in _ONE_BY_ONE:
        from bench.evaluation.batches import attack_in_batches

        yield from attack_in_batches(prepared, searched, survivors, workspace=workspace)

    def measure(shard: Shard) -> None:
        images = left_over(prepared.pixels.images(*shard), survivors)
        rows, cost = _measured(prepared, searched, images, shard, workspace=workspace)
        store.append(cell, shard[0], rows, {**cost, **provenance(workspace.device)})

    yield from share(
        f"{cell.defense.name} under {cell.attack.name}",
        cell.n,
        left=lambda: store.missing(cell),
        claim=lambda shard: store.claim_on_shard(cell.proposal_key(), *shard),
        work=measure,
    )
    store.finish(cell, joined)


def _searched(prepared: Prepared) -> Defense:
    """Return the defense that the attack sees: a copy, so that it cannot change the judge's."""
    search = prepared.cell.search
    if prepared.cell.images:  # nothing is searched for
        return prepared.defense
    if search is not Search.FLOAT32:
        from bench.core.precision import lowered

        return lowered(prepared.defense, getattr(torch, search.value))
    try:
        return copy.deepcopy(prepared.defense)
    except Exception:  # a lock, a file or a server in a purifier: its weights are compared
        return prepared.defense


def attacked(
    prepared: Prepared,
    searched: Defense,
    images: Images,
    shards: list[Shard],
    path: Path | None,
    *,
    store: Store,
) -> Proposal:
    """Attack what is left of shards as one block, or read what an earlier run kept at path."""
    cell, defense, attack = prepared.cell, prepared.defense, prepared.attack
    view = view_of(searched, cell.threat.access)
    seen = searched.networks()
    if view.access is Access.TRANSFER:
        seen = {"classifier": searched.classifier}
    start = None
    if cell.after and isinstance(attack, WarmAttack) and attack.warm:
        start = best_before(cell, images, shards, store=store)
    chance = Rng.seeded(cell.seed, images.indices)
    shared = digest_of_weights(defense) if searched is defense else None
    with isolated(chance.fork("attack", "generators", shards[0][0]).integer()):
        proposal = propose(
            attack, view, images, threat=cell.threat, seed=cell.seed, networks=seen, path=path,
            start=start,
        )  # fmt: skip
    if searched is defense and shared != digest_of_weights(defense):
        raise PluginError(
            f"the attack {cell.attack.name} changed the weights of the defense. An attack only "
            "looks at it: work on a copy."
        )
    return proposal


def _measured(
    prepared: Prepared, searched: Defense, images: Images, shard: Shard, *, workspace: Workspace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attack and judge the images that are left of a shard; return rows and cost."""
    cell, defense = prepared.cell, prepared.defense
    if len(images) == 0:
        return _NO_ROWS, _NO_COST
    images = images.to(workspace.device)
    path = workspace.store.proposal(cell.proposal_key(), *shard)
    proposal = attacked(prepared, searched, images, [shard], path, store=workspace.store)
    x_adv = proposal.x_adv
    if cell.bits:
        x_adv = rounded(x_adv, images.x, cell.bits)
    chance = Rng.seeded(cell.seed, images.indices)
    begun = time.perf_counter()
    with (
        isolated(chance.fork("judge", "generators", shard[0]).integer()),
        count_passes(defense.networks()) as passes,
        remarks(defense) as remarked,
    ):
        before = generator_states()
        outcomes = judge(
            defense,
            images.x,
            images.y,
            x_adv,
            threat=cell.threat,
            draws=cell.draws,
            sequential=cell.sequential,
            rng=chance.fork("judge"),
        )
        drew = generator_states() != before or getattr(defense.purifier, "by_block", False)
    return _rows(images, outcomes), {
        "attack passes": dict(proposal.passes),
        "attack seconds": proposal.seconds,
        "judge passes": dict(passes),
        "judge seconds": time.perf_counter() - begun,
        "flags": [*proposal.flags, *remarked, *([BY_BLOCK] if drew else [])],
    }


_MEASURED = ("distance", "legal", "clean", "robust")  # one number per image
_COUNTED = ("clean_votes", "votes", "clean_logits", "logits")  # one per class and image


def _rows(images: Images, outcomes: Outcomes) -> dict[str, Any]:
    return {
        "index": images.indices.cpu().numpy(),
        "label": images.y.cpu().numpy(),
        **{name: getattr(outcomes, name).cpu().numpy() for name in _MEASURED},
        **{name: list(getattr(outcomes, name).cpu().numpy()) for name in _COUNTED},
    }


# A shard of which cheaper attacks left no image.
_NO_ROWS: dict[str, Any] = {
    **{name: np.zeros(0, dtype=np.int64) for name in ("index", "label")},
    "distance": np.zeros(0),
    **{name: np.zeros(0, dtype=np.bool_) for name in _MEASURED[1:]},
    **{name: [] for name in _COUNTED},
}
_NO_COST: dict[str, Any] = {
    **{name: {} for name in ("attack passes", "judge passes")},
    **dict.fromkeys(("attack seconds", "judge seconds"), 0.0),
    "flags": [],
}
