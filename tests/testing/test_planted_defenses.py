"""Purifiers with one fault each: the check that is for it fails, no other, and says so."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.core.rng import Rng
from bench.testing import ContractError, check_defense
from bench.testing.check import results_of
from bench.testing.material import Material, extremes
from bench.testing.outcome import BUILDS

MATERIAL = Material(extremes(torch.rand(2, 1, 6, 6, generator=torch.Generator())), 3)


@dataclass(frozen=True)
class Good:
    """Pulls towards gray, and adds noise."""

    pull: float = 0.1

    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + self.pull * (0.5 - x) + 0.05 * rng.normal_like(x)


class Net(nn.Module):
    """A convolution that counts its calls, where it is to."""

    def __init__(self, counts: bool = False) -> None:
        super().__init__()
        self.conv, self.counts = nn.Conv2d(1, 1, 3, padding=1), counts
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.counts:
            self.calls += 1
        return x + 0.1 * torch.tanh(self.conv(x))


GLOBAL = Net().requires_grad_(False)
CALLS: list[int] = []


class Frail(Good):
    def __post_init__(self) -> None:
        raise ValueError("no GPU, no purifier")


@dataclass
class Loose:
    pull: float = 0.1
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    purify = Good.purify


class Changing(Good):
    def __post_init__(self) -> None:
        object.__setattr__(self, "pull", self.pull / 2)


class Cropped(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return super().purify(x, rng=rng)[..., 1:]


class Hidden(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return GLOBAL(x)


class Normalized(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)


class Bytes(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return 255 * super().purify(x, rng=rng)


class Remembers(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        CALLS.append(1)
        return super().purify(x, rng=rng) + 0.001 * len(CALLS)


class Global(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class Denies(Good):
    stochastic: ClassVar[bool] = False


class Pretends(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return 0.9 * x


class Batchwise(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return super().purify(x, rng=rng) + 0.01 * (x.mean() > 0.3)


class Few(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        if len(x) == 3 * 7:
            raise ValueError("too many")
        return super().purify(x, rng=rng)


class Switching(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return super().purify(x, rng=rng) + 0.05 * x.requires_grad


class Attached(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return super().purify(x, rng=rng) + torch.zeros((), requires_grad=True)


class Drifting(Good):
    def __deepcopy__(self, memo: Any) -> Drifting:
        return dataclasses.replace(self, pull=2 * self.pull)


@dataclass(frozen=True)
class Deep(Good):
    """Calls a network, ``steps`` times."""

    steps: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "net", self.made())

    def made(self) -> nn.Module:
        return Net()

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        for _ in range(self.steps):
            x = self.net(x)
        return super().purify(x, rng=rng)


class Counting(Deep):
    def made(self) -> nn.Module:
        return Net(counts=True)


class Around(Deep):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return Good.purify(self, self.net.forward(x), rng=rng)


class Finer(Deep):
    def coarser(self, factor: int) -> Any:
        other = copy.copy(self)
        object.__setattr__(other, "steps", factor * self.steps)
        return other


class Copying(Deep):
    def coarser(self, factor: int) -> Any:
        return copy.deepcopy(dataclasses.replace(self, steps=self.steps // factor))


class Detached(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + (self.pull * (0.5 - x)).detach() + 0.05 * rng.normal_like(x)


class Numpy(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return super().purify(x.detach(), rng=rng)


class Rounds(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return (8 * x).round() / 8 + 0.05 * rng.normal_like(x)


class Modest(Good):
    differentiable: ClassVar[bool] = False


class Rooted(Good):
    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        length = (x - 0.5).square().sum((1, 2, 3), keepdim=True).sqrt()
        return super().purify(x, rng=rng) + 0.01 * length


class Shuffled(Good):
    def purify_draws(self, x: Tensor, *, rng: Rng) -> Tensor:
        return self.purify(x.repeat(len(rng) // len(x), 1, 1, 1), rng=rng)


class Stumbling(Good):
    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        CALLS.append(1)
        return self.purify(x, rng=rng) + 0.001 * len(CALLS)


class Pulled(Good):
    def noise_alone(self) -> Any:
        return self


class Summed(Good):
    @property
    def energy(self) -> Any:
        return lambda x: x.square().sum()


PLANTED: dict[type[Any], tuple[str, str]] = {
    Frail: (BUILDS, "no GPU, no purifier"),
    Loose: ("its parameters are written down", "frozen=True"),
    Changing: ("its parameters are written down", "__post_init__"),
    Cropped: ("images in, images of the same shape out", "(7, 1, 6, 5)"),
    Hidden: ("every network that it calls is found", "hold it as an attribute"),
    Normalized: ("pixels are finite and on the scale of images", "black, white"),
    Bytes: ("pixels are finite and on the scale of images", "Divide by 255"),
    Remembers: ("the same rng gives the same images", "from one call to the next"),
    Global: ("all chance comes from rng", "rng.normal_like(x)"),
    Denies: ("`stochastic` is true", "stochastic is False"),
    Pretends: ("`stochastic` is true", "stochastic is True"),
    Batchwise: ("an image does not depend on its batch", "statistics of the batch"),
    Few: ("any number of images and draws", "ValueError: too many"),
    Switching: ("gradients on or off, the result is the same", "on and off"),
    Attached: ("gradients on or off, the result is the same", "no graph"),
    Drifting: ("a copy does the same", "copy.deepcopy"),
    Counting: ("its weights are identified and stay", "counters"),
    Around: ("its passes are counted", "net.forward(x)"),
    Finer: ("a coarser process is cheaper, on the same networks", "cheaper"),
    Copying: ("a coarser process is cheaper, on the same networks", "same networks"),
    Detached: ("`differentiable` is true", "detached"),
    Numpy: ("`differentiable` is true", "none reaches the images"),
    Rounds: ("`differentiable` is true", "0 for every pixel"),
    Modest: ("`differentiable` is true", "differentiable = True"),
    Rooted: ("the gradient of flat images is finite", "flat image of 0.5"),
    Shuffled: ("draws with shared work are draws", "side by side"),
    Stumbling: ("a step is repeatable", "the same step"),
    Pulled: ("its noise alone moves nothing on average", "on average"),
    Summed: ("its energy is one number per image", "Sum over pixels"),
}


@pytest.mark.parametrize("cls", [Good, Deep])
def test_a_good_one_passes(cls: type[Any]) -> None:
    results = list(results_of("defenses", cls, tried_on=MATERIAL))
    assert {one.check: one.sentence for one in results if one.state == "fails"} == {}


@pytest.mark.parametrize("cls", PLANTED, ids=lambda cls: cls.__name__)
def test_exactly_the_check_for_a_fault_fails(cls: type[Any]) -> None:
    name, part = PLANTED[cls]
    results = list(results_of("defenses", cls, tried_on=MATERIAL))
    wrong = {one.check: one.sentence for one in results if one.state == "fails"}
    assert list(wrong) == [name], wrong
    assert part in wrong[name]


def test_a_test_of_ones_own_fails_with_the_sentences() -> None:
    with pytest.raises(ContractError) as error:
        check_defense(Denies())
    assert "Denies breaks its contract:\n`stochastic` is true: expected" in str(error.value)
    assert [one.state for one in check_defense(Good)].count("ok") > 10


def test_functions_networks_and_objects_are_checked_as_they_are() -> None:
    def blur(x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 3, stride=1, padding=1)

    def noisy(x: Tensor, sigma: float = 0.1) -> Tensor:
        return x + sigma * torch.randn_like(x)

    net = Net()
    for thing in (blur, noisy, net):
        results = list(results_of("defenses", thing, tried_on=MATERIAL))
        assert [one for one in results if one.state == "fails"] == []
    (chance,) = [
        one for one in results_of("defenses", noisy, tried_on=MATERIAL)
        if one.check == "all chance comes from rng"
    ]  # fmt: skip
    assert "noise by block" in chance.sentence
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
