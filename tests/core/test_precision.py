"""A search in low precision: near the float32 networks, and never what decides."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.api import Access, Rng
from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.networks import frozen
from bench.core.precision import Lowered, lowered
from bench.data.load import load_test
from bench.errors import PluginError
from bench_defenses.classifiers.resnet18 import ResNet18Net
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity

from ..cells import classifier, langevin, seeded

LOW = torch.bfloat16
ROUNDING = 2**-8  # half of bfloat16's spacing, relative
X = load_test("digits", root=__file__).images(0, 16).x
RNG = Rng.seeded(0, torch.arange(len(X)))


def energy(width: int = 16) -> nn.Module:
    """The shipped architecture with random weights."""
    return seeded(lambda: EnergyNet((1, 8, 8), width=width), torch.float32)


def shipped() -> Defense:
    purifier = LangevinPurifier(energy(), steps=10, step_size=20.0, noise=0.01)
    return Defense(purifier, classifier())


def resnet() -> nn.Module:
    return seeded(lambda: ResNet18Net(1, classes=10, width=8), torch.float32)


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# --- the networks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network", [classifier, resnet, energy], ids=lambda made: made.__name__
)
def test_a_network_says_the_same_up_to_the_rounding_and_not_quite(network: Any) -> None:
    whole = Defense(Identity(), network())
    low = lowered(whole, LOW)
    one, other = whole.classifier(X), low.classifier(X)
    assert other.dtype == torch.float32
    assert {value.dtype for value in low.classifier.parameters()} == {LOW}
    assert not torch.equal(one, other)
    # A rounding per layer, of logits that are sums of terms of their own size.
    assert float((one - other).abs().max()) < 20 * ROUNDING * float(one.abs().max())


def test_what_is_float64_stays_float64() -> None:
    low = lowered(Defense(langevin(torch.float64), classifier(torch.float64)), LOW)
    x = X.double()
    assert low.purify(x, rng=RNG).dtype == low.classify(x).dtype == torch.float64


def test_the_noise_is_the_very_same() -> None:
    """Without the energy's pull both purify alike, to the bit."""
    for purifier in (LangevinPurifier(energy(), steps=3, step_size=0.0, noise=0.1), Gaussian()):
        whole = Defense(purifier, classifier())
        low = lowered(whole, LOW)
        assert torch.equal(low.purify(X, rng=RNG), whole.purify(X, rng=RNG))
    moved = lowered(shipped(), LOW)
    assert not torch.equal(moved.purify(X, rng=RNG), shipped().purify(X, rng=RNG))


def test_derived_purifiers_keep_the_low_energy() -> None:
    whole = shipped()
    low = lowered(whole, LOW)
    for make in (lambda p: p.coarser(3), lambda p: p):
        one, other = make(whole.purifier), make(low.purifier)
        assert isinstance(other.energy, Lowered)
        near = one.purify(X, rng=RNG) - other.purify(X, rng=RNG)
        assert 0 < float(near.abs().max()) < 0.02
    noises = [p.purifier.noise_alone().purify(X, rng=RNG) for p in (whole, low)]
    assert torch.equal(*noises)


def test_the_float32_defense_is_left_as_it_was() -> None:
    whole = shipped()
    before, said = bits(whole), whole.classify(whole.purify(X, rng=RNG))
    low = lowered(whole, LOW)
    with torch.no_grad():
        for value in low.parameters():
            value.zero_()
    after = bits(whole)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(whole.classify(whole.purify(X, rng=RNG)), said)


def test_channels_stay_last_and_nothing_is_trained() -> None:
    low = lowered(Defense(Identity(), resnet()), LOW)
    weights = [value for value in low.parameters() if value.dim() == 4 and value.shape[2] > 1]
    assert weights
    for value in weights:
        assert value.is_contiguous(memory_format=torch.channels_last)
    assert not any(value.requires_grad for value in low.parameters())
    assert not any(module.training for module in low.modules())


# --- gradients -----------------------------------------------------------------------------


GRAY = 0.4 + 0.2 * X  # away from the box, on whose border a rounding more or less decides


