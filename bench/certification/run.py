"""Certify a defense: draw its votes, shard by shard, and keep them with the radii."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.certification.noise import ExactNormals, check_noise
from bench.core.defense import Defense
from bench.core.isolation import isolated
from bench.core.passes import count_passes
from bench.core.protocols import Images
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import UsageError
from bench.evaluation.judge import vote
from bench.evaluation.run import Prepared
from bench.experiments.prepare import prepare, resolve
from bench.models.trainable import MakesPurifier
from bench.plugins.certified import CertifiedPurifier, noise_of
from bench.plugins.strangers import strangers
from bench.results.cell import Part, Request
from bench.results.certificates import CONFIDENCE, NAME, SELECTION, folder_of, radii
from bench.results.locks import Shard, share
from bench.results.progress import Work
from bench.results.provenance import joined, provenance
from bench.results.settings import Settings
from bench.results.so_far import certified, with_accuracy
from bench.results.workspace import Workspace

_AT_ONCE = 100  # draws of an image
_FEW = 4  # images on which the purifier's claim is tried


def certify(request: Request, *, workspace: Workspace) -> Work[str]:
    """Certify a request's defense on its images; return the key of the certificate.

    The attack, norm and radius of the request are not looked at. Raises UsageError for a
    defense that has no certificate.
    """
    plugins = resolve(replace(request, attack="noise", access=None))
    # A plugin that makes its purifier by shape says its noise itself, or that purifier does.
    says = isinstance(plugins.defense, CertifiedPurifier)
    made_later = isinstance(plugins.defense, MakesPurifier) and not says
    if not made_later:  # before anything is trained in vain
        _noise(plugins.defense, request)
    workspace.store.probe()
    own = replace(workspace, store=folder_of(workspace.store))
    prepared = yield from prepare(plugins, workspace=workspace)
    sigma = _noise(prepared.defense.purifier if made_later else plugins.defense, request)
    made = certificate_of(prepared, sigma)
    if not own.store.done(made.cell):
        check_noise(
            made.defense,
            made.pixels.images(0, min(_FEW, made.cell.n)).x.to(own.device),
            sigma=sigma,
            rng=Rng.seeded(made.cell.seed, range(min(_FEW, made.cell.n)), own.device),
            name=f"the defense {made.cell.defense.name}",
        )
        own.store.probe()
        yield from _run(made, own, Settings.asked(replace(request, attack="noise")))
    return made.cell.key()


def _noise(defense: object, request: Request) -> float:
    found = noise_of(defense, name=f"the defense {request.defense}")
    if found is None:
        raise UsageError(
            f"{request.defense} has no certificate: it does not say that it begins with "
            "Gaussian noise of a known size (certified_noise). Of the defenses that ship, "
            "gaussian, dds, diffusion, score and ffdnet do."
        )
    return found


def certificate_of(prepared: Prepared, sigma: float) -> Prepared:
    """Put a certificate in the place of a cell's attack."""
    params = {"confidence": CONFIDENCE, "selection": SELECTION, "sigma": sigma}
    cell = replace(
        prepared.cell,
        attack=Part(NAME, params, 1),
        threat=ThreatModel(Norm.L2, None, Access.QUERY),
        sequential=False,
    )
    return replace(prepared, cell=cell)


def _run(made: Prepared, workspace: Workspace, settings: Settings) -> Work[None]:
    cell, store = made.cell, workspace.store
    store.open(cell, settings)

    def draw(shard: Shard) -> None:
        rows, cost = drawn(made, shard, device=workspace.device)
        store.append(cell, shard[0], rows, {**cost, **provenance(workspace.device)})

    work = share(
        f"certificate of {cell.defense.name}",
        cell.n,
        left=lambda: store.missing(cell),
        claim=lambda shard: store.claim_on_shard(cell.key(), *shard),
        work=draw,
    )
    yield from with_accuracy(work, cell, store=store, count=certified)
    store.finish(cell, joined)


def drawn(
    made: Prepared, shard: Shard, *, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw the votes on a shard's images; return rows and cost."""
    cell, defense = made.cell, made.defense
    params = cell.attack.params
    images = made.pixels.images(*shard).to(device)
    chance = Rng.seeded(cell.seed, images.indices).fork(NAME)
    begun = time.perf_counter()
    with (
        isolated(chance.fork("generators", shard[0]).integer()),
        count_passes(defense.networks()) as passes,
        strangers(defense) as strange,
    ):
        normals = ExactNormals.of(chance)
        selection = _votes(defense, images, params["selection"], normals.fork("selection"))
        counted = _votes(defense, images, cell.draws, normals.fork("counting"))
    first, second = selection.cpu().numpy(), counted.cpu().numpy()
    classes, found = radii(
        first, second, sigma=params["sigma"], confidence=params["confidence"]
    )
    rows = {
        "index": images.indices.cpu().numpy(),
        "label": images.y.cpu().numpy(),
        "class": classes,
        "radius": found,
        "selection": list(first),
        "votes": list(second),
    }
    return rows, {
        "attack passes": {},
        "attack seconds": 0.0,
        "judge passes": dict(passes),
        "judge seconds": time.perf_counter() - begun,
        "flags": list(strange),
    }


def _votes(defense: Defense, images: Images, draws: int, rng: Rng) -> Tensor:
    """Count the votes (N, K) of some draws, not all at once: there are thousands."""
    parts = [
        vote(
            defense,
            images.x,
            images.y,
            draws=min(_AT_ONCE, draws - start),
            rng=rng.fork("from", start),
        ).votes
        for start in range(0, draws, _AT_ONCE)
    ]
    return torch.stack(parts).sum(0)
