"""What all checks share: the device, what was asked, what is said, and clocks."""

from __future__ import annotations

import time
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

torch.set_num_threads(1)
CUDA = torch.cuda.is_available()
NAME = "cuda" if CUDA else "cpu"
CPU = torch.device("cpu")
ROWS = (100, 1000, 5000, 8192) if CUDA else (100,)
FOUND: dict[str, Any] = {}
BEGUN = time.monotonic()
ASKED: dict[str, Any] = {
    "seconds": 600.0,  # after which a check begins nothing more
    "part": (0, 1),  # of the small cells: this one of so many
}


def say(state: str, text: str) -> None:
    print(f"{state:4s} {text}", flush=True)
    FOUND.setdefault("lines", []).append(f"{state} {text}")


def late() -> bool:
    return time.monotonic() - BEGUN > float(ASKED["seconds"])


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def device() -> torch.device:
    from bench.results.workspace import open_device

    return open_device(NAME)


def timed(work: Any, *, repeats: int = 7, least_s: float = 0.05) -> float:
    """Median seconds of a call, synchronised; several calls a round where one is short."""
    work()
    wait()
    begun = time.perf_counter()
    work()
    wait()
    calls = max(1, min(200, int(least_s / max(1e-6, time.perf_counter() - begun))))
    rounds = []
    for _ in range(repeats if CUDA else 3):
        begun = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        rounds.append((time.perf_counter() - begun) / calls)
    return median(rounds)


def graphed(work: Any) -> Any:
    """Capture work as a CUDA graph: its replay is the GPU's own time, without launches."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's has no types
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def graph_us(work: Any) -> float | str:
    """Time the replay of a graph of some work; return why where it cannot be captured."""
    try:
        return 1e6 * timed(graphed(work))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:150]


def shown(entry: dict[str, Any]) -> str:
    return ", ".join(
        f"{k} {v:,.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()
    )


def plain() -> Any:
    """Draw as without Triton while this is entered: by torch's operations, one after the other."""
    return patch("bench.core.rng._one_kernel", lambda _: None)


def kernels(work: Any) -> int | None:
    """Count the kernels of one call by CUPTI; None where that is not available."""
    if not CUDA:
        return None
    try:
        from torch.profiler import ProfilerActivity, profile

        work()
        wait()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            work()
            wait()
        return sum(
            1
            for event in seen.events()
            if str(event.device_type).endswith("CUDA") and "Mem" not in event.name
        )
    except Exception as error:
        say("SEE", f"no kernel counts: {type(error).__name__}: {error}"[:200])
        return None
