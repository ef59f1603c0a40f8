"""Denoising score matching: the closed-form optimum, that it learns, and exact resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from bench.api import PluginError, Rng, Task
from bench.data.load import load_train
from bench_defenses.dsm_ebm import DsmEbm
from bench_defenses.energies.denoising import DenoisingRecipe, DenoisingScoreMatching

from .bowl import Bowl

TINY = DenoisingRecipe(iterations=6, batch=8, width=4, ema=0.5)


def task(n: int = 96) -> Task:
    digits = load_train("digits", root=Path())[0]
    return Task(
        train=digits[:n],
        validation=digits[n : n + 48],
        classes=10,
        device=torch.device("cpu"),
        classifier=None,
        adversarial=None,
    )


def ended(run: DenoisingScoreMatching) -> DenoisingScoreMatching:
    while run.step < run.total:
        run.advance()
    return run


def test_an_energy_with_its_minimum_at_the_image_has_loss_0_and_a_flat_one_1() -> None:
    run = DenoisingScoreMatching(TINY, task())
    x = torch.full((5, 1, 8, 8), 0.5)
    offset = run.noise(x, torch.Generator().manual_seed(0))
    loss, cosine = run.misfit(Bowl(torch.tensor(0.5), TINY.pull), x, offset)
    assert float(loss) < 1e-10
    assert float(cosine) == pytest.approx(1)
    # Twice the pull misses by as much as no pull at all, at every noise level alike.
    loss, cosine = run.misfit(Bowl(torch.tensor(0.5), 2 * TINY.pull), x, offset)
    assert float(loss) == pytest.approx(1, rel=1e-5)
    loss, _ = run.misfit(Bowl(torch.tensor(0.5), 0.0), x, offset)
    assert float(loss) == pytest.approx(1, rel=1e-5)


def test_every_deviation_between_the_two_is_drawn() -> None:
    run = DenoisingScoreMatching(TINY, task())
    noise = run.noise(torch.zeros(4000, 1, 8, 8), torch.Generator().manual_seed(0))
    sigma = noise.flatten(1).std(1)
    assert float(sigma.log().mean()) == pytest.approx(
        (torch.tensor([TINY.sigma_min, TINY.sigma_max]).log().mean()).item(), abs=0.05
    )
    assert float(sigma.min()) < 1.2 * TINY.sigma_min
    assert float(sigma.max()) > 0.8 * TINY.sigma_max


def test_it_learns_to_denoise_and_its_purifier_brings_images_nearer() -> None:
    recipe = dataclasses.replace(
        TINY, iterations=200, batch=32, width=8, lr=1e-2, ema=0.9, sigma_min=0.1
    )
    run = ended(DenoisingScoreMatching(recipe, task(800)))
    assert run.evaluate()["cosine held out"] > 0.6
    purifier = DsmEbm(steps=5, step_size=5.0, noise=0.0, training=recipe).load(
        run.weights(), shape=(1, 8, 8)
    )
    clean = task(800).validation.x
    noisy = (
        clean + 0.15 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)
    cleaned = purifier.purify(noisy, rng=Rng.seeded(0, range(len(clean))))
    assert (cleaned - clean).square().mean() < 0.85 * (noisy - clean).square().mean()


def test_a_resumed_training_equals_an_uninterrupted_one() -> None:
    whole = ended(DenoisingScoreMatching(TINY, task()))
    first = DenoisingScoreMatching(TINY, task())
    for _ in range(3):
        first.advance()
    second = DenoisingScoreMatching(TINY, task())
    second.restore(first.state())
    for name, value in ended(second).weights().items():
        assert torch.equal(value, whole.weights()[name]), name


def test_a_divergence_says_what_to_do() -> None:
    run = DenoisingScoreMatching(dataclasses.replace(TINY, lr=1e6, clip=1e9), task())
    ended(run)
    with pytest.raises(
        PluginError, match=r"diverged at iteration 6: .* Lower defense.training"
    ):
        run.metrics()


def test_deviations_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="Give the smaller deviation as sigma_min"):
        DenoisingRecipe(sigma_min=0.3, sigma_max=0.1)
