"""Runs towards the likeliest classes, after the runs away from the true one.

Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", arXiv 2003.01690, section 4: where two rivals are alike, an untargeted
ascent turns between them; one ascent for each rival does not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.api import Averaged, Loss, Rng, Towards, View, in_blocks, margin
from bench_attacks._best import Best


def losses_of_runs(
    view: View,
    x: Tensor,
    y: Tensor,
    best: Best,
    *,
    loss: Loss,
    restarts: int,
    targets: int,
    draws: int,
    rng: Rng,
) -> Iterator[Loss]:
    """Yield the loss of each run on x (N, C, H, W): ``restarts`` times ``loss``, then targets.

    Targets are the classes of the largest mean logits of ``draws`` draws, looked at only for
    images that ``best`` still has undecided after the first runs; more than there are others
    are all of them. No target is yielded once ``best`` has nothing undecided.
    """
    for _ in range(restarts):
        yield loss
    rows = best.undecided() if targets > 0 else torch.arange(0)
    if len(rows) == 0:
        return
    _, likely = first_look(view, x[rows], y[rows], votes=draws, rng=rng[rows])
    order = y[:, None].repeat(1, likely.shape[1])
    order[rows] = likely
    for place in range(min(targets, likely.shape[1])):
        if len(best.undecided()) == 0:
            return
        yield Towards(order[:, place])


def first_look(
    view: View, x: Tensor, y: Tensor, *, votes: int, rng: Rng
) -> tuple[Best, Tensor]:
    """Vote on clean images (N, C, H, W); order the other classes (N, K - 1) by mean logit.

    The loss of what is voted on is the margin of the mean logits.
    """
    best = Best.nothing(x)

    def of(block: slice) -> Tensor:
        streams = rng[block]
        return torch.stack([view(x[block], rng=streams.fork(draw)) for draw in range(votes)])

    with torch.no_grad():
        logits = torch.cat(in_blocks(of, len(x), draws=1, device=x.device), dim=1)
    wrong = (logits.argmax(2) != y).to(x.dtype).mean(0)
    mean = logits.mean(0)
    best.offer(x, Averaged(margin(mean, y), wrong))
    others = mean.scatter(1, y[:, None], -torch.inf)
    return best, others.argsort(1, descending=True)[:, :-1]


def of_rows(loss: Loss, rows: Tensor) -> Loss:
    """Restrict a loss of N images to those of index ``rows`` (m,), the others being done."""
    return loss[rows] if isinstance(loss, Towards) else loss
