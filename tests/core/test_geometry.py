"""Norms, projections and steps against their definitions and closed-form optima."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from bench.core.geometry import Ball, per_image, project, size, steepest
from bench.core.threat import Norm

NORMS = list(Norm)
norms = st.sampled_from(NORMS)
dtypes = st.sampled_from([torch.float32, torch.float64])
radii = st.floats(0, 4)
seeds = st.integers(0, 2**31)


def cases(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Clean images, many pixels black or white, and wild proposals."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 2, 3, 3, generator=generator, dtype=dtype)
    x = ((x * 3) - 1).clamp(0, 1)
    wild = x + 3 * torch.randn(x.shape, generator=generator, dtype=dtype)
    return x, wild


@settings(deadline=None)
@given(seed=seeds, norm=norms, dtype=dtypes, radius=radii)
def test_a_projection_is_legal_in_float64(
    seed: int, norm: Norm, dtype: torch.dtype, radius: float
) -> None:
    x, wild = cases(seed, dtype)
    projected = project(wild, x, norm, radius)
    assert projected.dtype == dtype
    assert ((projected >= 0) & (projected <= 1)).all()
    assert (size(projected.double() - x.double(), norm) <= radius + 1e-6).all()


@settings(deadline=None)
@given(seed=seeds, norm=norms, radius=radii)
def test_a_projection_changes_nothing_when_done_again(
    seed: int, norm: Norm, radius: float
) -> None:
    x, wild = cases(seed, torch.float64)
    once = project(wild, x, norm, radius)
    assert torch.allclose(project(once, x, norm, radius), once, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(seed=seeds, norm=norms)
def test_a_legal_image_is_kept(seed: int, norm: Norm) -> None:
    x, wild = cases(seed, torch.float64)
    inside = (x + 0.01 * (wild - x)).clamp(0, 1)
    radius = float(size(inside - x, norm).max())
    assert torch.allclose(project(inside, x, norm, radius), inside, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(seed=seeds, radius=radii)
def test_no_legal_image_is_nearer_than_the_linf_projection(seed: int, radius: float) -> None:
    x, wild = cases(seed, torch.float64)
    low, high = (x - radius).clamp(0, 1), (x + radius).clamp(0, 1)
    nearest = torch.minimum(torch.maximum(wild, low), high)
    assert torch.allclose(project(wild, x, Norm.LINF, radius), nearest, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(seed=seeds, radius=radii)
def test_no_legal_image_is_much_nearer_than_the_l2_projection(seed: int, radius: float) -> None:
    x, wild = cases(seed, torch.float64)

    def at(share: torch.Tensor) -> torch.Tensor:
        return (x + per_image(share, x) * (wild - x)).clamp(0, 1)

    low, high = torch.zeros(len(x), dtype=x.dtype), torch.ones(len(x), dtype=x.dtype)
    for _ in range(60):
        middle = (low + high) / 2
        inside = size(at(middle) - x, Norm.L2) <= radius
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    nearest = size(wild - at(low), Norm.L2)
    reached = size(wild - project(wild, x, Norm.L2, radius), Norm.L2)
    assert (reached >= nearest - 1e-9).all()
    assert (reached <= 1.01 * nearest).all()


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_radius_the_box_alone_limits(norm: Norm) -> None:
    x, wild = cases(0, torch.float64)
    assert torch.equal(project(wild, x, norm, math.inf), wild.clamp(0, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_of_zero_gives_the_clean_image(norm: Norm) -> None:
    x, wild = cases(0, torch.float64)
    assert torch.equal(project(wild, x, norm, 0.0), x)


@settings(deadline=None)
@given(seed=seeds, norm=norms, data=st.data())
def test_the_steepest_step_is_optimal_for_a_linear_loss(
    seed: int, norm: Norm, data: st.DataObject
) -> None:
    x, other = cases(seed, torch.float64)
    gradient = other - x
    step = steepest(gradient, norm)
    gain = (step * gradient).flatten(1).sum(1)
    # Hoelder: the largest gain of a unit step is the dual norm of the gradient.
    flat = gradient.flatten(1)
    best = flat.abs().sum(1) if norm is Norm.LINF else flat.norm(dim=1)
    assert torch.allclose(gain, best)
    assert torch.allclose(size(step, norm), torch.ones(len(x), dtype=torch.float64))


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_a_zero_step(norm: Norm) -> None:
    zero = torch.zeros(2, 1, 3, 3)
    assert torch.equal(steepest(zero, norm), zero)


def test_sizes_are_those_of_the_definitions() -> None:
    delta = torch.zeros(2, 1, 2, 2)
    delta[0, 0, 0] = torch.tensor([3.0, -4.0])
    assert size(delta, Norm.LINF).tolist() == [4, 0]
    assert size(delta, Norm.L2).tolist() == [5, 0]


def test_per_image_values_broadcast_over_images() -> None:
    images = torch.ones(3, 2, 4, 4)
    scaled = images * per_image(torch.tensor([1.0, 2.0, 3.0]), images)
    assert scaled[:, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("radius", [0.3, math.inf])
def test_the_ball_of_some_images_is_a_part_of_the_ball(norm: Norm, radius: float) -> None:
    x, wild = cases(3, torch.float32)
    rows = torch.tensor([2, 0])
    some = Ball.around(x, norm, radius)[rows]
    assert torch.equal(some.project(wild[rows]), project(wild, x, norm, radius)[rows])
    assert torch.equal(some.x, x[rows])


def test_an_image_inside_the_linf_ball_is_kept_to_the_bit() -> None:
    x, wild = cases(4, torch.float32)
    once = project(wild, x, Norm.LINF, 0.1)
    assert torch.equal(project(once, x, Norm.LINF, 0.1), once)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_pixel_without_a_finite_gradient_stops_no_other(norm: Norm, bad: float) -> None:
    gradient = torch.tensor([3.0, bad, -4.0]).reshape(1, 1, 1, 3)
    step = steepest(gradient, norm)
    assert step.isfinite().all()
    expected = [1.0, -1.0] if norm is Norm.LINF else [0.6, -0.8]
    assert torch.allclose(step[0, 0, 0, [0, 2]], torch.tensor(expected))
