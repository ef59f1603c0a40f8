"""Networks of a plugin: found wherever it keeps them, frozen in copies, told by weights."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.networks import called_networks, digest_of_weights, frozen, modules_in
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.errors import PluginError
from bench_defenses.none import Identity


class Flattening(nn.Module):
    """A network that a layout with channels last breaks: `view` wants contiguous images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(4 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.conv(x))
        logits: Tensor = self.out(h.view(h.size(0), -1))
        return logits


def denoiser() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5))


@dataclass
class Plain:
    """A purifier that is no module and holds networks in an attribute, a list and a dict."""

    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    net: nn.Module = field(default_factory=denoiser)
    more: list[nn.Module] = field(default_factory=lambda: [denoiser()])
    named: dict[str, Any] = field(default_factory=lambda: {"last": denoiser()})

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        cleaned: Tensor = self.named["last"](self.more[0](self.net(x)))
        return cleaned


def traits(module: nn.Module) -> list[Any]:
    """What may not change on a caller's network."""
    modes = [part.training for part in module.modules()]
    weights = [
        (p.requires_grad, p.stride(), p.dtype, p.data_ptr()) for p in module.parameters()
    ]
    return [modes, weights]


def test_a_defense_gives_the_logits_of_a_network_and_leaves_it_as_it_was() -> None:
    net, x = Flattening(), torch.rand(4, 3, 8, 8)
    before = traits(net)
    logits = Defense(Identity(), net)(x)
    assert traits(net) == before
    torch.testing.assert_close(logits, copy.deepcopy(net).eval()(x))
    net(x).sum().backward()  # it still trains
    assert net.out.weight.grad is not None


def test_networks_of_a_plain_purifier_are_frozen_in_a_copy_and_counted() -> None:
    purifier, x = Plain(), torch.rand(4, 3, 8, 8)
    held = [purifier.net, purifier.more[0], purifier.named["last"]]
    before = [traits(net) for net in held]
    defense = Defense(purifier, Flattening())
    assert [traits(net) for net in held] == before
    rng = Rng.seeded(0, range(4))
    with count_passes(defense.networks()) as passes:
        one = defense.purify(x, rng=rng)
    assert dict(passes) == {"net forward": 4, "more.0 forward": 4, "named.last forward": 4}
    assert torch.equal(one, defense.purify(x, rng=rng)), "dropout is on"
    assert not any(p.requires_grad for p in defense.parameters())
    assert defense.to(torch.float64).purifier.net[0].weight.dtype == torch.float64


def test_what_is_frozen_already_is_not_copied() -> None:
    net = frozen(Flattening())
    assert Defense(Identity(), net).classifier is net


def test_what_cannot_be_copied_says_what_to_do() -> None:
    purifier = Plain()
    purifier.named["lock"] = threading.Lock()
    with pytest.raises(PluginError, match=r"cannot be copied .*Call \.eval\(\)"):
        Defense(purifier, Flattening())


class Nested(nn.Module):
    """A network that calls another one, of which the purifier holds both."""

    stochastic, differentiable = False, True

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)
        self.outer = nn.Sequential(self.inner, nn.Conv2d(3, 3, 1))

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        cleaned: Tensor = self.outer(x)
        return cleaned


def test_a_network_within_a_network_is_part_of_its_pass() -> None:
    defense = Defense(Nested(), Flattening())
    with count_passes(defense.networks()) as passes:
        defense.purify(torch.rand(9, 3, 8, 8), rng=Rng.seeded(0, range(9)))
    assert dict(passes) == {"outer forward": 9}


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, *, timestep: Any, sample: Tensor) -> dict[str, Tensor]:
        return {"sample": self.conv(sample) + timestep}


@pytest.mark.parametrize("step", [3, torch.tensor(3), torch.tensor([3])], ids=str)
def test_a_network_called_by_name_is_counted_both_ways(step: Any) -> None:
    net, x = Unet(), torch.rand(5, 3, 8, 8, requires_grad=True)
    with count_passes({"unet": net}) as passes:
        found = net(timestep=step, sample=x)["sample"]
        (gradient,) = torch.autograd.grad(found.sum(), x)
    assert dict(passes) == {"unet forward": 5, "unet backward": 5}
    plain = torch.autograd.grad(net(timestep=step, sample=x)["sample"].sum(), x)
    assert torch.equal(gradient, plain[0])


def test_a_call_that_fails_leaves_the_count_of_the_next_one_right() -> None:
    net = nn.Conv2d(3, 3, 1)
    with count_passes({"net": net}) as passes:
        with pytest.raises(RuntimeError):
            net(torch.rand(2, 5, 8, 8))
        net(torch.rand(2, 3, 8, 8))
    assert passes["net forward"] == 4


def closure() -> Callable[[Tensor], Tensor]:
    net = denoiser()
    return lambda x: net(x)


@pytest.mark.parametrize(
    "thing",
    [denoiser(), [denoiser()], {"a": (denoiser(),)}, Plain(), closure(),
     functools.partial(torch.add, other=nn.Linear(1, 1)), denoiser().forward],
    ids=["module", "list", "mapping", "dataclass", "closure", "partial", "method"],
)  # fmt: skip
def test_weights_are_found_wherever_they_are(thing: Any) -> None:
    (network, *_) = modules_in(thing)
    before = digest_of_weights(thing)
    assert before == digest_of_weights(thing) is not None
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1
    assert digest_of_weights(thing) != before


def test_tensors_arrays_and_buffers_are_weights_too() -> None:
    net = nn.BatchNorm2d(3)
    before = digest_of_weights(net)
    net.running_mean[0] = 1
    assert digest_of_weights(net) != before
    tensors = [torch.zeros(2, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    found = {digest_of_weights(thing) for thing in [*tensors, np.zeros(2), np.zeros(3)]}
    assert len(found) == 4
    assert digest_of_weights(Identity(), "text", 3) is None


def test_a_purifier_without_parts_is_its_own_network() -> None:
    conv = nn.Conv2d(3, 3, 1)
    assert called_networks(conv) == {"Conv2d": conv}
