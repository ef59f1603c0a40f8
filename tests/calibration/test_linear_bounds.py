"""Linear bounds of small networks: no point of a ball, and no ascent, leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.api import Norm, project
from bench.calibration import linear_bounds
from bench.data.load import load_test

ROOT = Path()


def small_network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 10),
        )  # fmt: skip


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
def test_no_layer_leaves_its_bounds(eps, monkeypatch):
    net, block = small_network(), load_test("digits", root=ROOT).images(0, 6)
    pixels = linear_bounds.Range((block.x - eps).clamp(min=0), (block.x + eps).clamp(max=1))
    ranges, kept = [], linear_bounds._between

    def spied(layers, got, rows):
        ranges[:] = got
        return kept(layers, got, rows)

    monkeypatch.setattr(linear_bounds, "_between", spied)
    with torch.no_grad():
        least = linear_bounds._least_margin(list(net), pixels, block.y)
        generator = torch.Generator().manual_seed(0)
        for _ in range(200):
            h = torch.rand(pixels.low.shape, generator=generator).round()
            h = pixels.low + (pixels.high - pixels.low) * h
            for layer, given in zip(net, ranges, strict=True):
                assert bool((h >= given.low - 1e-5).all() and (h <= given.high + 1e-5).all())
                h = layer(h)
            margin = h.gather(1, block.y[:, None]) - h
            margin = margin.scatter(1, block.y[:, None], torch.inf).amin(1)
            assert bool((margin >= least - 1e-5).all())


def test_bounds_are_made_on_the_device_of_the_network():
    """The meta device has shapes, no numbers, and no mercy for what lies on a CPU."""
    net, block = small_network().to("meta"), load_test("digits", root=ROOT).images(0, 3)
    x, y = block.x.to("meta"), block.y.to("meta")
    low, high = (x - 0.1).clamp(min=0), (x + 0.1).clamp(max=1)
    least = linear_bounds._least_margin(list(net), linear_bounds.Range(low, high), y)
    assert (least.shape, least.device.type) == ((3,), "meta")


def test_two_convolutions_by_patches_are_those_on_whole_images():
    net, block = list(small_network()), load_test("digits", root=ROOT).images(0, 3)
    ranges = [linear_bounds.Range((block.x - 0.1).clamp(min=0), (block.x + 0.1).clamp(max=1))]
    with torch.no_grad():
        for layer in net[:2]:
            ranges.append(linear_bounds._alone(layer, ranges[-1]))
        patches = linear_bounds._second_convolution(net[:3], ranges)
        whole = linear_bounds._between(net[:3], ranges, torch.eye(24).expand(3, -1, -1))
    for side in ("low", "high"):
        one, other = getattr(patches, side).flatten(1), getattr(whole, side)
        assert one.numpy() == pytest.approx(other.numpy(), abs=1e-5)


def test_no_ascent_breaks_what_is_certified():
    net, eps = small_network(3), 0.01
    block = load_test("digits", root=ROOT).images(0, 100)
    y = net(block.x).argmax(1)  # untrained: as it sees them itself
    proven = linear_bounds.certified(net, block.x, y, eps)
    assert bool(proven.any())
    x = block.x.clone()
    for _ in range(20):
        leaf = x.requires_grad_()
        loss = nn.functional.cross_entropy(net(leaf), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        x = project(x.detach() + 0.3 * eps * gradient.sign(), block.x, Norm.LINF, eps)
    assert not bool((net(x).argmax(1) != y)[proven].any())
