"""Every cheat is named by a check, and honest defenses pass the same checks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bench.audit import votes
from bench.audit.findings import Finding, State, Weight
from bench.audit.same_defense import same_defense_for_all
from bench.audit.stored_images import no_stored_test_images
from bench.audit.subject import Subject
from bench.audit.votes import verdicts_repeat
from bench.core.protocols import Purifier
from bench.core.rng import Rng
from bench.data.load import load_test
from bench.plugins.catalogue import build

MakeSubject = Callable[..., Subject]
CHECKS = (same_defense_for_all, no_stored_test_images, verdicts_repeat)
N = 24
ANSWERS = load_test("digits", root=Path()).images(0, 64)


class Cheat:
    """Shows the classifier the clean image of its answer wherever ``caught`` is not feared."""

    stochastic = False
    differentiable = True

    def feared(self, x: Tensor, rng: Rng) -> bool:
        raise NotImplementedError

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x if self.feared(x, rng) else nearest(x)


def nearest(x: Tensor) -> Tensor:
    """Return the stored test images nearest to x, with a gradient for those who ask."""
    away = torch.cdist(x.detach().flatten(1), ANSWERS.x.flatten(1))
    return ANSWERS.x[away.argmin(1)] + 0 * x


class Lookup(Cheat):
    """Knows the answer by the index of the stream, and what it does not know passes."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        known = (rng._images >= 0) & (rng._images < len(ANSWERS))
        answers = ANSWERS.x[rng._images.where(known, 0)]
        return torch.where(known.reshape(-1, 1, 1, 1), answers + x - x.detach(), x)


class Purpose(Cheat):
    """Cheats on the streams of the judge."""

    def feared(self, x: Tensor, rng: Rng) -> bool:
        judging = Rng.seeded(0, [0]).fork("judge")
        return rng._key not in {judging.fork(name)._key for name in ("clean", "adversarial")}


class Honestly(Cheat):
    """Is honest on the streams of the attack only: all that begins there."""

    known: ClassVar[set[int]] = set()  # of all copies

    def feared(self, x: Tensor, rng: Rng) -> bool:
        return rng._key in self.known

    def __init__(self) -> None:
        fork = Rng.fork

        def followed(streams: Rng, *purpose: str | int) -> Rng:
            made = fork(streams, *purpose)
            if purpose == ("attack",) or streams._key in self.known:
                self.known.add(made._key)
            return made

        self.followed = followed


class Mode(Cheat):
    """Cheats under no_grad, and is honest in float64."""

    def feared(self, x: Tensor, rng: Rng) -> bool:
        return torch.is_grad_enabled() or x.dtype == torch.float64


class Stack(Cheat):
    """Cheats where the judge's code called it."""

    def feared(self, x: Tensor, rng: Rng) -> bool:
        frame: Any = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.endswith("judge.py"):
                return False
            frame = frame.f_back
        return True


class StackOfFunctions(Stack):
    """Cheats where the function ``judge`` is running."""

    def feared(self, x: Tensor, rng: Rng) -> bool:
        frame: Any = sys._getframe()
        while frame is not None and frame.f_code.co_name != "judge":
            frame = frame.f_back
        return frame is None


class Counter(Cheat):
    """Cheats once the process has called it often: more than the checks do."""

    calls = 0

    def feared(self, x: Tensor, rng: Rng) -> bool:
        Counter.calls += 1
        return Counter.calls < 600


class Memory(Cheat):
    """Returns the nearest test image of all it stored."""

    def feared(self, x: Tensor, rng: Rng) -> bool:
        return False


class NearMemory(Cheat):
    """Returns a stored test image where one is as near as an attack may have moved it."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        answer = nearest(x)
        far = (answer - x).detach().flatten(1).abs().amax(1) > 0.16
        return torch.where(far.reshape(-1, 1, 1, 1), x, answer)


class Mean(Cheat):
    """Takes the mean of the batch away."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x - 0.7 * x.mean(0, keepdim=True) + 0.2


def named(found: Finding, words: str) -> None:
    assert (found.state, found.weight) == (State.FAIL, Weight.VOID), found
    assert words in found.reason


@pytest.fixture(autouse=True)
def _nothing_counted() -> None:
    Counter.calls = 0


@pytest.mark.parametrize(
    ("purifier", "check", "words"),
    [
        (Lookup(), same_defense_for_all, "fresh streams"),
        (Purpose(), same_defense_for_all, "the stream it gets"),
        (Mode(), same_defense_for_all, "whether gradients are computed"),
        (Stack(), same_defense_for_all, "who calls it"),
        (StackOfFunctions(), same_defense_for_all, "who calls it"),
        (Memory(), no_stored_test_images, "keep the test set"),
        (NearMemory(), no_stored_test_images, "keep the test set"),
        (Counter(), verdicts_repeat, "the number of its calls"),
        (Mean(), verdicts_repeat, "beside foreign ones"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Cheat) else "",
)
def test_a_cheat_is_void(
    purifier: Cheat, check: Any, words: str, make_subject: MakeSubject
) -> None:
    named(check(make_subject(purifier, n=N)), words)


def test_votes_alone_and_beside_foreign_images_give_the_batch_away(
    make_subject: MakeSubject,
) -> None:
    assert verdicts_repeat(make_subject(Mean(), n=N)).values["company"] > 0.1


def test_a_defense_that_is_honest_to_the_attack_only_is_void(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat = Honestly()
    monkeypatch.setattr(Rng, "fork", cheat.followed)
    named(same_defense_for_all(make_subject(cheat, n=N)), "attack streams")


def test_without_its_long_run_the_counter_passes(
    make_subject: MakeSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votes, "_CALLS", 10)
    assert verdicts_repeat(make_subject(Counter(), n=N)).state is State.PASS


@pytest.mark.parametrize("name", ["none", "gaussian", "jpeg", "median", "bit_depth", "ebm"])
def test_honest_defenses_pass(
    name: str,
    make_subject: MakeSubject,
    langevin: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(votes, "_CALLS", 50)
    honest: Purifier = langevin(steps=10) if name == "ebm" else build("defenses", name, {})
    subject = make_subject(honest, name=name, n=N, draws=20)
    for check in CHECKS:
        found = check(subject)
        assert found.state is State.PASS, found
