"""The traps are what they say that they are."""

from __future__ import annotations

import torch
from torch import nn

from bench.audit.toys import (
    LeakyEnergy,
    NoGradient,
    Quantizer,
    RandomShift,
    Saturated,
    Untouched,
)
from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.losses import LOSSES
from bench.core.rng import Rng
from bench.core.threat import Access


def images(n: int = 6) -> tuple[torch.Tensor, Rng]:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, Rng.seeded(0, list(range(n)))


def test_no_gradient_hands_the_images_on_without_one() -> None:
    x, rng = images()
    out = NoGradient().purify(x.requires_grad_(), rng=rng)
    assert torch.equal(out, x)
    assert not out.requires_grad


def test_a_quantizer_has_its_levels_and_a_gradient_of_zero() -> None:
    x, rng = images(50)
    out = Quantizer(2).purify(x.requires_grad_(), rng=rng)
    torch.testing.assert_close(out.unique(), torch.linspace(0, 1, 4))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert not gradient.any()


def test_a_saturated_classifier_agrees_and_has_no_cross_entropy(classifier: nn.Module) -> None:
    x, _ = images(50)
    saturated = Saturated(classifier)
    labels = classifier(x).argmax(1)
    assert torch.equal(saturated(x).argmax(1), labels)
    loss = LOSSES["ce"](saturated(x.requires_grad_()), labels)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert (gradient.flatten(1) == 0).all(1).float().mean() > 0.9


def test_an_untouched_image_is_the_image() -> None:
    x, rng = images()
    assert Untouched().purify(x, rng=rng) is x


def test_random_shifts_move_whole_images_and_all_shifts_come() -> None:
    x, rng = images(200)
    out = RandomShift(1).purify(x, rng=rng)
    shifts = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    rolled = torch.stack([x.roll((-a, -b), (2, 3)) for a, b in shifts])
    same = (rolled == out).flatten(2).all(2)
    assert same.sum(0).tolist() == [1] * len(x)
    assert same.any(1).all()


def test_a_leaky_energys_full_gradient_is_that_of_bpda_in_the_box() -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    gradients = []
    x, rng = images()
    inside = (0.4 + 0.2 * x).requires_grad_()  # so that no step is clamped
    purifier = LeakyEnergy((1, 8, 8), noise=0.01)
    for access in (Access.FULL, Access.BPDA):
        logits = view_of(Defense(purifier, head), access)(inside, rng=rng)
        gradients.append(torch.autograd.grad(logits.square().sum(), inside)[0])
    torch.testing.assert_close(*gradients)
    assert gradients[0].any()
    assert not torch.equal(purifier.purify(inside, rng=rng), inside)
