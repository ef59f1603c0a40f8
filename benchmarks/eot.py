"""Draws folded into the batch against one pass after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.core.access import view_of
from bench.core.eot import averaged_gradient
from bench.core.losses import cross_entropy
from bench.core.passes import count_passes
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access
from bench_defenses.gaussian import Gaussian
from benchmarks.clock import interleaved
from benchmarks.replay import in_words
from benchmarks.rows import Row, Settings
from benchmarks.subjects import subject

ITEM = "eot"
DRAWS = 20
_CLOSE = 1e-3  # of float32 sums in another order


def rows(settings: Settings) -> Iterator[Row]:
    """Measure one averaged gradient of a small net behind noise, and behind Langevin steps."""
    found = subject(settings)
    n = settings.size(100, quick=8)
    for device in settings.devices:
        images = found.images(n, device=device)
        rng = Rng.seeded(0, images.indices, device=images.x.device)
        cases = {
            "behind Gaussian noise": (Gaussian(sigma=0.1), Access.FULL),
            "behind 10 Langevin steps, BPDA": (None, Access.BPDA),
        }
        for what, (purifier, access) in cases.items():
            defense = found.defense(purifier, device=device)
            view, x, y = view_of(defense, access), images.x, images.y

            def folded(
                view: View = view, x: Tensor = x, y: Tensor = y, rng: Rng = rng
            ) -> Tensor:
                return averaged_gradient(
                    view, x, y, loss=cross_entropy, draws=DRAWS, rng=rng
                ).gradient

            def loop(view: View = view, x: Tensor = x, y: Tensor = y, rng: Rng = rng) -> Tensor:
                return looped(view, x, y, draws=DRAWS, rng=rng)

            with count_passes(defense.networks()) as once:
                one = folded()
            with count_passes(defense.networks()) as again:
                other = loop()
            apart = float((one - other).abs().max() / other.abs().max())
            passes = f"equal: {in_words(once)}"
            if once != again:  # all draws that begin at one image share its first step
                passes = f"folded: {in_words(once)}, looped: {in_words(again)}"
            close = "equal" if apart < _CLOSE else "NOT equal"
            yield interleaved(
                {"loop": loop, "folded": folded}, repeats=settings.repeats, device=device
            ).ratio(
                "loop",
                "folded",
                item=ITEM,
                what=f"loop / folded on {device}: {DRAWS} draws, {n} images, {what}",
                at_least=4.0 if device.startswith("cuda") else None,
                checked=f"passes {passes}; gradients {close}: they differ by "
                f"{apart:.0e} of the largest",
                reason="" if device != "cpu" else "one core is busy with one draw already",
            )


def looped(view: View, x: Tensor, y: Tensor, *, draws: int, rng: Rng) -> Tensor:
    """Average the gradient at x (N, C, H, W) draw by draw, on the streams of the folded one."""
    streams, gradient = rng.repeat(draws), torch.zeros_like(x)
    for draw in range(draws):
        leaf = x.detach().requires_grad_()
        rows = torch.arange(len(x), device=x.device) * draws + draw
        loss = cross_entropy(view(leaf, rng=streams[rows]), y).sum()
        gradient += torch.autograd.grad(loss, leaf)[0] / draws
    return gradient
