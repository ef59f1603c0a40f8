"""A bounded run of the fuzzer, and that it sees what it looks for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.errors import UsageError

from . import inputs, targets
from .targets import feed, one

INPUTS = 2000


def test_no_input_gives_a_traceback_a_hang_or_another_number(tmp_path: Path) -> None:
    counts, bad = feed(INPUTS, 0, tmp_path)
    assert bad == []
    assert sum(counts.values()) == INPUTS
    for target in targets.TARGETS:
        assert counts[f"{target.__name__} accepted"] > 0
    for name in ("eps", "settings", "plan", "rule"):
        assert counts[f"{name} refused"] > 0


def _broken(_: random.Random, __: Path) -> None:
    raise ValueError("x")


def _endless(_: random.Random, __: Path) -> None:
    while True:
        try:
            sum(range(1000))
        except Exception:
            pytest.fail("a hang is no exception that the tested code may catch")


def _refusing(_: random.Random, __: Path) -> None:
    raise UsageError("no")


def test_the_fuzzer_sees_each_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    monkeypatch.setattr(targets, "HANG_S", 0.05)
    assert one(_broken, rng, tmp_path).startswith("traceback: ValueError: x (test_fuzz.py:")
    assert one(_endless, rng, tmp_path) == "hang"
    assert one(_refusing, rng, tmp_path) == "refused"
    monkeypatch.setattr(inputs, "EPS", ["0.25"])
    monkeypatch.setattr(inputs, "mutated", lambda text, _: text)
    assert one(targets.eps, rng, tmp_path) == "accepted"
    monkeypatch.setattr(targets, "format_eps", lambda _: "0.5")
    assert one(targets.eps, rng, tmp_path).startswith("other number: '0.25' is kept as '0.5'")


def test_the_same_seed_makes_the_same_inputs() -> None:
    one, same, other = (
        [inputs.command(random.Random(seed)) for _ in range(20)] for seed in (1, 1, 2)
    )
    assert one == same != other
