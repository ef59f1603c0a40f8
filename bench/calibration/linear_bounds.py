"""Images that provably nothing in a ball breaks, by linear bounds on a small ReLU network.

The bounds are those of Fast-Lin (Weng et al. 2018, "Towards Fast Computation of Certified
Robustness for ReLU Networks", arXiv 1804.09699), the dual bound of Wong and Kolter 2018 (arXiv
1711.00851): a ReLU whose input may have both signs lies between two parallel lines, so that
every output lies between two linear forms of the pixels, whose best values in ball and box are
known. They never promise too much; they may promise too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_AT_ONCE = 10  # images: what they take stays in the cache
_SLACK = 1e-3  # of a margin: sums in float32


@dataclass(frozen=True)
class Range:
    """What a layer may get in the ball: between ``low`` and ``high`` (N, ...)."""

    low: Tensor
    high: Tensor

    def relu_lines(self) -> tuple[Tensor, Tensor]:
        """Return slope and lift: slope * z <= relu(z) <= slope * z + lift in this range."""
        mixed = (self.low < 0) & (self.high > 0)
        slope = self.high / (self.high - self.low).clamp(min=1e-12)
        slope = torch.where(mixed, slope, (self.low >= 0).to(slope))
        return slope, torch.where(mixed, -slope * self.low, 0.0)


@torch.no_grad()
def certified(net: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Whether nothing within eps (Linf) of x (N, C, H, W) is of another class than y: (N,).

    ``net`` has Conv2d, Linear, ReLU and Flatten layers only. False means: not proven.
    """
    parts = []
    for start in range(0, len(x), _AT_ONCE):
        block, labels = x[start : start + _AT_ONCE], y[start : start + _AT_ONCE]
        pixels = Range((block - eps).clamp(min=0), (block + eps).clamp(max=1))
        parts.append(_least_margin(list(net), pixels, labels) > _SLACK)
    return torch.cat(parts)


def _least_margin(layers: Sequence[nn.Module], pixels: Range, y: Tensor) -> Tensor:
    """Bound the margin to the nearest class from below: (N,)."""
    ranges = [pixels]  # of what each layer gets
    for depth, layer in enumerate(layers[:-1]):
        if depth == 0 or not isinstance(layer, nn.Conv2d | nn.Linear):
            ranges.append(_alone(layer, ranges[-1]))
        elif isinstance(layer, nn.Conv2d):
            ranges.append(_second_convolution(layers, ranges))
        else:
            each = torch.eye(layer.out_features, device=y.device).expand(len(y), -1, -1)
            ranges.append(_between(layers[: depth + 1], ranges, each))
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    classes = torch.eye(last.out_features, device=y.device)
    rows = F.one_hot(y, last.out_features)[:, None] - classes
    margins = _between(layers, ranges, rows).low
    return margins.scatter(1, y[:, None], torch.inf).amin(1)


def _alone(layer: nn.Module, got: Range) -> Range:
    """Bound what a layer gives, each output by itself; of a layer on the pixels it is exact."""
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return Range(layer(got.low), layer(got.high))
    centre, radius = layer((got.low + got.high) / 2), (got.high - got.low) / 2
    if isinstance(layer, nn.Linear):
        spread = F.linear(radius, layer.weight.abs())
    else:
        spread = F.conv2d(
            radius, layer.weight.abs(), stride=layer.stride, padding=layer.padding
        )
    return Range(centre - spread, centre + spread)


