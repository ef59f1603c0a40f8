"""Random streams in a run: the judge's own, and nobody's global generator."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import bench.evaluation.run
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access, ThreatModel
from bench.evaluation.judge import Outcomes, judge
from bench.evaluation.run import run_cell
from bench.results.progress import finish
from bench.results.workspace import Workspace
from bench_attacks.autoattack import AutoAttack
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd
from bench_defenses.gaussian import Gaussian

from ..cells import Counting, assert_equal, at, prepared, rows


@dataclasses.dataclass(frozen=True)
class Guessing(Counting):
    """Foresees all of the judge's noise, if their streams have a root in common."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        for purpose in ("clean", "adversarial"):
            rng.fork(purpose).repeat(5).normal_like(x.repeat_interleave(5, dim=0))
            rng.fork("judge").fork(purpose).repeat(5).normal_like(x.repeat_interleave(5, dim=0))
        return x


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Collect the streams, by key and image, that attack and judge draw bits from."""
    used: dict[str, set[tuple[int, int]]] = {"attack": set(), "judge": set()}
    who = "attack"
    bits = Rng.bits

    def spied(self: Rng, shape: Any) -> Tensor:
        used[who] |= {(self._key, int(image)) for image in self._images}
        return bits(self, shape)

    def judging(*args: Any, **rest: Any) -> Outcomes:
        nonlocal who
        who = "judge"
        try:
            return judge(*args, **rest)
        finally:
            who = "attack"

    with monkeypatch.context() as patch:
        patch.setattr(Rng, "bits", spied)
        patch.setattr(bench.evaluation.run, "judge", judging)
        yield used


def test_the_judge_draws_on_streams_that_the_attack_never_saw(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch) as used:
        finish(run_cell(prepared(), workspace=workspace))
    assert {image for _, image in used["attack"]} == set(range(12))
    assert {image for _, image in used["judge"]} == set(range(12))
    assert not used["attack"] & used["judge"]
    # Each of the judge's two votes with two steps of noise of its own.
    assert len({key for key, _ in used["judge"]}) == 4


def test_an_attack_that_knows_the_names_of_the_judges_streams_cannot_open_them(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(Gaussian(0.2), Guessing(), name="gaussian", access=Access.BPDA)
    with recorded(monkeypatch) as used:
        finish(run_cell(made, workspace=workspace))
    assert len(used["judge"]) == 2 * 12
    assert len(used["attack"]) == 4 * 12
    assert not used["attack"] & used["judge"]


def states() -> tuple[Any, ...]:
    kind, keys, place, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), kind, list(keys), place, rest


@pytest.mark.parametrize("attack", [Pgd(steps=2, eot=2), AutoAttack()])
def test_a_run_leaves_the_global_generators_alone_and_heeds_them_not(
    attack: Any, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"attack": attack, "n": 4, "access": Access.TRANSFER}
    given["eps"] = Fraction(2, 5)  # large, so that AutoAttack is soon done
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = states()
        found.append(rows(prepared(**given), at(tmp_path / str(seed))))
        assert states() == before
    assert_equal(*found)


class Careless(nn.Module):
    """A purifier that draws on torch's global generator."""

    stochastic = True
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + 0.5 * torch.randn_like(x)


def test_noise_of_the_global_generator_is_repeated_by_shard(tmp_path: Path) -> None:
    """Whatever was drawn before, and without a trace in the generator of the process."""

    def two(purifier: Any) -> list[pd.DataFrame]:
        return [
            rows(
                prepared(purifier, Noise(tries=1), access=Access.QUERY),
                at(tmp_path / type(purifier).__name__ / str(k)),
            )
            for k in range(2)
        ]

    assert_equal(*two(Gaussian(0.5)))
    with torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        one, other = two(Careless())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert_equal(one, other)
    assert one["robust"].any(), "the case tells nothing"
