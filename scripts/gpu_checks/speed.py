"""What the parts of an evaluation cost, and the items of benchmarks/."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .common import (
    CUDA,
    NAME,
    ROWS,
    device,
    graph_us,
    kernels,
    late,
    plain,
    say,
    shown,
    timed,
    wait,
)


def speed() -> dict[str, Any]:
    """Passes per second, how much launches delay the GPU, layouts and precisions."""
    from bench.core.access import view_of
    from bench.core.defense import Defense
    from bench.core.eot import averaged_gradient
    from bench.core.losses import cross_entropy
    from bench.core.networks import frozen
    from bench.core.passes import count_passes
    from bench.core.precision import Lowered
    from bench.core.rng import Rng
    from bench.core.threat import Access
    from bench_defenses.classifiers.resnet18 import ResNet18Net
    from bench_defenses.classifiers.small_cnn import SmallCnnNet
    from bench_defenses.energies.langevin import LangevinPurifier, energy_gradient
    from bench_defenses.energies.network import EnergyNet

    where = device()
    found: dict[str, Any] = {}
    shape = (1, 28, 28)
    torch.manual_seed(0)
    energy, net = (
        frozen(EnergyNet(shape, width=16)).to(where),
        frozen(SmallCnnNet(shape, classes=10, width=16)).to(where),
    )
    purifier = LangevinPurifier(energy, steps=10, step_size=5.0, noise=0.02)
    quiet = LangevinPurifier(energy, steps=10, step_size=5.0, noise=0.0)
    for rows in ROWS:
        x, rng = (
            torch.rand(rows, *shape, device=where),
            Rng.seeded(0, range(rows), device=where),
        )
        low = Lowered(energy, torch.bfloat16)
        contiguous = copy.deepcopy(energy).to(memory_format=torch.contiguous_format)
        entry: dict[str, Any] = {}
        with torch.no_grad():
            for name, one in (("step", purifier), ("step without noise", quiet)):
                entry[f"{name} us"] = 1e6 * timed(lambda: one.step(x, rng=rng))
                if CUDA:
                    entry[f"{name} as a graph us"] = graph_us(lambda: one.step(x, rng=rng))
            if CUDA:
                with plain():
                    entry["step, noise by torch's operations us"] = 1e6 * timed(
                        lambda: purifier.step(x, rng=rng)
                    )
        entry["energy gradient us"] = 1e6 * timed(lambda: energy_gradient(energy, x))
        entry["in bfloat16 us"] = 1e6 * timed(lambda: energy_gradient(low, x))
        entry["contiguous us"] = 1e6 * timed(lambda: energy_gradient(contiguous, x))
        entry["passes a second"] = 2e6 * rows / entry["step us"]
        found[f"Langevin, {rows} rows of MNIST's shape"] = entry
        say("SEE", f"Langevin step, {rows} rows: {shown(entry)}")
    for draws in (5, 15) if CUDA else (2,):
        n = 100 if CUDA else 8
        x, y, rng = (
            torch.rand(n, *shape, device=where),
            torch.arange(n, device=where) % 10,
            Rng.seeded(0, range(n), device=where),
        )
        defense = Defense(purifier, net).to(where)
        for access in (Access.BPDA, Access.FULL):
            view = view_of(defense, access)

            def work() -> None:
                averaged_gradient(view, x, y, loss=cross_entropy, draws=draws, rng=rng)

            with count_passes(defense.networks()) as passes:
                work()
            seconds = timed(work)
            entry = {
                "ms": 1000 * seconds,
                "passes": sum(passes.values()),
                "passes a second": sum(passes.values()) / seconds,
                "kernels": kernels(work),
            }
            if CUDA and access is Access.BPDA:
                entry["as a graph us"] = graph_us(work)
            if CUDA:
                with plain():
                    entry["noise by torch's operations ms"] = 1000 * timed(work)
            found[f"gradient, {access}, {n} images, {draws} draws"] = entry
            say(
                "SEE",
                f"gradient through 10 Langevin steps, {access}, {n} images x {draws} draws: {shown(entry)}",
            )
    if CUDA:
        # Each new number of rows is a new shape for cuDNN, which has to plan it.
        fresh = []
        for rows in range(1501, 1511):
            x = torch.rand(rows, *shape, device=where)
            wait()
            begun = time.perf_counter()
            energy_gradient(energy, x)
            wait()
            fresh.append(1e6 * (time.perf_counter() - begun))
        again = 1e6 * timed(lambda: energy_gradient(energy, x))
        found["a pass on a new number of rows us"] = [median(fresh), again]
        say(
            "SEE",
            f"energy gradient on a number of rows never seen before: {median(fresh):,.0f} us, then {again:,.0f}",
        )
        big = frozen(ResNet18Net(3, classes=10, width=64)).to(where)
        for rows in (128, 1024):
            x = torch.rand(rows, 3, 32, 32, device=where)
            low = Lowered(big, torch.bfloat16)
            other = copy.deepcopy(big).to(memory_format=torch.contiguous_format)
            entry = {
                name: 1000 * timed(partial(energy_gradient, one, x))
                for name, one in (
                    ("channels last ms", big),
                    ("contiguous ms", other),
                    ("bfloat16 ms", low),
                )
            }
            entry["passes a second"] = 2000 * rows / entry["channels last ms"]
            found[f"ResNet-18, {rows} rows"] = entry
            say(
                "SEE",
                f"ResNet-18 forward and back, {rows} rows: "
                + ", ".join(f"{k} {v:,.1f}" for k, v in entry.items()),
            )
    return found


def items() -> dict[str, Any]:
    """The benchmarks that know devices, only on this one."""
    import importlib

    from benchmarks.rows import Settings

    device()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(os.environ.get("BENCH_DATA", "data"))
        settings = Settings(quick=not CUDA, data=data, scratch=Path(scratch), devices=(NAME,))
        for name in (
            ("eot", "full_gradient", "search", "layout", "training") if CUDA else ("eot",)
        ):
            if late():
                say("SEE", f"benchmark {name} left out for time")
                continue
            try:
                for row in importlib.import_module(f"benchmarks.{name}").rows(settings):
                    found.setdefault(name, []).append(
                        dataclasses.asdict(row) | {"holds": row.holds}
                    )
                    value = "none" if row.value is None else f"{row.value:.3g} {row.unit}"
                    say(
                        "BAD" if row.holds == "NO" and CUDA else "SEE",
                        f"{name}: {row.what}: {value} {row.holds} {row.checked or row.reason}"[
                            :300
                        ],
                    )
            except Exception as error:
                found[name] = f"{type(error).__name__}: {error}"
                say("BAD", f"benchmark {name}: {found[name]}"[:300])
    return found
