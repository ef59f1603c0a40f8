"""A step as one launch: for few images a GPU waits for launches and not for arithmetic."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bench.api import counted_as

Work = Callable[..., Tensor]
_FEW = 256  # rows, beyond which a GPU waits for arithmetic and a graph needs much memory
_OFTEN = 16  # calls, after which a recording, which takes about eight, is worth it
_MOST = 8  # graphs of one network: each holds memory of its own


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
        return tried(self._work, given) or self._work


def tried(work: Work, given: tuple[Tensor, ...]) -> Work | None:
    """Record work; None where its device cannot, it fails, or the replay gives other bits."""
    record = RECORDERS.get(given[0].device.type)
    if record is None:
        return None
    with suppress(Exception):  # whatever a driver raises: nothing depends on a graph
        replay = record(work, given)
        if torch.equal(replay(*given), work(*given)):
            return replay
    return None


class ReplayedPasses:
    """Work on a network and tensors of its rows, replayed for few rows that come often.

    Rows leave an attack and a vote one by one, so each of their numbers has its own graph, and
    the oldest go. A graph reads the weights where they lie: weights that lie elsewhere have
    others. ``backwards`` says how often one piece of work goes back to the network's input.
    """

    def __init__(self, work: Callable[..., Tensor], *, backwards: int) -> None:
        self._work, self._backwards = work, backwards
        self._kept: WeakKeyDictionary[nn.Module, _Recordings] = WeakKeyDictionary()

    def __call__(self, network: nn.Module, *given: Tensor) -> Tensor:
        """Do the work for tensors of one device, each of N rows."""
        if given[0].device.type not in RECORDERS or len(given[0]) > _FEW:
            return self._work(network, *given)
        kept = self._kept.get(network)
        if kept is None:
            kept = self._kept[network] = _Recordings()
        with counted_as(network, 0, backwards=0):
            replay = kept.find(network, partial(self._work, network), given)
        if replay is None:
            return self._work(network, *given)
        counted = counted_as(network, len(given[0]), backwards=self._backwards)
        with counted, torch.inference_mode(False), torch.no_grad():
            return replay(*given)


class _Recordings:
    """The graphs of one network, by what they read and how many rows they have."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[object, ...]] = Counter()
        self._graphs: OrderedDict[tuple[object, ...], Work | None] = OrderedDict()

    def find(self, network: nn.Module, work: Work, given: tuple[Tensor, ...]) -> Work | None:
        weights = [*network.parameters(), *network.buffers()]
        key = (given[0].shape, given[0].dtype, *(one.data_ptr() for one in weights))
        if key not in self._graphs:
            self._calls[key] += 1
            if self._calls[key] <= _OFTEN:
                return None
            del self._calls[key]
            self._graphs[key] = tried(work, given)
            if len(self._graphs) > _MOST:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        return self._graphs[key]
