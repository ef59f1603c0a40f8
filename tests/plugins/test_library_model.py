"""What a library attacks in place of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core.rng import Rng
from bench.core.threat import Access, Norm
from bench.errors import PluginError
from bench.plugins.libraries.model import ViewModel
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity

from .library_stubs import images, view

RNG = Rng.seeded(0, range(3))


def wrapped(
    purifier: Any, *, draws: int = 1, access: Access = Access.FULL, steady: bool = False
) -> ViewModel:
    x, _ = images()
    return ViewModel(
        view(purifier, access), x, draws=draws, rng=RNG, norm=Norm.L2, steady=steady
    )


def test_a_stochastic_view_is_averaged_and_drawn_afresh_at_each_call() -> None:
    x, _ = images()
    model = wrapped(Gaussian(sigma=0.2), draws=4)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    seen = view(Gaussian(sigma=0.2))(x, rng=RNG.fork("call", 0).repeat(4))
    assert torch.equal(first, seen.reshape(3, 4, -1).mean(1))
    steady = wrapped(Gaussian(sigma=0.2), draws=4, steady=True)
    assert torch.equal(steady(x), steady(x))
    assert torch.equal(steady(x)[:2], steady(x[:2])), "a row's noise is that of its place"


def test_many_candidates_of_an_image_have_noise_of_their_own() -> None:
    x, _ = images()
    logits = wrapped(Gaussian(sigma=0.2))(x[:1].expand(8, -1, -1, -1))
    assert len(logits.unique(dim=0)) == 8


def test_a_library_finds_a_network_in_evaluation_mode_on_the_device() -> None:
    x, _ = images()
    model = wrapped(Identity())
    assert not model.training
    (only,) = model.parameters()
    assert only.numel() == 0
    assert not only.requires_grad
    assert only.device == x.device
    assert model(x.double()).dtype == torch.float32


def test_a_gradient_of_nan_moves_no_pixel_and_stops_no_other() -> None:
    x, _ = images()

    @dataclass(frozen=True)
    class Root:
        """The square root of a pixel that is zero: an infinite gradient."""

        stochastic: bool = False
        differentiable: bool = True

        def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
            return x.sqrt()

    x = x.clamp(min=0.1)
    x[0, 0, 0, 0] = 0
    model = wrapped(Root())
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).sum() + model(leaf)[:, 0].sum(), leaf)
    assert bool(gradient.isfinite().all())
    assert gradient[0, 0, 0, 0] == 0
    assert math.isclose(model.share_lost(), 1 / x.numel())
    assert (model.forward_rows, model.backward_rows) == (6, 6)


def test_a_defense_that_passes_no_gradient_is_named_and_logits_need_none() -> None:
    @dataclass(frozen=True)
    class Cut:
        stochastic: bool = False
        differentiable: bool = True

        def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
            return x.detach()

    leaf = images()[0].requires_grad_()
    with pytest.raises(PluginError, match="no gradient passes the defense under full access"):
        wrapped(Cut())(leaf)
    with torch.no_grad():
        wrapped(Cut())(leaf)
    assert not wrapped(Identity(), access=Access.QUERY)(leaf).requires_grad
