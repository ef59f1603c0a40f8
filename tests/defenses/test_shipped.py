"""What ships has learned: every purifier of MNIST denoises and undoes attacks."""

from __future__ import annotations

import functools
import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.api import Access, Images, Norm, Rng, ThreatModel
from bench.core.access import TransferView
from bench.data.load import load_test
from bench.errors import DataError
from bench.evaluation.run import Prepared
from bench.experiments.prepare import prepare, resolve
from bench.results.cell import Request
from bench.results.store import Store
from bench.results.workspace import Workspace
from bench_attacks.pgd import Pgd

from ..cells import CPU

SHIPPED = Path(__file__).parents[2] / "results"
DATA = Path(os.environ.get("BENCH_DATA", "data"))
LEARNED = [
    "dae", "vae", "dds", "diffusion", "score", "likelihood",
    "ebm", "long_run_ebm", "dsm_ebm", "adv_ebm", "adv_ebm_plus",
]  # fmt: skip


@functools.cache
def digits() -> Images:
    try:
        return load_test("mnist", root=DATA).images(0, 32)
    except DataError:
        pytest.skip("no MNIST")


def opened(defense: str) -> Prepared:
    """Open a defense with its committed checkpoint, which nothing trains here."""
    request = Request(
        dataset="mnist", defense=defense, attack="noise", eps=Fraction(3, 10), n=32
    )
    workspace = Workspace(Store(SHIPPED), DATA, SHIPPED, CPU)
    try:
        said = next(prepare(resolve(request), workspace=workspace))
    except StopIteration as ended:
        made: Prepared = ended.value
        return made
    pytest.fail(f"{defense} has no checkpoint that is committed: {said}")


@functools.cache
def attacked() -> tuple[Tensor, Tensor]:
    """Images that break the bare classifier, and which of them it still has right."""
    images, bare = digits(), opened("none").defense.classifier
    threat = ThreatModel(Norm.LINF, Fraction(3, 10), Access.TRANSFER)
    rng = Rng.seeded(0, images.indices)
    x_adv = Pgd(steps=20)(TransferView(bare), images.x, images.y, threat=threat, rng=rng)
    with torch.no_grad():
        return x_adv, bare(x_adv).argmax(1) == images.y


def after(name: str) -> tuple[float, float]:
    """Return the share of attacked images that are right, and of the noise's square left."""
    images, (x_adv, _) = digits(), attacked()
    defense, rng = opened(name).defense, Rng.seeded(1, images.indices)
    with torch.no_grad():
        labels = defense.classifier(defense.purifier.purify(x_adv, rng=rng)).argmax(1)
        noisy = (images.x + 0.2 * rng.fork("noise").normal_like(images.x)).clamp(0, 1)
        cleaned = defense.purifier.purify(noisy, rng=rng.fork("again"))
    left = (cleaned - images.x).square().mean() / (noisy - images.x).square().mean()
    return float((labels == images.y).float().mean()), float(left)


@pytest.mark.parametrize("name", LEARNED)
def test_it_denoises_and_undoes_attacks_on_the_bare_classifier(name: str) -> None:
    right, left = after(name)
    assert right > float(attacked()[1].float().mean()) + 0.3
    assert left < 0.95


def test_without_a_purifier_neither_holds() -> None:
    right, left = after("none")
    assert right == float(attacked()[1].float().mean()) < 0.1
    assert left == 1.0
