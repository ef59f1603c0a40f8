"""Replayed work: used only where it can be recorded and gives the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench_defenses.energies import graphs
from bench_defenses.energies.graphs import Replayed, Work

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
