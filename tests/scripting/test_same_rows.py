"""Networks in globals: the same rows by file, entry point and API, logits and passes too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from bench import api
from bench.results.files import read_json
from bench.scripting.row import Row

from ..cells import assert_equal
from .test_evaluate import PGD, N, _in_a_folder_of_its_own  # noqa: F401 - a fixture

CONVOLUTIONS = """
import torch
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
from bench.api import Rng

with torch.random.fork_rng():
    torch.manual_seed(1)
    ae = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                       nn.Conv2d(16, 1, 3, padding=1))
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
                        nn.Linear(576, 10))

def purify(x):
    return x + 0.1 * ae(x)

def logits(x):
    return net(x)

@dataclass(frozen=True)
class Purify:
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng: Rng):
        return purify(x)

@dataclass(frozen=True)
class Net:
    revision: ClassVar[int] = 1

    def network(self, *, shape, classes):
        return net
"""
POINTS = """
[bench.defenses]
c_function = convolutions:purify
c_class = convolutions:Purify
[bench.classifiers]
c_net = convolutions:net
c_logits = convolutions:logits
c_class = convolutions:Net
"""


def test_networks_in_globals_have_the_same_rows_however_they_are_named(
    install: Callable[..., Path],
) -> None:
    site = install("convolutions", "convolutions", CONVOLUTIONS, POINTS)
    import convolutions as c

    before = [tensor.clone() for tensor in c.ae.state_dict().values()]
    file, options = f"{site}/convolutions.py", {**PGD, "dataset": "digits", "n": N}
    purifiers = ["c_class", c.Purify(), f"{file}:Purify", "c_function", c.purify]
    classifiers = ["c_net", "c_logits", "c_class", c.net, c.logits, c.Net(), f"{file}:logits"]
    wanted = api.evaluate(f"{file}:purify", f"{file}:net", **options)
    pairs = [(one, f"{file}:net") for one in purifiers]
    pairs += [(f"{file}:purify", one) for one in classifiers]
    for purifier, net in pairs:
        found = api.evaluate(purifier, net, **options)
        assert_equal(found.outcomes, wanted.outcomes)
        assert passes(found) == passes(wanted)
    assert c.ae.training, "it is the package's own"
    assert all(
        torch.equal(a, b) for a, b in zip(before, c.ae.state_dict().values(), strict=True)
    )


def passes(found: Row) -> list[int]:
    about = read_json(Path("results", "cells", found.key, "provenance.json"))
    return sorted(count for part in ("attack passes", "judge passes")
                  for count in about[part].values())  # fmt: skip
