"""One step, and likelihood ascent, on the network of the diffusion purifier."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.api import Rng
from bench.errors import UsageError
from bench.models.train import identity, train
from bench.plugins.catalogue import build, build_dataclass
from bench.results.workspace import Workspace
from bench_defenses.dds import Dds, OneStep
from bench_defenses.denoisers.diffusion import TIMES, kept, sigma_of, time_of
from bench_defenses.diffusion import Diffusion
from bench_defenses.likelihood import Likelihood, LikelihoodAscent
from bench_defenses.score import Score, ScoreSteps

from ..cells import finish


def streams(n: int, seed: int = 0) -> Rng:
    return Rng.seeded(seed, list(range(n)))


class Normal(nn.Module):
    """The best denoiser of images whose pixels are independent and N(0, 1) in [-1, 1] units."""

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        shares = torch.tensor([kept(round(float(one) * TIMES)) for one in t], dtype=z.dtype)
        return (1 - shares).sqrt().reshape(-1, 1, 1, 1) * z  # E[n | z], since z is N(0, 1) too


def test_one_step_is_the_posterior_mean_of_the_noisy_image() -> None:
    x = torch.rand(4, 1, 8, 8).double()
    net: Any = Normal()
    purifier = OneStep(net, sigma=0.25)
    share = kept(time_of(0.25))
    noisy = 2 * (x + 0.25 * streams(4).normal_like(x)) - 1
    expected = (share * noisy + 1) / 2  # of N(0, 1), seen with noise of (1 - share) / share
    assert torch.allclose(purifier.purify(x, rng=streams(4)), expected, atol=1e-9)
    assert sigma_of(time_of(0.25)) == pytest.approx(0.25, rel=0.01)
    alone = purifier.noise_alone().purify(x, rng=streams(4))
    assert torch.allclose(2 * alone - 1, noisy, atol=1e-9)


def test_an_ascent_step_is_the_gradient_of_the_bound() -> None:
    """For this denoiser the bound is a parabola around the image that the noise suggests."""
    x = 0.3 + 0.4 * torch.rand(4, 1, 8, 8).double()
    net: Any = Normal()
    ascent = LikelihoodAscent(net, steps=1, step_size=1e-3, first=200, last=200)
    share, noise = kept(200), streams(4).fork("noise").normal_like(x)
    gap = math.sqrt(1 - share)
    error = gap * (math.sqrt(share) * (2 * x - 1) + gap * noise) - noise
    expected = x - 1e-3 * 2 * error * gap * 2 * math.sqrt(share)
    assert torch.allclose(ascent.step(x, rng=streams(4)), expected, atol=1e-9)


def test_steps_differ_in_time_and_noise_and_fewer_are_longer() -> None:
    net: Any = Normal()
    ascent = LikelihoodAscent(net, steps=6, step_size=1e-3, first=100, last=900)
    x = torch.rand(3, 1, 8, 8).double()
    moved = [ascent.step(x, rng=streams(3).fork("likelihood", k)) - x for k in range(2)]
    assert not torch.allclose(*moved)
    coarse = ascent.coarser(4)
    assert (coarse.steps, coarse.step_size) == (2, pytest.approx(3e-3))
    assert (coarse.first, coarse.last) == (100, 900)


def test_a_score_step_is_a_fraction_of_the_way_to_where_the_score_vanishes() -> None:
    """For this denoiser the score is linear, so the way is known: to gray, by 1 - fraction."""
    net: Any = Normal()
    climb = ScoreSteps(net, sigma=0.25, steps=1, step=0.05, stop=0.0)
    x = 0.2 + 0.6 * torch.rand(3, 1, 8, 8).double()
    live = torch.tensor([True, True, False])
    moved, still = climb._climb(x, live)
    assert torch.allclose(moved[:2] - 0.5, 0.95 * (x[:2] - 0.5), atol=1e-6)
    assert torch.equal(moved[2], x[2])
    assert still.tolist() == [True, True, False]
    share = kept(climb.t)
    size = 0.05 * 0.25 / (2 * math.sqrt(share * (1 - share)))
    for stop, moves in ((0.99 * size, True), (1.01 * size, False)):
        stopped = ScoreSteps(net, sigma=0.25, steps=1, step=0.05, stop=stop)
        found, going = stopped._climb(x, torch.ones(3, dtype=torch.bool))
        assert bool((found != x).any()) is moves
        assert going.all() == moves
    coarse = climb.coarser(3)
    assert (coarse.steps, coarse.fraction) == (1, pytest.approx(0.05))
    ten = ScoreSteps(net, sigma=0.25, steps=10, step=0.05, stop=0.0).coarser(4)
    assert (ten.steps, ten.fraction) == (3, pytest.approx(0.05 * 10 / 3))


def test_four_purifiers_share_one_checkpoint(workspace: Workspace) -> None:
    names = {"diffusion": Diffusion, "dds": Dds, "likelihood": Likelihood, "score": Score}
    short = {"training": {"iterations": 1, "width": 4, "batch": 4}}
    digests = {
        finish(
            train(name, build("defenses", name, short), dataset="digits", workspace=workspace)
        ).digest
        for name in names
    }
    (kept_at,) = workspace.store.checkpoints()
    assert kept_at.stem.startswith("diffusion-")
    assert len(digests) == 1
    about = [
        identity(name, cls(), dataset="digits", data="d", classifier=None)
        for name, cls in names.items()
    ]
    assert all(one == about[0] for one in about)
    for name, cls in names.items():
        recipe = cls.recipe("mnist")
        assert recipe["training"] == Diffusion.recipe("mnist")["training"], name


def test_times_in_the_wrong_order_are_refused_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"first time, 500, is after the last, 200"):
        build_dataclass(Likelihood, {"first": 500, "last": 200}, where="defense")
    with pytest.raises(UsageError, match=r"defense\.sigma"):
        build_dataclass(Dds, {"sigma": 1e6}, where="defense")
