"""What layout and rows of a pass cost, and what their rounding changes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bench.core import batch_size as batch
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.judge import judge
from bench_attacks.bpda_eot import BpdaEot
from benchmarks.clock import interleaved
from benchmarks.overhead import attacking
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, subject

ITEM = "layout"


def rows(settings: Settings) -> Iterator[Row]:
    """Compare layouts, switches of a CPU and sizes of pass."""
    found = subject(settings)
    for device in settings.devices:
        yield from _layouts(settings, found, device)
        if device == "cpu":
            yield from _switches(settings, found)
        yield _sizes(settings, found, device)


def _layouts(settings: Settings, found: Subject, device: str) -> Iterator[Row]:
    n = settings.size(128 if device == "cpu" else 8192, quick=8)
    for name, network in found.defense(device=device).networks().items():
        plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        yield interleaved(
            {
                "contiguous": input_gradient(plain, found.images(n, device=device).x),
                "channels last": input_gradient(network, found.images(n, device=device).x),
            },
            repeats=4 * settings.repeats,
            device=device,
        ).ratio(
            "contiguous",
            "channels last",
            item=ITEM,
            what=f"contiguous / channels last on {device}: input gradients of the {name}, "
            f"{n} images",
            reason=found.note,
        )


def _switches(settings: Settings, found: Subject) -> Iterator[Row]:
    """Compare passes with torch's switches for CPUs: without oneDNN, and denormals as zero."""
    x = found.images(settings.size(128, quick=8)).x
    for name, network in found.defense().networks().items():
        usual = input_gradient(network, x)
        ways = {"usual": usual, "without oneDNN": _native(usual)}
        ways["denormals as zero"] = _flushed(usual)
        times = interleaved(ways, repeats=4 * settings.repeats, device="cpu")
        for way in list(ways)[1:]:
            yield times.ratio(
                way, "usual", item=ITEM,
                what=f"{way} / usual on cpu: input gradients of the {name}, {len(x)} images",
                checked="" if torch.equal(ways[way](), usual()) else "other last bits",
                reason=found.note,
            )  # fmt: skip


def _native(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def native() -> Tensor:
        with warnings.catch_warnings():  # of a switch for Intel's GPUs
            warnings.simplefilter("ignore", UserWarning)
            with torch.backends.mkldnn.flags(enabled=False):
                return run()

    return native


def _flushed(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def flushed() -> Tensor:
        torch.set_flush_denormal(True)
        try:
            return run()
        finally:
            torch.set_flush_denormal(False)

    return flushed


def input_gradient(network: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Build one forward and one backward pass to the input (N, C, H, W)."""

    def run() -> Tensor:
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
        return gradient

    return run


def _sizes(settings: Settings, found: Subject, device: str) -> Row:
    """Attack and judge at the usual number of rows a pass, and at a quarter of it."""
    attack = BpdaEot(steps=settings.size(10, quick=2), eot=settings.size(5, quick=2))
    threat = ThreatModel(Norm.LINF, found.eps, Access.BPDA)
    whole = found.defense(device=device)
    images = found.images(settings.size(100, quick=16), device=device)
    rng = Rng.seeded(0, images.indices, device=images.x.device).fork("judge")
    usual = batch.rows_per_pass(torch.device(device))
    fewer = {torch.device(device).type: usual // 4}
    propose = attacking(whole, attack, Access.BPDA, images, found.eps)

    def evaluated() -> Tensor:
        return judge(
            whole, images.x, images.y, propose(), threat=threat, draws=10, rng=rng
        ).robust  # fmt: skip

    def in_smaller_passes() -> Tensor:
        with patch.object(batch, "_found", fewer):
            return evaluated()

    one, other = evaluated(), in_smaller_passes()
    return interleaved(
        {"smaller": in_smaller_passes, "usual": evaluated},
        repeats=min(2, settings.repeats),
        device=device,
    ).ratio(
        "smaller",
        "usual",
        item=ITEM,
        what=f"{usual // 4} / {usual} rows a pass on {device}: bpda_eot and judge, "
        f"{len(images)} images",
        checked=f"verdicts that rounding changed: {int((one != other).sum())} of {len(one)}; "
        f"robust: {int(one.sum())} and {int(other.sum())}",
        reason=found.note,
    )