def _between(layers: Sequence[nn.Module], ranges: Sequence[Range], rows: Tensor) -> Range:
    """Bound M linear forms of what the last layer gives: rows (N, M, outputs)."""
    images, forms = rows.shape[:2]
    low = high = rows.new_zeros(images, forms)
    for layer, got in zip(reversed(layers), reversed(ranges[: len(layers)]), strict=True):
        inputs = got.low.shape[1:]
        if isinstance(layer, nn.ReLU):
            slope, lift = (side.flatten(1) for side in got.relu_lines())
            low = low + _dot(rows.clamp(max=0), lift)
            high = high + _dot(rows.clamp(min=0), lift)
            rows = rows * slope[:, None]
            continue
        if isinstance(layer, nn.Linear):
            constant, rows = rows @ _bias(layer), rows @ layer.weight
        elif isinstance(layer, nn.Conv2d):
            maps = rows.reshape(images * forms, *layer(got.low[:1]).shape[1:])
            constant = (maps.flatten(2).sum(2) @ _bias(layer)).reshape(images, forms)
            rows = _transposed(layer, maps, inputs).reshape(images, forms, -1)
        else:  # Flatten
            continue
        low, high = low + constant, high + constant
    pixels = Range(ranges[0].low.flatten(1), ranges[0].high.flatten(1))
    return _over_pixels(rows, pixels, low, high)


def _transposed(layer: nn.Conv2d, maps: Tensor, inputs: torch.Size) -> Tensor:
    """Apply a convolution's transpose to maps (M, C, h, w): (M, *inputs)."""
    sides = zip(inputs[1:], maps.shape[2:], layer.kernel_size, strict=True)
    # Of sizes that a stride rounds to one, the one that was there.
    rest = [
        side - ((seen - 1) * layer.stride[0] - 2 * _padding(layer)[0] + kernel)
        for side, seen, kernel in sides
    ]
    return F.conv_transpose2d(
        maps, layer.weight, stride=layer.stride, padding=_padding(layer), output_padding=rest
    )


def _second_convolution(layers: Sequence[nn.Module], ranges: Sequence[Range]) -> Range:
    """Bound what the second of two convolutions gives, with the ReLU between them.

    An output sees one patch of hidden units, and they one patch of pixels: forms on patches
    are a tenth of the work of forms on images. Kernels, strides and paddings are square.
    """
    first, _, second = layers[:3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    images, outputs = len(ranges[0].low), second(layers[1](ranges[1].low[:1])).shape[1:]
    kernel, stride, padding = second.kernel_size[0], second.stride[0], _padding(second)[0]
    slope, lift = (
        F.unfold(side, kernel, stride=stride, padding=padding).transpose(1, 2)[:, :, None]
        for side in ranges[1].relu_lines()
    )  # (N, positions, 1, patch)
    weight = second.weight.flatten(1)  # (channels, patch)
    low = (weight.clamp(max=0) * lift).sum(3)
    high = (weight.clamp(min=0) * lift).sum(3)
    rows = weight * slope  # (N, positions, channels, patch)
    hidden = first.out_channels
    per_map = rows.reshape(*rows.shape[:3], hidden, kernel * kernel).sum(4)
    constant = per_map @ _bias(first) + _bias(second)
    # What is left is linear in a patch of pixels.
    unit = torch.eye(weight.shape[1], device=weight.device)
    unit = unit.reshape(-1, hidden, kernel, kernel)
    seen = F.conv_transpose2d(unit, first.weight, stride=first.stride)
    rows = rows @ seen.flatten(1)
    scale, border = first.stride[0], _padding(first)[0]
    pixels = [
        F.unfold(
            side, seen.shape[2], stride=stride * scale, padding=padding * scale + border
        ).transpose(1, 2)
        for side in (ranges[0].low, ranges[0].high)
    ]
    found = _over_pixels(rows, Range(*pixels), low + constant, high + constant)
    return Range(
        *(side.transpose(1, 2).reshape(images, *outputs) for side in (found.low, found.high))
    )


def _over_pixels(rows: Tensor, pixels: Range, low: Tensor, high: Tensor) -> Range:
    """Add the least and most that linear forms (..., M, P) have on pixels (..., P)."""
    up, down = rows.clamp(min=0), rows.clamp(max=0)
    return Range(
        low + _dot(up, pixels.low) + _dot(down, pixels.high),
        high + _dot(up, pixels.high) + _dot(down, pixels.low),
    )


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """Multiply M forms (..., M, P) with values (..., P): (..., M)."""
    return (rows @ values[..., None])[..., 0]


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    assert isinstance(layer.padding, tuple)
    return layer.padding
