"""The diffusion purifier: its schedule, exact steps in closed form, replay and training."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.api import CheckpointError, Rng, Task
from bench.data.load import load_train
from bench.errors import UsageError
from bench.plugins.catalogue import build_dataclass
from bench_defenses import diffusion
from bench_defenses.denoisers.diffusion import (
    TIMES,
    DiffusionRecipe,
    DiffusionTraining,
    kept,
    sigma_of,
    time_of,
)
from bench_defenses.denoisers.unet import UNet
from bench_defenses.diffusion import Diffuser, Diffusion

TINY = DiffusionRecipe(iterations=4, batch=8, width=4, ema=0.5)
each_sampler = pytest.mark.parametrize("sampler", ["ddpm", "ddim"])


@functools.cache
def task() -> Task:
    train, held_out, _ = load_train("digits", root=Path())
    return Task(train, held_out, classes=10, device=torch.device("cpu"))


def ended(run: DiffusionTraining) -> DiffusionTraining:
    while run.step < run.total:
        run.advance()
    return run


def streams(n: int) -> Rng:
    return Rng.seeded(0, list(range(n)))


class OneImage(nn.Module):
    """The best denoiser of a data set of one image, which it therefore knows."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        share = kept(round(float(t[0]) * TIMES))
        noise: Tensor = (z - math.sqrt(share) * (2 * self.image - 1)) / math.sqrt(1 - share)
        return noise


def diffuser(net: Any, **changes: Any) -> Diffuser:
    return Diffuser(net, **{"t": 300, "steps": 4, "rounds": 1, "sampler": "ddpm", **changes})


def some_net() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet(1, width=4)
        nn.init.normal_(net.head.weight, std=0.1)
    return net.double().requires_grad_(False).eval()


def test_the_schedule_falls_from_all_of_the_image_to_none_of_it() -> None:
    shares = [kept(t) for t in range(TIMES + 1)]
    assert shares[0] == 1
    assert all(a > b for a, b in itertools.pairwise(shares[:997]))
    assert 0 < shares[-1] < 1e-4
    assert shares[500] == pytest.approx(0.4938, abs=1e-3)  # figure 5 of its paper: about a half
    # A signal of 2 x - 1 has twice the deviation that x has, so the noise counts half.
    assert sigma_of(500) == pytest.approx(0.5 * (0.5062 / 0.4938) ** 0.5, abs=1e-3)
    for sigma in (0.05, 0.25, 0.5):
        assert sigma_of(time_of(sigma)) == pytest.approx(sigma, rel=0.02)


@each_sampler
@pytest.mark.parametrize("steps", [1, 3, 300])
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_denoiser_that_knows_the_image_returns_it(
    sampler: str, steps: int, rounds: int
) -> None:
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    x = (image + 0.3 * torch.randn(5, 1, 8, 8)).clamp(0, 1)
    purifier = diffuser(OneImage(image), steps=steps, rounds=rounds, sampler=sampler)
    cleaned = purifier.purify(x, rng=streams(5))
    assert torch.allclose(cleaned, image.expand_as(cleaned), atol=1e-9)


def test_a_ddpm_step_is_the_posterior_of_the_process() -> None:
    """By Bayes' rule: the forward step's likelihood times the prior given the clean image."""
    image = torch.full((1, 8, 8), 0.7).double()
    purifier, t, s = diffuser(OneImage(image)), 300, 120
    z = torch.randn(2, 1, 8, 8).double()
    zero = torch.zeros_like(z)
    mean = purifier._back(z, zero, t, s)
    spread = purifier._back(z, zero + 1, t, s) - mean
    step = kept(t) / kept(s)
    precision = step / (1 - step) + 1 / (1 - kept(s))
    expected = (
        math.sqrt(step) / (1 - step) * z + math.sqrt(kept(s)) / (1 - kept(s)) * 0.4
    ) / precision
    assert torch.allclose(mean, expected, atol=1e-9)
    assert torch.allclose(spread, zero + precision**-0.5, atol=1e-9)


@each_sampler
def test_the_replayed_gradient_is_autograds_and_no_activation_outlives_its_step(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = some_net()
    x, weight = task().train.x[:3].double(), torch.randn(3, 1, 8, 8).double()
    alive: list[weakref.ref[Tensor]] = []
    hook = net.at_full.register_forward_hook(
        lambda _module, _inputs, output: alive.append(weakref.ref(output))
    )

    def gradient(steps: int) -> Tensor:
        alive.clear()
        leaf = x.clone().requires_grad_()
        purified = diffuser(net, steps=steps, sampler=sampler).purify(leaf, rng=streams(3))
        gc.collect()
        held.append(sum(one() is not None for one in alive))
        (found,) = torch.autograd.grad((purified * weight).sum(), leaf)
        return found

    held: list[int] = []
    replayed = [gradient(steps) for steps in (2, 6)]
    assert held == [0, 0]
    monkeypatch.setattr(diffusion, "checkpoint", lambda f, *args, **options: f(*args))
    plain = [gradient(steps) for steps in (2, 6)]
    assert held[2:] == [2, 6], "without replay there is one per step"
    hook.remove()
    for one, other in zip(replayed, plain, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
        assert one.abs().min() > 0


def test_a_coarser_process_starts_at_the_same_time_and_its_noise_stands_alone() -> None:
    whole = diffuser(some_net(), steps=10, rounds=2, sampler="ddim")
    coarse = whole.coarser(4)
    assert (coarse.steps, coarse.t, coarse.rounds, coarse.sampler) == (3, 300, 2, "ddim")
    assert coarse.denoiser is whole.denoiser
    assert whole.coarser(100).steps == 1
    noise = whole.noise_alone()
    x = torch.full((1, 1, 100, 100), 0.5)
    assert float(noise.purify(x, rng=streams(1)).std()) == pytest.approx(
        sigma_of(300), rel=0.05
    )


def test_a_run_that_is_stored_and_restored_goes_on_exactly(tmp_path: Path) -> None:
    plugin = Diffusion(training=TINY)
    whole, run = ended(plugin.start(task())), plugin.start(task())
    while run.step < run.total:
        run.advance()
        torch.save(run.state(), tmp_path / "state.pt")
        run = plugin.start(task())
        run.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for name, value in whole.weights().items():
        assert torch.equal(run.weights()[name], value), name


def test_it_learns_to_denoise_and_to_purify() -> None:
    recipe = dataclasses.replace(TINY, iterations=200, batch=32, width=8, lr=0.01, ema=0.98)
    run = ended(Diffusion(training=recipe).start(task()))
    found = run.evaluate()
    assert found["squared error held out"] < 0.5 * found["squared error of the noise"]
    clean = task().validation.x
    noisy = clean + 0.25 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    purifier = Diffusion(t=100, steps=2, training=recipe).load(run.weights(), shape=(1, 8, 8))
    with torch.no_grad():
        cleaned = purifier.purify(noisy, rng=streams(len(clean)))
    assert (cleaned - clean).square().mean() < 0.9 * (noisy - clean).square().mean()


def test_what_cannot_be_is_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"20 steps back from time 10.*at most 10"):
        build_dataclass(Diffusion, {"t": 10, "steps": 20}, where="defense")
    with pytest.raises(UsageError, match=r"defense\.t = 1001.*less than or equal to 1000"):
        build_dataclass(Diffusion, {"t": 1001}, where="defense")
    colour = UNet(3, width=4).state_dict()
    with pytest.raises(CheckpointError, match=r"stem\.weight"):
        Diffusion(training=TINY).load(colour, shape=(1, 8, 8))
