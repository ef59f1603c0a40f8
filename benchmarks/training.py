"""Training an energy: iterations against their bare passes, and a Langevin step compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.trainable import Task
from bench_defenses.energies.contrastive import ContrastiveDivergence, ContrastiveRecipe
from bench_defenses.energies.langevin import energy_gradient
from bench_defenses.energies.network import EnergyNet
from benchmarks.clock import Times, interleaved
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, subject

ITEM = "training"
Run = Callable[[], object]
Step = Callable[[Tensor], Tensor]
_BATCH = 64


def rows(settings: Settings) -> Iterator[Row]:
    """Measure contrastive divergence, and the ways to run the Langevin steps in it."""
    found = subject(settings)
    for device in settings.devices:
        yield from _iteration(settings, found, device)
        yield from _steps(settings, found, device)


def _iteration(settings: Settings, found: Subject, device: str) -> Iterator[Row]:
    recipe = ContrastiveRecipe(
        chain_steps=settings.size(20, quick=2), bank=settings.size(1000, quick=64),
        width=settings.size(16, quick=2),
    )  # fmt: skip
    images = found.images(settings.size(1000, quick=64), device=device)
    run = ContrastiveDivergence(recipe, Task(images, images, 10, torch.device(device)))
    net = EnergyNet(tuple(images.x.shape[1:]), width=recipe.width).to(device)
    x, both = images.x[: recipe.batch], images.x[: 2 * recipe.batch]

    def bare() -> None:
        net.requires_grad_(False)
        for _ in range(recipe.chain_steps):
            energy_gradient(net, x)
        net.requires_grad_(True)
        torch.autograd.grad(net(both).sum(), list(net.parameters()))

    times = interleaved(
        {"iteration": run.advance, "bare": bare}, repeats=4 * settings.repeats, device=device
    )
    steps = f"{recipe.chain_steps} Langevin steps of {recipe.batch} images"
    yield times.ratio(
        "iteration", "bare", item=ITEM,
        what=f"an iteration / its bare passes on {device}: {steps}",
        checked=f"{recipe.chain_steps} input gradients of {len(x)} rows and one parameter "
        f"gradient of {len(both)} in both",
        reason="beside passes: noise and the bank, Adam, the average of the weights",
    )  # fmt: skip
    yield _rate("Langevin steps in training", times, "iteration", recipe.chain_steps, device)


def _steps(settings: Settings, found: Subject, device: str) -> Iterator[Row]:
    """Compare one Langevin step run eagerly, compiled, and on a GPU in bf16 and as a graph."""
    energy = found.defense(device=device).networks()["energy"]
    x = found.images(_BATCH, device=device).x
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    count = settings.size(20, quick=2)

    def step(x: Tensor) -> Tensor:
        return _moved(x, energy_gradient(energy, x), noise)

    def bare() -> None:
        for _ in range(count):
            energy_gradient(energy, x)

    def chain(one: Step) -> Run:
        def run() -> Tensor:
            state = x
            for _ in range(count):
                state = one(state)
            return state

        return run

    ways: dict[str, Callable[[], Step]] = {}
    if not settings.quick:  # to compile takes longer than all the rest of a smoke run
        ways["compiled"] = lambda: _compiled(energy, noise)
    if device.startswith("cuda"):
        ways["in bf16"] = lambda: _in_bf16(step)
        ways["as a graph"] = lambda: _graph(step, x)
        ways["in bf16 as a graph"] = lambda: _graph(_in_bf16(step), x)
    work: dict[str, Run] = {"bare": bare, "eager": chain(step)}
    checked: dict[str, str] = {}
    for name, make in ways.items():
        begun = time.perf_counter()
        try:
            one = make()
            apart = float((one(x) - step(x)).abs().max())
        except Exception as error:  # a missing compiler may raise anything
            reason = f"{type(error).__name__}: {error}"[:200]
            yield Row(ITEM, f"a Langevin step {name} on {device}", reason=reason)
            continue
        ready = time.perf_counter() - begun
        checked[name] = (
            f"one step differs by {apart:.0e} from the eager one; the first took {ready:.0f} s"
        )
        work[name] = chain(one)
    times = interleaved(work, repeats=settings.repeats, device=device)
    what = f"on {device}, {count} steps of {len(x)} images"
    yield times.ratio(
        "eager", "bare", item=ITEM, what=f"Langevin steps / bare input gradients {what}"
    )
    yield _rate("Langevin steps, eager", times, "eager", count, device)
    for name, apart_by in checked.items():
        yield times.ratio(
            "eager", name, item=ITEM, what=f"eager / {name} {what}", checked=apart_by
        )
        yield _rate(f"Langevin steps, {name}", times, name, count, device)


def _rate(what: str, times: Times, name: str, count: int, device: str) -> Row:
    """Turn the seconds of ``count`` steps into steps per second."""
    row = times.seconds(name, item=ITEM, what=f"{what} on {device}, batches of {_BATCH}")

    def rate(seconds: float | None) -> float | None:
        return count / seconds if seconds else None

    return replace(
        row, value=rate(row.value), unit="steps/s", low=rate(row.high), high=rate(row.low),
        cpu=rate(row.cpu),
    )  # fmt: skip


def _moved(x: Tensor, slope: Tensor, noise: Tensor) -> Tensor:
    return (x - 5.0 * slope.clamp(-0.03, 0.03) + 0.005 * noise).clamp(0.0, 1.0)


def _compiled(energy: nn.Module, noise: Tensor) -> Step:
    slope = torch.func.grad(lambda x: energy(x).sum())
    compiled: Step = torch.compile(lambda x: _moved(x, slope(x), noise))
    return compiled


def _in_bf16(step: Step) -> Step:
    def narrow(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return step(x)

    return narrow


def _graph(step: Step, x: Tensor) -> Step:
    """Capture one step as a CUDA graph that reads and writes the same memory."""
    source = x.clone()
    aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's has no types
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # as torch asks before a capture
        for _ in range(3):
            step(source)
    torch.cuda.current_stream().wait_stream(aside)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(source)

    def replayed(x: Tensor) -> Tensor:
        source.copy_(x)
        graph.replay()
        return result

    return replayed