def gradient(defense: Defense, access: Access = Access.FULL) -> Tensor:
    leaf = GRAY.clone().requires_grad_()
    y = torch.arange(len(X)) % 10
    logits = view_of(defense, access)(leaf, rng=RNG)
    return torch.autograd.grad(nn.functional.cross_entropy(logits, y), leaf)[0].flatten(1)


def bend(defense: Defense) -> Tensor:
    """What the energy's Hessians do to a vector, over all steps: no identity that hides it."""
    leaf = GRAY.clone().requires_grad_()
    outer = torch.linspace(-1, 1, leaf[0].numel()).reshape(leaf[:1].shape).expand_as(leaf)
    moved = defense.purify(leaf, rng=RNG)
    return (torch.autograd.grad(moved, leaf, outer)[0] - outer).flatten(1)


@pytest.mark.parametrize("what", [gradient, bend], ids=lambda made: made.__name__)
def test_the_exact_gradient_has_the_direction_of_the_float32_one(what: Any) -> None:
    whole = shipped()
    low = lowered(whole, LOW)
    one, other = what(whole), what(low)
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert float(torch.cosine_similarity(one, other).min()) > 0.99
    assert float((one.norm(dim=1) / other.norm(dim=1)).log().abs().max()) < 0.15


def test_the_second_derivative_reaches_the_low_gradient() -> None:
    low = lowered(shipped(), LOW)
    assert not torch.allclose(gradient(low), gradient(low, Access.BPDA), rtol=1e-3)


# --- what strangers build ------------------------------------------------------------------


class Scale(nn.Module):
    """A network of several arguments, with a number that its purifier reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.3))
        self.level = 0.25

    def forward(self, x: Tensor, times: Tensor, *, extra: Tensor) -> dict[str, Tensor]:
        assert x.dtype == extra.dtype == LOW
        assert times.dtype == torch.int64
        return {"out": x * self.weight + extra * times[:, None, None, None]}


class Several(nn.Module):
    """Networks in a list, and one that is held twice."""

    stochastic = False
    differentiable = True

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList([Scale(), Scale()])
        self.plain = [self.networks[0]]

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        network = self.networks[0]
        assert self.plain[0] is network
        times = torch.ones(len(x), dtype=torch.int64)
        out: Tensor = network(x, times, extra=torch.zeros_like(x))["out"]
        return out + network.level


def test_lists_of_networks_several_arguments_and_attributes() -> None:
    low = lowered(Defense(Several(), classifier()), LOW)
    purified = low.purify(X, rng=RNG)
    assert purified.dtype == torch.float32
    assert torch.allclose(purified, 0.3 * X + 0.25, atol=2 * ROUNDING)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = low.purifier.networks[0].nonsense


class Unet(nn.Module):
    """A network as diffusion models call it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.3))

    def forward(self, *, timestep: Tensor, sample: Tensor) -> Tensor:
        assert timestep.dim() == 0
        assert sample.dtype == self.factor.dtype
        return self.factor * sample + timestep


def test_a_network_that_is_called_by_keywords_with_a_step_without_dimensions() -> None:
    whole, step = Unet(), torch.tensor(2)
    for dtype in (torch.float32, torch.float64):
        x = X.to(dtype)
        found = Lowered(whole, LOW)(timestep=step, sample=x)
        assert found.dtype == dtype
        assert torch.allclose(found, 0.3 * x + 2, atol=8 * ROUNDING)


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.ones(64, 10)


def test_a_network_that_cannot_run_so_low_is_named() -> None:
    low = lowered(Defense(Identity(), Stubborn()), LOW)
    with pytest.raises(
        PluginError, match=r"Stubborn cannot run in bfloat16.*Search in float32"
    ):
        low.classify(X)


@pytest.mark.parametrize("holder", ["purifier", "network"])
def test_what_cannot_be_copied_is_told(holder: str) -> None:
    purifier = langevin()
    held = purifier if holder == "purifier" else purifier.energy
    held.lock = threading.Lock()
    with pytest.raises(PluginError, match=r"cannot be copied for a search in bfloat16.*lock"):
        lowered(Defense(frozen(purifier), frozen(classifier())), LOW)
