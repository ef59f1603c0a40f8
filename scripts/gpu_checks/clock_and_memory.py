"""The clock waits for the device, and short memory is survived."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from .common import (
    CUDA,
    device,
    say,
    wait,
)


def clock() -> dict[str, Any]:
    """Whether the seconds of an attack are taken when the device is done."""
    from bench.core.access import view_of
    from bench.core.rng import Rng
    from bench.core.threat import Access, Norm, ThreatModel
    from bench.evaluation.propose import propose
    from bench_attacks.adaptive import Adaptive
    from bench_attacks.noise import Noise
    from benchmarks.subjects import made

    where, found = device(), {}
    n = 1000 if CUDA else 32
    subject = made((1, 28, 28), width=16, n=n)
    images = subject.images(n, device=str(where))
    defense = subject.defense(device=str(where))
    for name, attack, access in (
        ("noise", Noise(tries=2, eot=8), Access.QUERY),
        ("adaptive", Adaptive(steps=3, eot=2), Access.BPDA),
    ):
        threat = ThreatModel(Norm.LINF, subject.eps, access)
        view = view_of(defense, access)
        rng = Rng.seeded(0, images.indices).fork("attack")
        for _ in range(2):
            wait()
            begun = time.perf_counter()
            attack(view, images.x, images.y, threat=threat, rng=rng)
            wait()
            whole = time.perf_counter() - begun
        with tempfile.TemporaryDirectory() as folder:
            taken = propose(
                attack, view, images, threat=threat, seed=0,
                networks=defense.networks(), path=Path(folder) / "images.safetensors",
            ).seconds  # fmt: skip
        found[name] = {"as propose takes them": taken, "when the device is done": whole}
        off = 1 - taken / whole
        say(
            "BAD" if off > 0.15 else "ok",
            f"attack seconds of {name}: {taken:.3f} as they are taken, {whole:.3f} when the "
            f"device is done ({off:.0%} missing)",
        )
    return found


def memory() -> dict[str, Any]:
    """What a full GPU raises inside a convolution or a product, and whether blocks then halve."""
    if not CUDA:
        return {"left out": "no GPU"}
    from bench.core import batch_size as batch
    from bench.core.access import view_of
    from bench.core.defense import Defense
    from bench.core.eot import averaged_gradient
    from bench.core.losses import cross_entropy
    from bench.core.rng import Rng
    from bench.core.threat import Access
    from bench_defenses.classifiers.resnet18 import ResNet18Net
    from bench_defenses.none import Identity

    where = device()
    found: dict[str, Any] = {}
    net = ResNet18Net(3, classes=10, width=64)
    defense = Defense(Identity(), net).to(where)
    x, y = (
        torch.rand(2048, 3, 32, 32, device=where),
        torch.zeros(2048, dtype=torch.long, device=where),
    )
    rng = Rng.seeded(0, range(2048), device=where)
    view = view_of(defense, Access.FULL)

    def work() -> None:
        averaged_gradient(view, x, y, loss=cross_entropy, draws=1, rng=rng)

    work()
    wait()
    found["peak MiB of 2,048 ResNet-18 rows"] = torch.cuda.max_memory_allocated() // 2**20
    for left in (2048, 1024, 512, 256, 128, 64, 32):  # MiB that nobody holds
        batch._found.clear()
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        held = []
        try:
            held.append(
                torch.empty(max(0, free - left * 2**20), dtype=torch.uint8, device=where)
            )
            work()
            wait()
            found[f"{left} MiB left"] = f"done with {batch.rows_per_pass(where)} rows a pass"
            say("ok", f"{left} MiB left: done with {batch.rows_per_pass(where)} rows a pass")
        except Exception as error:
            kind = f"{type(error).__module__}.{type(error).__name__}: {str(error)[:160]}"
            ends = isinstance(error, torch.OutOfMemoryError)
            found[f"{left} MiB left"] = kind
            say(
                "SEE" if ends else "BAD",
                f"{left} MiB left: {kind}"
                + ("" if ends else " (bench.core.batch_size does not halve for it)"),
            )
        del held
    batch._found.clear()
    torch.cuda.empty_cache()
    return found
