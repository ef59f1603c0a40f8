"""A search on networks in bfloat16 against one in float32, both judged in float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.core.precision import lowered
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.judge import judge
from bench_attacks.bpda_eot import BpdaEot
from benchmarks.clock import interleaved
from benchmarks.overhead import attacking
from benchmarks.rows import Row, Settings
from benchmarks.subjects import subject

ITEM = "search"


def rows(settings: Settings) -> Iterator[Row]:
    """Measure BPDA+EOT in both precisions, and compare the float32 judge's verdicts on both."""
    found = subject(settings)
    attack = BpdaEot(steps=settings.size(5, quick=2), eot=settings.size(3, quick=2))
    threat = ThreatModel(Norm.LINF, found.eps, Access.BPDA)
    for device in settings.devices:
        whole = found.defense(device=device)
        n = settings.size(32 if device == "cpu" else 1000, quick=16)
        images = found.images(n, device=device)
        rng = Rng.seeded(0, images.indices, device=images.x.device).fork("judge")
        runs = {
            "float32": attacking(whole, attack, Access.BPDA, images, found.eps),
            "bfloat16": attacking(
                lowered(whole, torch.bfloat16), attack, Access.BPDA, images, found.eps
            ),
        }
        one, other = (
            judge(
                whole, images.x, images.y, run(), threat=threat, draws=10, rng=rng
            ).robust
            for run in runs.values()
        )  # fmt: skip
        yield interleaved(runs, repeats=settings.repeats, device=device).ratio(
            "float32",
            "bfloat16",
            item=ITEM,
            what=f"float32 / bfloat16 on {device}: bpda_eot, {n} images",
            checked=_compared(one, other),
            reason=found.note,
        )


def _compared(one: Tensor, other: Tensor) -> str:
    differ = int((one != other).sum())
    return (
        f"verdicts that differ: {differ} of {len(one)}; robust: {int(one.sum())} and "
        f"{int(other.sum())}"
    )
