"""What the machine is and which flags torch sets on it."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch

from .common import (
    CUDA,
    NAME,
    device,
    say,
    wait,
)


def env() -> dict[str, Any]:
    found: dict[str, Any] = {
        "python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch's
        "device": NAME,
    }  # fmt: skip
    from bench_defenses.energies.langevin import LangevinPurifier, energy_gradient
    from bench_defenses.energies.network import EnergyNet

    # The very first backward pass of the process: cuBLAS in autograd's thread.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        where = device()  # what it keeps from being shown is not counted
        net = EnergyNet((1, 8, 8), width=4).eval().requires_grad_(False).to(where)
        energy_gradient(net, torch.rand(8, 1, 8, 8, device=where))
        wait()
    said = [f"{w.category.__name__}: {w.message}"[:160] for w in caught]
    found["warnings of the first pass"] = said
    say("BAD" if said else "ok", f"warnings of the first backward pass: {said or 'none'}")
    if CUDA:
        names = ("name", "total_memory", "multi_processor_count", "major", "minor")
        about = torch.cuda.get_device_properties(0)
        found |= {name: getattr(about, name) for name in names}
        found["tf32"] = {
            "matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32,
            "conv.fp32_precision": getattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision", None),
            "matmul.fp32_precision": getattr(torch.backends.cuda.matmul, "fp32_precision", None),
            "deterministic": torch.backends.cudnn.deterministic, "benchmark": torch.backends.cudnn.benchmark,
        }  # fmt: skip
        say("ok", f"flags {found['tf32']}")
    # Whether float32 really is float32: TF32 misses by some 1e-4.
    draw = torch.Generator().manual_seed(0)
    a, x = torch.randn(512, 512, generator=draw), torch.randn(16, 64, 8, 8, generator=draw)
    w = torch.randn(64, 64, 3, 3, generator=draw)
    for what, one in (
        ("matmul", lambda t, k: t @ t),
        ("conv2d", lambda t, k: torch.conv2d(x.to(t), k, padding=1)),
    ):
        got = one(a.to(where), w.to(where)).double().cpu()
        exact = one(a.double(), w.double())
        miss = float((got - exact).norm() / exact.norm())
        found[f"float32 {what} misses by"] = miss
        say(
            "BAD" if miss > 2e-6 else "ok",
            f"float32 {what} misses float64 by {miss:.1e} (TF32 would by some 3e-4)",
        )
    from bench.core.protocols import EnergyPurifier, fits

    sees = fits(LangevinPurifier(net, steps=1, step_size=1.0, noise=0.0), EnergyPurifier)
    say(
        "ok" if sees else "BAD",
        f"Python {found['python']}: a LangevinPurifier is an EnergyPurifier: {sees}",
    )
    from bench.results.provenance import provenance

    found["provenance"] = provenance(where)
    say("SEE", f"provenance: {found['provenance']['versions']}")
    return found
