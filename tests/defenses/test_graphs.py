"""Replayed work: used only where it can be recorded and gives the same bits."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor

from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench_defenses.energies import graphs
from bench_defenses.energies.graphs import Replayed, Work
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet

GIVEN = (torch.arange(3.0), torch.ones(3))


def work(x: Tensor, move: Tensor) -> Tensor:
    return 2 * x + move


class Recorder:
    """Replays work with an error of its own, and counts its replays."""

    def __init__(self, error: float = 0.0, fails: bool = False) -> None:
        self.error, self.fails, self.replays = error, fails, 0

    def __call__(self, work: Work, given: tuple[Tensor, ...]) -> Work:
        if self.fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

        def replay(*given: Tensor) -> Tensor:
            self.replays += 1
            return work(*given) + self.error

        return replay


@pytest.mark.parametrize(
    ("recorder", "replays"),
    [(Recorder(), 4), (Recorder(error=1e-6), 1), (Recorder(fails=True), 0)],
    ids=["same", "other bits", "fails"],
)
def test_a_recording_is_used_where_it_gives_the_same_bits(
    recorder: Recorder, replays: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(graphs.RECORDERS, "cpu", recorder)
    step = Replayed(work)
    for _ in range(3):
        assert torch.equal(step(*GIVEN), work(*GIVEN))
    assert recorder.replays == replays


def test_a_cpu_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graphs.RECORDERS, "cuda", Recorder(fails=True))
    step = Replayed(work)
    assert torch.equal(step(*GIVEN), work(*GIVEN))
    assert step._call is work


class Trace:
    """Records by itself, and tells how often it recorded and replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, work: Work, given: tuple[Tensor, ...]) -> Work:
        self.recorded += 1

        def replay(*given: Tensor) -> Tensor:
            self.replayed += 1
            with torch.enable_grad():
                return work(*given).detach()

        return replay


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    found = Trace()
    monkeypatch.setitem(graphs.RECORDERS, "cpu", found)
    monkeypatch.setattr(graphs, "_OFTEN", 2)
    return found


def walk() -> LangevinPurifier:
    torch.manual_seed(0)
    energy = EnergyNet((1, 8, 8), width=2).requires_grad_(False)
    return LangevinPurifier(energy, steps=4, step_size=5.0, noise=0.03)


def purified(purifier: LangevinPurifier, rows: int = 3) -> tuple[Tensor, Tensor, Counter[str]]:
    """Return purified images, the gradient of their squares, and the passes of both."""
    rng = Rng.seeded(3, range(rows))
    x = rng.fork("x").uniform((1, 8, 8)).requires_grad_()
    with count_passes({"energy": purifier.energy}) as passes:
        found = purifier.purify(x, rng=rng)
        (gradient,) = torch.autograd.grad(found.square().sum(), x)
    return found.detach(), gradient, passes


def test_replayed_steps_are_the_same_and_count_the_same(trace: Trace) -> None:
    purifier = walk()
    graphs.RECORDERS.pop("cpu")
    found, gradient, passes = purified(purifier)
    graphs.RECORDERS["cpu"] = trace
    for _ in range(3):
        again = purified(purifier)
        assert torch.equal(again[0], found)
        assert torch.equal(again[1], gradient)
        assert again[2] == passes == {"energy forward": 24, "energy backward": 36}
    assert trace.recorded == 2  # the gradient, and the curvature
    assert trace.replayed == 2 + 2 * (3 * 4 - 2)


def test_nothing_is_counted_of_a_network_that_is_not_asked_about(trace: Trace) -> None:
    purifier = walk()
    purified(purifier)
    with count_passes({"other": walk().energy}) as passes:
        purifier.purify(torch.rand(3, 1, 8, 8), rng=Rng.seeded(3, range(3)))
    assert trace.replayed
    assert not passes


def test_weights_that_lie_elsewhere_are_recorded_anew(trace: Trace) -> None:
    purifier = walk()
    purified(purifier)
    purifier.energy.head[2].weight.data.mul_(2)  # in place: a graph reads it where it lies
    purified(purifier)
    assert trace.recorded == 2
    for module in (purifier, copy.deepcopy(purifier)):
        module.energy.double()
        rng = Rng.seeded(3, range(3))
        module.purify(rng.uniform((1, 8, 8)).double(), rng=rng)
    assert trace.recorded == 4


def test_many_rows_are_not_recorded_and_old_graphs_go(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    purifier = walk()
    purified(purifier, rows=257)
    assert trace.recorded == 0
    monkeypatch.setattr(graphs, "_MOST", 2)
    for rows in (1, 2, 3, 3, 1):  # 1 was the oldest and is recorded again
        purified(purifier, rows)
    assert trace.recorded == 2 * 4


def test_what_a_failing_recording_tried_is_not_counted(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    purifier = walk()
    passes = [purified(purifier)[2]]
    monkeypatch.setitem(graphs.RECORDERS, "cpu", Recorder(fails=True))
    monkeypatch.setattr(graphs, "_OFTEN", 0)
    passes += [purified(walk())[2], purified(walk())[2]]
    assert passes[0] == passes[1] == passes[2]
