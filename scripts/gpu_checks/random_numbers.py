"""Random numbers: the same bits on the device as on the CPU, and what they cost."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .common import (
    CUDA,
    NAME,
    ROWS,
    device,
    graph_us,
    kernels,
    plain,
    say,
    shown,
    timed,
)


def rng() -> dict[str, Any]:
    from bench.core.rng import Rng

    where = device()
    found: dict[str, Any] = {}
    wrong: list[str] = []
    images = [0, 1, 5, 2**31 + 3, 2**40 + 7, -1, 2**63 - 1, -(2**63), *range(100, 156)]
    here = Rng.seeded(7, images).fork("x").repeat(3)
    there = Rng.seeded(7, images, device=where).fork("x").repeat(3)
    for shape in ((3, 32, 32), (1, 28, 28), (5,), ()):
        for kind in ("bits", "uniform", "normal"):
            one, other = getattr(here, kind)(shape), getattr(there, kind)(shape).cpu()
            if not torch.equal(one, other):
                wrong.append(f"{kind}{shape}")
    x = torch.zeros(len(here), 3, 8, 8)
    if not torch.equal(here.sign_like(x), there.sign_like(x.to(where)).cpu()):
        wrong.append("sign_like")
    found["differ from the CPU"] = wrong
    say(
        "BAD" if wrong else "ok",
        f"random bits on {NAME} and on the CPU: {'DIFFER in ' + ', '.join(wrong) if wrong else 'the same'}",
    )
    shape = (1, 28, 28)
    if CUDA:
        from bench.core.rng import _one_kernel

        works = _one_kernel(there.device) is not None
        say("ok" if works else "BAD", f"noise in one kernel on {NAME}: {works}")
    for rows in ROWS:
        streams = Rng.seeded(0, range(rows), device=where)
        like = torch.zeros(rows, *shape, device=where)

        def draw(streams: Rng = streams, like: Tensor = like) -> Tensor:
            return streams.normal_like(like)

        entry: dict[str, Any] = {
            "normal_like us": 1e6 * timed(draw),
            "torch.randn_like us": 1e6 * timed(partial(torch.randn_like, like)),
        }
        if CUDA:
            entry["as a graph us"] = graph_us(draw)
            found["kernels of normal_like"] = kernels(draw)
            drawn = draw()
            with plain():
                entry["by torch's operations us"] = 1e6 * timed(draw)
                entry["the same bits"] = torch.equal(drawn, draw())
        found[f"{rows} rows of 784"] = entry
        same = entry.get("the same bits", True)
        say("SEE" if same else "BAD", f"{rows} rows of 784 normals: {shown(entry)}")
    say(
        "SEE",
        f"kernels of normal_like: {found.get('kernels of normal_like')}, 75 without Triton",
    )
    return found
