"""What a function finds in globals and closures is held in copies; its noise is ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.networks import called_networks, digest_of_weights, freeze
from bench.core.rng import Rng
from bench.plugins.as_classifier import as_classifier
from bench.plugins.as_defense import as_defense
from bench.plugins.catalogue import build
from bench.plugins.thing import Thing

SHAPE = (1, 4, 4)
OWN = {__name__: globals()}
net = nn.BatchNorm2d(1)


def by_global(x: Tensor) -> Any:
    return helper(x)


def helper(x: Tensor) -> Any:
    return net(x)


def by_closure() -> Any:
    inner = nn.BatchNorm2d(1)

    def purify(x: Tensor) -> Any:
        return inner(x)

    return purify


def by_itself(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def with_generator(x: Tensor, *, generator: torch.Generator) -> Tensor:
    return x + torch.randn(x.shape, generator=generator)


def purifier(function: Any) -> Any:
    return as_defense(Thing(function, "mine.py:purify", OWN))().purifier(shape=SHAPE)


def streams(n: int = 3, seed: int = 0) -> Rng:
    return Rng.seeded(seed, range(n))


@pytest.mark.parametrize("make", [lambda: by_global, by_closure], ids=["global", "closure"])
def test_the_user_s_network_stays_and_every_copy_has_its_own(make: Any) -> None:
    function, x = make(), torch.rand(3, *SHAPE)
    theirs = net if function is by_global else function.__closure__[0].cell_contents
    held = purifier(function)
    freeze(held)
    assert theirs.training
    assert theirs.weight.requires_grad
    other = copy.deepcopy(held)
    (ours,), (copied,) = (list(called_networks(one).values()) for one in (held, other))
    assert len({id(one) for one in (theirs, ours, copied)}) == 3
    with torch.no_grad():
        copied.weight.mul_(2)
    before = held.purify(x, rng=streams())
    assert torch.allclose(other.purify(x, rng=streams()), 2 * before)
    assert torch.equal(held.purify(x, rng=streams()), before)
    assert torch.equal(theirs.running_mean, torch.zeros(1)), "it was called in training mode"
    now = net if function is by_global else function.__closure__[0].cell_contents
    assert now is theirs
    assert digest_of_weights(held) != digest_of_weights(other)


def test_a_classifier_may_be_a_function_as_well() -> None:
    made = as_classifier(Thing(by_closure(), "mine.py:logits", OWN))().network(
        shape=SHAPE, classes=2
    )
    freeze(made)
    assert torch.is_tensor(made(torch.rand(2, *SHAPE)))
    assert digest_of_weights(made) is not None


@pytest.mark.parametrize("function", [by_itself, with_generator])
def test_noise_that_is_not_ours_is_that_of_the_stream(function: Any) -> None:
    held, x = purifier(function), torch.zeros(3, *SHAPE)
    state = torch.get_rng_state()
    first = held.purify(x, rng=streams())
    held.purify(x, rng=streams().fork("another call"))
    assert torch.equal(held.purify(x, rng=streams()), first)
    for other in (streams(seed=1), streams().fork("other"), streams().repeat(2)[1::2]):
        assert not torch.equal(held.purify(x, rng=other), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first.unique()) == first.numel()
    assert held.purify(x[:0], rng=streams(0)).shape == (0, *SHAPE)


def test_each_file_has_its_own_module_beside_it(tmp_path: Path) -> None:
    x, made = torch.ones(1, *SHAPE), []
    for factor in (2.0, 3.0):
        folder = tmp_path / str(factor)
        folder.mkdir()
        (folder / "parts.py").write_text(f"factor = {factor}\n")
        (folder / "mine.py").write_text(
            "from parts import factor\ndef purify(x):\n    return factor * x\n"
        )
        plugin = build("defenses", f"{folder / 'mine.py'}:purify", {})
        made.append(plugin.purifier(shape=SHAPE))
    found = [float(one.purify(x, rng=streams(1)).mean()) for one in made]
    assert found == [2.0, 3.0]
