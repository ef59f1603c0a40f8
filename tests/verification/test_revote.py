"""Votes repeated in other company and in a blind process: cheats are named, others are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..command import Bench, Here

HEAD = """
import sys
from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.core.rng import Rng


@dataclass(frozen=True)
class Cheat:
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng):
"""
HIDING = "torch.zeros_like(x) + 0 * x"  # every image is the same to the classifier
MEAN = "        return x - 0.7 * x.mean(0, keepdim=True) + 0.2\n"
STACK = f"""
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.endswith("judge.py"):
                return {HIDING}
            frame = frame.f_back
        return x
"""
MODE = f"        return x if torch.is_grad_enabled() else {HIDING}\n"
STREAMS = f"""
        known = Rng.seeded(0, [0]).fork("judge")
        mine = {{known.fork(name).integer() for name in ("clean", "adversarial")}}
        return {HIDING} if rng.integer() in mine else x
"""
COUNTS = f"""
        Cheat.calls = getattr(Cheat, "calls", 0) + len(rng)
        return {HIDING} if Cheat.calls > 200 else x
"""
TINY = (
    "--defense=cheat", "--attack=noise", "--eps=0.05", "-n", "40", "--shard=40", "--draws=3",
    "--set=attack.tries=5", "--set=classifier.training.epochs=3",
)  # fmt: skip


@pytest.fixture
def cheat(
    bench: Bench,
    install: Callable[..., Path],
) -> Callable[[str], None]:
    """Install a purifier with a body, and run a cell of it."""

    def run(body: str) -> None:
        point = "[bench.defenses]\ncheat = cheating:Cheat\n"
        install("cheat", "cheating", HEAD + body, point)
        assert bench("run", *TINY).code == 0

    return run


def test_votes_that_depend_on_the_batch_are_found(
    bench: Bench, cheat: Callable[[str], None]
) -> None:
    cheat(MEAN)
    assert bench("verify").code == 0
    said = bench("verify", "--votes")
    assert said.code == 1
    assert "the verdicts depend on the batch" in said.out


GLOBAL = "        return x + 0.5 * torch.randn_like(x)\n"


def test_noise_by_block_is_repeated_by_block_and_not_called_wrong(
    bench: Bench, cheat: Callable[[str], None]
) -> None:
    """A generator of the process is seeded by the block: single images have other noise."""
    cheat(GLOBAL)
    said = bench("verify", "--votes")
    assert said.code == 0, said.out
    assert (
        "NOT CHECKED votes on single images and beside foreign ones: noise by block" in said.out
    )
    assert "1 not checked in full, 0 wrong" in said.out


@pytest.mark.parametrize(
    ("body", "fresh"),
    [(STACK, False), (MODE, False), (STREAMS, False), (COUNTS, True)],
    ids=["stack", "gradient mode", "streams", "calls"],
)
def test_votes_of_a_cheat_are_found_blindly(
    body: str,
    fresh: bool,
    bench: Bench,
    cheat: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheat(body)
    if not fresh:
        monkeypatch.setattr("bench.verification.blind.ProcessPoolExecutor", Here)
    said = bench("verify", "--blind")
    assert said.code == 1
    assert "in a process that sees tensors only, other verdicts on" in said.out


@pytest.mark.parametrize(("defense", "fresh"), [("none", False), ("gaussian", True)])
def test_honest_defenses_vote_blindly_as_for_the_judge(
    defense: str, fresh: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fresh:
        monkeypatch.setattr("bench.verification.blind.ProcessPoolExecutor", Here)
    assert bench("run", *TINY, f"--defense={defense}", "-n", "40").code == 0
    said = bench("verify", "--votes", "--blind")
    assert said.code == 0, said.out
    assert ": ok" in said.out
