"""The exact gradient through K Langevin steps: memory in K, and time against autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bench.core.protocols import Purifier
from bench.core.rng import Rng
from bench_defenses.energies.langevin import LangevinPurifier, energy_gradient
from benchmarks.clock import interleaved
from benchmarks.memory import peak
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, subject

ITEM = "full_gradient"
MIB = 2**20
_CLOSE = 1e-3  # of float32 sums in another order


def rows(settings: Settings) -> Iterator[Row]:
    """Measure time at K = 10 and the peak of memory at K = 10, 100 and 1,000."""
    found = subject(settings)
    for device in settings.devices:
        yield _time(settings, found, device)
        yield from _memory(settings, found, device)


def _time(settings: Settings, found: Subject, device: str) -> Row:
    n = settings.size(64, quick=8)
    work = {
        "exact": gradient(found, 10, n, device, exact=True),
        "autograd": gradient(found, 10, n, device, exact=False),
    }
    one, other = work["exact"](), work["autograd"]()
    apart = float((one - other).abs().max() / other.abs().max())
    return interleaved(work, repeats=settings.repeats, device=device).ratio(
        "exact",
        "autograd",
        item=ITEM,
        what=f"exact gradient / plain autograd on {device}: time, K = 10, {n} images",
        at_most=1.3,
        checked=f"gradients {'equal' if apart < _CLOSE else 'NOT equal'}: they differ by "
        f"{apart:.0e} of the largest",
        reason="each step's energy is evaluated again on the way back",
    )


def _memory(settings: Settings, found: Subject, device: str) -> Iterator[Row]:
    n = settings.size(8, quick=128)
    depths = (10, 100) if settings.quick else (10, 100, 1000)
    state = found.images(n).x.nbytes / MIB
    for name, exact in (("exact gradient", True), ("plain autograd", False)):
        peaks = {depth: _peak(settings, found, depth, n, device, exact) for depth in depths}
        for depth, mib in peaks.items():
            what = f"{name} on {device}: peak memory, K = {depth}, {n} images"
            yield Row(ITEM, what, mib, "MiB", repeats=1)
        first, last = depths[-2:]  # a GPU takes memory for graphs once a step came often
        grown = (peaks[last] - peaks[first]) / (last - first) / state
        yield Row(
            ITEM,
            f"{name} on {device}: memory a step, K = {first} to {last}",
            grown,
            "states",
            repeats=1,
            at_most=1.5 if exact else None,
            checked=f"a state is {n} images, {1024 * state:.1f} KiB",
            reason="only the states, no activations" if exact else "",
        )


def _peak(
    settings: Settings, found: Subject, depth: int, n: int, device: str, exact: bool
) -> float:
    if device.startswith("cuda"):
        run = gradient(found, depth, n, device, exact=exact)
        gradient(found, 2, n, device, exact=exact)()  # libraries take their workspaces first
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    return peak(
        "benchmarks.full_gradient:in_process",
        quick=settings.quick, data=str(settings.data), depth=depth, n=n, exact=exact,
    )  # fmt: skip


def in_process(
    *, quick: bool, data: str, depth: int, n: int, exact: bool
) -> Callable[[], Tensor]:
    """Prepare a gradient in a process of its own, libraries loaded and buffers taken."""
    torch.set_num_threads(1)
    found = subject(Settings(quick=quick, data=Path(data), scratch=Path()))
    gradient(found, 2, n, "cpu", exact=exact)()
    return gradient(found, depth, n, "cpu", exact=exact)


def gradient(
    found: Subject, depth: int, n: int, device: str, *, exact: bool
) -> Callable[[], Tensor]:
    """Build the gradient of the squared purified images, by K = ``depth`` steps."""
    images = found.images(n, device=device)
    rng = Rng.seeded(0, images.indices, device=images.x.device)
    shipped = found.defense(device=device).purifier
    assert isinstance(shipped, LangevinPurifier)
    purifier = LangevinPurifier(
        shipped.energy, steps=depth, step_size=shipped.step_size, noise=shipped.noise
    )
    purify: Purifier = purifier if exact else Plain(purifier)

    def run() -> Tensor:
        leaf = images.x.detach().requires_grad_()
        return torch.autograd.grad(purify.purify(leaf, rng=rng).square().sum(), leaf)[0]

    return run


class Plain:
    """The same Langevin steps, left to autograd."""

    stochastic = True
    differentiable = True

    def __init__(self, purifier: LangevinPurifier) -> None:
        self.of = purifier

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take all steps from x (N, C, H, W) on the streams of the purifier itself."""
        of = self.of
        for k in range(of.steps):
            noise = of.noise * rng.fork("langevin", k).normal_like(x)
            slope = energy_gradient(of.energy, x, create_graph=True)
            x = (x - of.step_size * slope + noise).clamp(0.0, 1.0)
        return x
