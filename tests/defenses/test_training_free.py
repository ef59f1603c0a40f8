"""The training-free purifiers against other implementations and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from bench.core.protocols import Purifier
from bench.core.rng import Rng
from bench.errors import PluginError, UsageError
from bench.plugins.catalogue import build

BOXED = ["bit_depth", "jpeg", "median", "nl_means", "none", "tv_min"]


def images(kind: str, shape: tuple[int, ...] = (3, 28, 28)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, *shape, generator=generator, dtype=torch.float64)
    if kind == "black and white":
        return (x > 0.6).double()
    if kind == "steps":
        return (torch.arange(shape[2]) > shape[2] // 2).double().expand(4, *shape).clone()
    return x


def purify(name: str, x: Tensor, **params: object) -> Tensor:
    purifier: Purifier = build("defenses", name, params)
    return purifier.purify(x, rng=Rng.seeded(0, list(range(len(x)))))


@pytest.mark.parametrize("name", BOXED)
@pytest.mark.parametrize("kind", ["gray", "black and white", "steps"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
def test_what_is_in_the_box_stays_in_it(name: str, kind: str, shape: tuple[int, ...]) -> None:
    cleaned = purify(name, images(kind, shape))
    assert float(cleaned.min()) >= 0
    assert float(cleaned.max()) <= 1


def test_gaussian_noise_has_its_size_and_is_not_clipped() -> None:
    added = purify("gaussian", torch.zeros(4, 3, 64, 64), sigma=0.12)
    assert float(added.std()) == pytest.approx(0.12, rel=0.02)
    assert float((added < 0).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_a_bit_depth_of_one_is_black_and_white() -> None:
    x = torch.tensor([0.0, 0.49, 0.51, 1.0]).reshape(1, 1, 2, 2)
    assert purify("bit_depth", x, bits=1).flatten().tolist() == [0, 0, 1, 1]


def test_a_bit_depth_of_eight_keeps_8_bit_images() -> None:
    x = (torch.arange(256) / 255).reshape(1, 1, 16, 16)
    assert torch.equal(purify("bit_depth", x, bits=8), x)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_reduced_images_have_as_many_levels_as_the_bits_say(bits: int) -> None:
    cleaned = purify("bit_depth", images("gray"), bits=bits)
    assert len(set(cleaned.flatten().tolist())) == 2**bits
    assert float((cleaned - images("gray")).abs().max()) <= 0.5 / (2**bits - 1) + 1e-12


@pytest.mark.parametrize("size", [3, 5, 7])
def test_the_median_is_that_of_scipy(size: int) -> None:
    x = images("gray")
    expected = ndimage.median_filter(x.numpy(), size=(1, 1, size, size), mode="mirror")
    assert np.array_equal(purify("median", x, size=size).numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_the_farther_from_an_image_the_lower_its_quality(channels: int) -> None:
    x = ndimage.gaussian_filter(images("gray", (channels, 32, 32)).numpy(), (0, 0, 2, 2))
    x = torch.from_numpy(x)
    errors = [float((purify("jpeg", x, quality=q) - x).abs().mean()) for q in (100, 75, 20, 3)]
    assert errors[0] < 2 / 255
    assert errors == sorted(errors)
    assert errors[-1] > 5 * errors[0]


def test_jpeg_keeps_colours_in_their_channels() -> None:
    x = torch.tensor([0.8, 0.1, 0.4]).reshape(1, 3, 1, 1).repeat(1, 1, 16, 16)
    assert torch.allclose(purify("jpeg", x), x, atol=3 / 255)


def test_jpeg_refuses_other_channels() -> None:
    with pytest.raises(PluginError, match="these have 2 channels"):
        purify("jpeg", torch.rand(1, 2, 8, 8))


@pytest.mark.parametrize("kind", ["gray", "black and white", "steps"])
@pytest.mark.parametrize("weight", [0.03, 0.3])
def test_total_variation_is_minimised_as_by_scikit_image(kind: str, weight: float) -> None:
    x = images(kind)
    cleaned = purify("tv_min", x, weight=weight, steps=60)
    for image, found in zip(x.numpy(), cleaned.numpy(), strict=True):
        # Its first iteration returns the image itself; eps 0 keeps it from stopping early.
        expected = denoise_tv_chambolle(
            image, weight=weight, eps=0, max_num_iter=61, channel_axis=0
        )
        assert np.allclose(found, expected, rtol=0, atol=1e-12)


def test_total_variation_falls_and_the_mean_stays() -> None:
    def variation(x: Tensor) -> Tensor:
        return x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()

    x = images("gray")
    variations = [variation(purify("tv_min", x, weight=w)) for w in (0.01, 0.05, 0.2)]
    assert variation(x) > variations[0] > variations[1] > variations[2]
    assert torch.allclose(purify("tv_min", x).mean((2, 3)), x.mean((2, 3)))


@pytest.mark.parametrize("name", ["median", "nl_means", "tv_min"])
def test_a_smoother_brings_a_noisy_image_nearer_to_its_original(name: str) -> None:
    x = 0.2 + 0.6 * images("steps", (1, 28, 28))
    noisy = x + 0.03 * Rng.seeded(1, list(range(4))).normal_like(x)
    assert (purify(name, noisy) - x).square().mean() < 0.5 * (noisy - x).square().mean()


def test_nl_means_keeps_a_flat_image() -> None:
    x = torch.full((1, 1, 12, 12), 0.3, dtype=torch.float64)
    assert torch.allclose(purify("nl_means", x), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("bit_depth", {"bits": 0}),
        ("bit_depth", {"bits": 9}),
        ("gaussian", {"sigma": 0}),
        ("jpeg", {"quality": 101}),
        ("median", {"size": 4}),
        ("nl_means", {"strength": -1}),
        ("tv_min", {"steps": 0}),
        ("none", {"strength": 1}),
    ],
)
def test_parameters_out_of_range_are_refused_before_anything_runs(
    name: str, params: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=rf"defense\.{next(iter(params))}"):
        build("defenses", name, params)
