"""What each access shows, on purifiers whose gradients are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bench.core.access import unsupported, view_of
from bench.core.defense import Defense
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access
from bench.errors import PluginError
from bench_defenses.none import Identity

WITHOUT_GRADIENT = (Access.QUERY, Access.LABEL)
HIDING = (Access.TRANSFER, Access.LABEL)
RNG = Rng.seeded(0, [0, 1, 2])


@dataclass(frozen=True)
class Bend:
    """A smooth purifier with noise: x -> sin(2 x) + 0.1 noise."""

    stochastic: bool = True
    differentiable: bool = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return (2 * x).sin() + 0.1 * rng.normal_like(x)


@dataclass(frozen=True)
class TwoBends(Bend):
    """The same as a stepped purifier of two steps."""

    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        return super().purify(x, rng=rng)

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return self.step(self.step(x, rng=rng.fork("first")), rng=rng.fork("second"))


class Smooth(nn.Module):
    """A smooth classifier with a different gradient everywhere."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(16, 8, generator=generator).double())
        self.second = nn.Parameter(torch.randn(8, 3, generator=generator).double())

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.first).tanh() @ self.second


def images() -> Tensor:
    return torch.rand(
        3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def logits_and_gradient(view: View, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = view(leaf, rng=RNG)
    (gradient,) = torch.autograd.grad((logits * torch.tensor([1.0, -2.0, 3.0])).sum(), leaf)
    return logits.detach(), gradient


def test_bpda_is_full_for_the_identity() -> None:
    defense = Defense(Identity(), Smooth())
    full, bpda = (
        logits_and_gradient(view_of(defense, access), images())
        for access in (Access.FULL, Access.BPDA)
    )
    assert torch.equal(full[0], bpda[0])
    assert torch.equal(full[1], bpda[1])


def test_the_full_gradient_is_that_of_finite_differences() -> None:
    view, x = view_of(Defense(Bend(), Smooth()), Access.FULL), images()
    _, gradient = logits_and_gradient(view, x)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        toward = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        ahead, behind = (view(x + s * toward, rng=RNG) for s in (step, -step))
        measured = ((ahead - behind) @ torch.tensor([1.0, -2.0, 3.0]).double()) / (2 * step)
        assert torch.allclose((gradient * toward).flatten(1).sum(1), measured, atol=1e-7)


def test_the_bpda_gradient_is_the_classifiers_at_the_purified_image() -> None:
    defense, x = Defense(Bend(), Smooth()), images()
    logits, gradient = logits_and_gradient(view_of(defense, Access.BPDA), x)
    purified = defense.purify(x, rng=RNG)
    expected = logits_and_gradient(view_of(defense, Access.TRANSFER), purified)
    assert torch.allclose(logits, expected[0], atol=1e-12)
    assert torch.allclose(gradient, expected[1], atol=1e-12)
    _, full = logits_and_gradient(view_of(defense, Access.FULL), x)
    assert not torch.allclose(gradient, full)


def test_transfer_hides_the_purifier() -> None:
    defense, x = Defense(TwoBends(), Smooth()), images()
    view = view_of(defense, Access.TRANSFER)
    assert torch.equal(view(x, rng=RNG), defense.classifier(x))
    assert not view.stochastic
    with pytest.raises(PluginError, match="transfer"):
        view.purification_step(x, rng=RNG)


def test_query_gives_logits_and_no_gradient() -> None:
    defense, x = Defense(Bend(), Smooth()), images().requires_grad_()
    logits = view_of(defense, Access.QUERY)(x, rng=RNG)
    assert not logits.requires_grad
    assert torch.equal(logits, defense.classify(defense.purify(x, rng=RNG)))


def test_labels_are_the_classes_of_the_draws_and_lead_to_nothing_else() -> None:
    defense, x = Defense(TwoBends(), Smooth()), images().requires_grad_()
    view, many = view_of(defense, Access.LABEL), RNG.repeat(5)
    shown = view(x, rng=many)
    logits = view_of(defense, Access.QUERY)(x, rng=many)
    assert torch.equal(shown, nn.functional.one_hot(logits.argmax(1), 3).to(x.dtype))
    assert len(shown.unique(dim=0)) > 1
    assert not shown.requires_grad
    assert view.stochastic
    names = [name for name in dir(view) if not name.startswith("__")]
    held = [getattr(view, name) for name in names]
    assert not any(isinstance(each, Defense | nn.Module | TwoBends) for each in held)
    assert set(names) == {
        "_elected", "_hidden", "access", "classify", "purification_step", "stochastic",
        "surrogate",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("access", "asked"),
    [
        (Access.LABEL, lambda view: view.classify(images())),
        (Access.LABEL, lambda view: view.purification_step(images(), rng=RNG)),
        (Access.LABEL, lambda view: view.surrogate(2)),
        (Access.TRANSFER, lambda view: view.surrogate(2)),
    ],
)
def test_what_an_access_hides_is_refused(
    access: Access, asked: Callable[[View], object]
) -> None:
    view = view_of(Defense(TwoBends(), Smooth()), access)
    with pytest.raises(PluginError, match=f"which {access} access hides.* '{access}' from"):
        asked(view)


@pytest.mark.parametrize("access", [Access.BPDA, Access.FULL, Access.QUERY])
def test_every_view_of_the_whole_shows_the_defenses_logits(access: Access) -> None:
    defense, x = Defense(TwoBends(), Smooth()), images()
    view = view_of(defense, access)
    expected = defense.classify(defense.purify(x, rng=RNG))
    assert torch.allclose(view(x, rng=RNG), expected, atol=1e-12)
    assert torch.equal(view.classify(x), defense.classifier(x))
    assert view.stochastic
    assert view.access is access


@pytest.mark.parametrize("access", list(Access))
def test_many_streams_per_image_are_repeated_images(access: Access) -> None:
    view, x, many = view_of(Defense(TwoBends(), Smooth()), access), images(), RNG.repeat(4)
    folded, apart = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits = view(folded, rng=many)
    expected = view(apart.repeat_interleave(4, dim=0), rng=many)
    assert torch.allclose(logits, expected, rtol=0, atol=1e-12)
    if access not in WITHOUT_GRADIENT:
        weight = torch.arange(36, dtype=torch.float64).reshape(12, 3)
        (gradient,) = torch.autograd.grad((logits * weight).sum(), folded)
        (wanted,) = torch.autograd.grad((expected * weight).sum(), apart)
        assert torch.allclose(gradient, wanted, rtol=0, atol=1e-12)


def test_streams_that_fit_no_number_of_draws_are_refused() -> None:
    defense = Defense(Bend(), Smooth())
    with pytest.raises(PluginError, match="4 streams of random numbers for 3 images"):
        defense.purify(images(), rng=Rng.seeded(0, range(4)))


@pytest.mark.parametrize("purifier", [Bend(), TwoBends()])
def test_one_step_is_shown_without_a_gradient(purifier: Bend) -> None:
    view, x = view_of(Defense(purifier, Smooth()), Access.BPDA), images().requires_grad_()
    step = view.purification_step(x, rng=RNG)
    assert not step.requires_grad
    assert torch.equal(step, Bend().purify(x, rng=RNG))


class WritingBends(TwoBends):
    """TwoBends for those who save memory: it writes into what it is given."""

    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x.mul_(2).sin_().add_(0.1 * rng.normal_like(x))


class SharingWriter(WritingBends):
    """The same, which purifies all draws of an image itself."""

    def purify_draws(self, x: Tensor, *, rng: Rng) -> Tensor:
        return self.purify(x.mul_(1).repeat_interleave(len(rng) // len(x), dim=0), rng=rng)


class WritingSmooth(Smooth):
    """Smooth, which centres its images in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).add_(0.5))


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("purifier", [WritingBends(), SharingWriter()])
@pytest.mark.parametrize("access", list(Access))
def test_plugins_may_write_into_what_they_are_given(
    access: Access, purifier: TwoBends, draws: int
) -> None:
    clean, streams = images(), RNG.repeat(draws)
    view, plain = (
        view_of(Defense(parts[0], parts[1]), access)
        for parts in ((purifier, WritingSmooth()), (TwoBends(), Smooth()))
    )
    x, wanted = clean.clone().requires_grad_(), clean.clone().requires_grad_()
    logits, expected = view(x, rng=streams), plain(wanted, rng=streams)
    assert torch.allclose(logits, expected, rtol=0, atol=1e-12)
    if access is not Access.LABEL:
        assert torch.allclose(view.classify(x), plain.classify(wanted), rtol=0, atol=1e-12)
    if access not in HIDING:
        assert not torch.equal(view.purification_step(x.detach(), rng=RNG), x)
    assert torch.equal(x.detach(), clean)
    if access not in WITHOUT_GRADIENT:
        (gradient,) = torch.autograd.grad(logits.sum(), x)
        (hoped,) = torch.autograd.grad(expected.sum(), wanted)
        assert torch.allclose(gradient, hoped, rtol=0, atol=1e-12)


def test_a_defense_gives_its_purifier_a_copy() -> None:
    defense, x = Defense(WritingBends(), Smooth()), images()
    assert not torch.equal(defense.purify(x, rng=RNG), x)
    assert torch.equal(x, images())


@pytest.mark.parametrize("access", list(Access))
def test_only_the_full_access_needs_a_true_gradient(access: Access) -> None:
    assert unsupported(differentiable=True, access=access) is None
    reason = unsupported(differentiable=False, access=access)
    assert (reason is not None) == (access is Access.FULL)
