"""A step as one launch: for few images a GPU waits for launches and not for arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Work = Callable[..., Tensor]


def recorded(work: Work, given: tuple[Tensor, ...]) -> Work:
    """Record work on tensors of these shapes as a CUDA graph; return what replays it."""
    held = [one.clone() for one in given]
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's has no types
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries set themselves up before anything is recorded
        for _ in range(3):
            work(*held)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work(*held)

    def replay(*given: Tensor) -> Tensor:
        for one, other in zip(held, given, strict=True):
            one.copy_(other)
        graph.replay()
        return found.clone()

    return replay


RECORDERS: dict[str, Callable[[Work, tuple[Tensor, ...]], Work]] = {"cuda": recorded}


class Replayed:
    """Work on tensors of always the same shapes, replayed where its device can.

    Weights that it reads may change in place only. Where recording fails, or its first replay
    gives other bits than the work itself, every call does the work as it is written.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._call: Work | None = None

    def __call__(self, *given: Tensor) -> Tensor:
        """Do the work on tensors of one device."""
        if self._call is None:
            self._call = self._tried(given)
        return self._call(*given)

    def _tried(self, given: tuple[Tensor, ...]) -> Work:
        record = RECORDERS.get(given[0].device.type)
        if record is None:
            return self._work
        try:
            replay = record(self._work, given)
            same = torch.equal(replay(*given), self._work(*given))
        except Exception:  # whatever a driver raises: nothing depends on a graph
            return self._work
        return replay if same else self._work
