"""The contract of a purifier, on every registered defense: to register is to be tested."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.protocols import Images, Purifier
from bench.core.rng import Rng
from bench.models.trainable import Trainable, TrainablePurifier
from bench.plugins.catalogue import catalogue, plugin, sorts
from bench.testing.check import results_of
from bench.testing.material import Linear, Material, extremes
from bench.testing.trainings import begun

# Those that read weights which others published are tested in test_museum.py.
NAMES = sorted(name for name in catalogue("defenses") if sorts("defenses")[name] != "museum")
SHAPES = [(1, 8, 8), (3, 16, 16)]
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


def material(shape: tuple[int, ...]) -> Material:
    """What plugins are tried on, and trained on."""
    x = images(shape, 24, torch.float32)
    return Material(extremes(x), 3, Images(torch.arange(24), x, torch.arange(24) % 3))


def tamed(name: str) -> Any:
    """Build a plugin that is trained in moments; other plugins as they are."""
    made: Any = plugin("defenses", name)()
    if name == "tv_min":
        return dataclasses.replace(made, steps=5)
    if not isinstance(made, Trainable):
        return made
    assert isinstance(made, TrainablePurifier)
    training: Any = made.training
    known = {field.name for field in dataclasses.fields(training)}
    tiny = {key: value for key, value in TINY.items() if key in known}
    replace: Any = dataclasses.replace
    few = {"steps": 3} if hasattr(made, "steps") else {}  # what one step does right three do
    return replace(made, training=replace(training, **tiny), **few)


@functools.cache
def trained(name: str, shape: tuple[int, ...]) -> Any:
    """Make the weights of a plugin by two iterations, and load them; other plugins as are."""
    made = tamed(name)
    if not isinstance(made, TrainablePurifier):
        return made
    run = begun(made, material(shape))
    run.advance()
    run.advance()
    return made.load(run.weights(), shape=shape)


def purifier(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Purifier:
    found = trained(name, shape)
    if isinstance(found, nn.Module):
        found.to(dtype)
    assert isinstance(found, Purifier)
    return found


@each_defense
@each_shape
def test_the_contract_of_every_purifier(name: str, shape: tuple[int, ...]) -> None:
    """What `bench check` looks at, on a tiny training where there is one."""
    results = list(results_of("defenses", tamed(name), tried_on=material(shape)))
    assert {one.check: one.sentence for one in results if one.state == "fails"} == {}
    loaded = purifier(name, shape)
    for flag in ("stochastic", "differentiable"):
        assert getattr(tamed(name), flag) is getattr(loaded, flag)


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
def test_the_images_given_are_left_as_they_were(name: str, shape: tuple[int, ...]) -> None:
    x = images(shape)
    kept = x.clone()
    cleaned = purifier(name, shape).purify(x, rng=streams())
    assert torch.equal(x, kept)
    if cleaned is not x:  # a view on the input would hand its later changes on
        assert cleaned.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@each_defense
@each_shape
def test_a_defense_of_it_classifies_after_purifying(name: str, shape: tuple[int, ...]) -> None:
    clean, x = purifier(name, shape), images(shape)
    defense = Defense(clean, Linear(shape, 3))
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
