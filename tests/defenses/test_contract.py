"""The contract of a purifier, on every registered defense: to register is to be tested."""

from __future__ import annotations

import dataclasses
import functools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.protocols import Images, Purifier
from bench.core.rng import Rng
from bench.models.trainable import Task, Trainable, TrainablePurifier
from bench.plugins.catalogue import catalogue, plugin

NAMES = sorted(catalogue("defenses"))
SHAPES = [(1, 8, 8), (3, 32, 32)]
DTYPES = [torch.float32, torch.float64]
# Training parameters, where a plugin has them, that make its training a matter of moments.
TINY = {"iterations": 2, "epochs": 1, "batch": 8, "bank": 16, "width": 4, "images": 8,
        "chain_steps": 2}  # fmt: skip

each_defense = pytest.mark.parametrize("name", NAMES)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def images(shape: tuple[int, ...], n: int = 5, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images with black and white regions as well as gray ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, *shape, generator=generator, dtype=dtype)
    x[:, :, : shape[1] // 3] = (x[:, :, : shape[1] // 3] > 0.5).to(dtype)
    return x


def streams(n: int = 5, seed: int = 0) -> Rng:
    return Rng.seeded(seed, [10 * i for i in range(n)])


@functools.cache
def trained(name: str, shape: tuple[int, ...]) -> Any:
    """Make the weights of a plugin by two iterations, and load them; other plugins as are."""
    made: Any = plugin("defenses", name)()
    if not isinstance(made, Trainable):
        return made
    assert isinstance(made, TrainablePurifier)
    training: Any = made.training
    known = {field.name for field in dataclasses.fields(training)}
    tiny = {key: value for key, value in TINY.items() if key in known}
    replace: Any = dataclasses.replace
    few = {"steps": 3} if hasattr(made, "steps") else {}  # what one step does right three do
    tamed = replace(made, training=replace(training, **tiny), **few)
    x = images(shape, 24, torch.float32)
    block = Images(torch.arange(24), x, torch.arange(24) % 3)
    task = Task(
        train=block, validation=block, classes=3, device=torch.device("cpu"),
        classifier=ToyClassifier(shape), adversarial=x[:8],
    )  # fmt: skip
    run = tamed.start(task)
    run.advance()
    run.advance()
    return tamed.load(run.weights(), shape=shape)


def purifier(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Purifier:
    found = trained(name, shape)
    if isinstance(found, nn.Module):
        found.to(dtype)
    assert isinstance(found, Purifier)
    return found


class ToyClassifier(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(int(np.prod(shape)), 3, generator=generator)
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.to(x.dtype)


@each_defense
def test_a_plugin_is_a_frozen_dataclass_with_a_revision_and_honest_flags(name: str) -> None:
    cls: Any = plugin("defenses", name)
    assert cls.__dataclass_params__.frozen
    assert type(cls.revision) is int
    assert cls.revision >= 1
    made, loaded = cls(), purifier(name, SHAPES[0])
    for flag in ("stochastic", "differentiable"):
        assert getattr(made, flag) is getattr(loaded, flag)


@each_defense
@each_shape
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shape_and_dtype_are_kept_and_all_is_finite(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    cleaned = purifier(name, shape, dtype).purify(images(shape, dtype=dtype), rng=streams())
    assert cleaned.shape == (5, *shape)
    assert cleaned.dtype == dtype
    assert cleaned.isfinite().all()


@each_defense
@each_shape
def test_a_row_does_not_depend_on_its_batch(name: str, shape: tuple[int, ...]) -> None:
    clean, x, rng = purifier(name, shape), images(shape), streams()
    together = clean.purify(x, rng=rng)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = clean.purify(x[order], rng=rng[order])
    assert torch.allclose(permuted, together[order], rtol=0, atol=1e-9)
    for i in range(len(x)):
        alone = clean.purify(x[i : i + 1], rng=rng[i : i + 1])
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-9)


@each_defense
@each_shape
def test_draws_side_by_side_are_draws_of_repeated_images(
    name: str, shape: tuple[int, ...]
) -> None:
    clean, x, rng = purifier(name, shape), images(shape), streams().repeat(3)
    expected = clean.purify(x.repeat_interleave(3, dim=0), rng=rng)
    found = Defense(clean, nn.Flatten()).purify(x, rng=rng)
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@each_defense
def test_two_streams_differ_exactly_where_the_defense_is_stochastic(name: str) -> None:
    clean, x = purifier(name, SHAPES[0]), images(SHAPES[0])
    first = clean.purify(x, rng=streams())
    assert torch.equal(clean.purify(x, rng=streams()), first)
    other = clean.purify(x, rng=streams(seed=1))
    differs = (other != first).flatten(1).any(1)
    assert differs.tolist() == [clean.stochastic] * len(x)


@each_defense
def test_the_global_generators_are_neither_read_nor_moved(name: str) -> None:
    clean, x = purifier(name, SHAPES[0]), images(SHAPES[0])

    def state() -> list[object]:
        numpy_state: Any = np.random.get_state(legacy=True)
        return [
            torch.get_rng_state().tolist(),
            random.getstate(),
            numpy_state[1].tolist(),
            numpy_state[2],
        ]

    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        before = state()
        results.append(clean.purify(x, rng=streams()))
        assert state() == before
    assert torch.equal(*results)


@each_defense
@each_shape
def test_the_images_given_are_left_as_they_were(name: str, shape: tuple[int, ...]) -> None:
    x = images(shape)
    kept = x.clone()
    cleaned = purifier(name, shape).purify(x, rng=streams())
    assert torch.equal(x, kept)
    if cleaned is not x:  # a view on the input would hand its later changes on
        assert cleaned.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@each_defense
def test_no_graph_is_left_where_none_was_asked_for(name: str) -> None:
    clean, x = Defense(purifier(name, SHAPES[0]), nn.Flatten()), images(SHAPES[0])
    assert not clean.purify(x, rng=streams()).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        cleaned = clean.purify(x, rng=streams())
        assert cleaned is x or not cleaned.requires_grad


def _differentiable(name: str) -> bool:
    return bool(plugin("defenses", name)().differentiable)


@pytest.mark.parametrize("name", [name for name in NAMES if _differentiable(name)])
@each_shape
def test_autograd_gives_the_gradient_that_finite_differences_measure(
    name: str, shape: tuple[int, ...]
) -> None:
    clean, rng, step = purifier(name, shape), streams(), 1e-7
    generator = torch.Generator().manual_seed(2)
    x = 0.3 + 0.4 * torch.rand(5, *shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def score(at: Tensor) -> Tensor:
        return (clean.purify(at, rng=rng) * weight).flatten(1).sum(1)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
    for _ in range(3):
        toward = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        slope = (gradient * toward).flatten(1).sum(1)
        measured = (score(x + step * toward) - score(x - step * toward)) / (2 * step)
        assert torch.allclose(slope, measured.detach(), rtol=1e-4, atol=1e-4)
    assert (gradient != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("name", [name for name in NAMES if _differentiable(name)])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_the_gradient_of_a_flat_image_is_finite(name: str, level: float) -> None:
    x = torch.full((2, *SHAPES[0]), level, dtype=torch.float64, requires_grad=True)
    cleaned = purifier(name, SHAPES[0]).purify(x, rng=streams(2))
    (gradient,) = torch.autograd.grad(cleaned.square().sum(), x)
    assert gradient.isfinite().all()


@each_defense
@each_shape
def test_a_defense_of_it_classifies_after_purifying(name: str, shape: tuple[int, ...]) -> None:
    clean, x = purifier(name, shape), images(shape)
    defense = Defense(clean, ToyClassifier(shape))
    logits = [defense(x) for _ in range(2)]
    assert logits[0].shape == (5, 3)
    if not clean.stochastic:
        expected = defense.classify(defense.purify(x, rng=streams()))
        assert torch.equal(logits[0], expected)
    assert torch.equal(*logits) == (not clean.stochastic)


@each_defense
@each_shape
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_result_is_on_the_device_of_the_images(name: str, shape: tuple[int, ...]) -> None:
    device = torch.device("cuda")
    x, clean = images(shape), purifier(name, shape)
    here = clean.purify(x, rng=streams())
    if isinstance(clean, nn.Module):
        clean.to(device)
    rng = Rng.seeded(0, [10 * i for i in range(5)], device=device)
    there = clean.purify(x.to(device), rng=rng)
    if isinstance(clean, nn.Module):
        clean.to("cpu")
    assert there.device.type == "cuda"
    assert torch.allclose(there.cpu(), here, rtol=0, atol=1e-6)
