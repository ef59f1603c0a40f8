"""Check that the purifier does not know the test images: C29."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import LEVEL, Subject
from bench.core.geometry import project, size, steepest
from bench.core.threat import Norm
from bench.results.stats import exceeds

_IMAGES = 32  # the first ones
_FARTHER = 4.0  # times as far from the image as for a test image
_NOTHING = 1e-4  # of a pixel: both came back as they were


def no_stored_test_images(subject: Subject) -> Finding:
    """C29: the purifier makes of test images what it makes of images that nobody could store.

    Noise of the whole ball is added to test images, to test images moved by one pixel, and to
    images made of two halves. Measured is how far from the image (L2) the purifier ends: one
    that gives stored test images back ends on them, and far from the others.
    """
    x = subject.images.x[:_IMAGES]
    near = _left(subject, x)
    floor = _NOTHING * math.sqrt(x[0].numel())
    counts = {
        name: int((_left(subject, new) > _FARTHER * near + floor).sum())
        for name, new in _unknown(x).items()
    }
    most = max(counts.values())
    state = State.PASS
    if most > len(x) / 2:
        state = State.FAIL if exceeds(most, len(x), 0.5) <= LEVEL else State.WARN
    return Finding(
        "C29",
        "no stored test images",
        Weight.VOID,
        state,
        figure=" and ".join(f"{count} of {len(x)} {name}" for name, count in counts.items()),
        threshold=f"at most half end more than {_FARTHER:g} times as far from the image as "
        f"test images do (exact test, {LEVEL:.0%})",
        reason=""
        if state is State.PASS
        else "the purifier ends on test images, and far from images that nobody could store: "
        "does it keep the test set?",
        values={**counts, "distance": float(near.mean())},
    )


def _unknown(x: Tensor) -> dict[str, Tensor]:
    """Make images (N, C, H, W) that are in no data set, of the pixels of x."""
    half = x.shape[3] // 2
    return {
        "moved by a pixel": x.roll((1, 1), (2, 3)),
        "made of two halves": torch.cat((x[..., :half], x.roll(1, 0)[..., half:]), dim=3),
    }


def _left(subject: Subject, x: Tensor) -> Tensor:
    """Return how far (N,) from x (N, C, H, W) the purifier ends when noise is added to it."""
    norm, radius = subject.threat.norm, subject.threat.radius
    rng = subject.rng[: len(x)].fork("stored")
    noise = radius * steepest(rng.fork("noise").normal_like(x), norm)
    with torch.no_grad():
        found = subject.defense.purify(project(x + noise, x, norm, radius), rng=rng)
    return size(found - x, Norm.L2)
