"""Votes that end early: few draws first, and more only where they leave a question open.

The idea is that of sequential tests (Wald 1945, doi 10.1214/aoms/1177731118). The rule is
simpler and dismisses more, for what it dismisses wrongly is one proposal among many.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from bench.api import Rng, View, averaged_loss, margin


def wrong_share(
    view: View, x: Tensor, y: Tensor, *, most: int, whole: Tensor, rng: Rng
) -> Tensor:
    """Return the share (N,) of draws that mistake x (N, C, H, W) for other than y (N,).

    It is above 1/2 where more than half of ``most`` draws are wrong. An image leaves the vote
    as soon as fewer than half of its draws so far are, or more than half of all will be, and
    keeps the share of the draws that it took. The vote is ``whole`` (N,) where all draws are
    wanted, whatever the first ones say.
    """
    share = torch.zeros_like(x[:, 0, 0, 0])
    rows = torch.arange(len(x), device=x.device)
    for taken, upto in pairwise((0, *rounds(most))):
        seen = averaged_loss(
            view, x[rows], y[rows], loss=margin, draws=upto - taken,
            rng=rng[rows].fork("round", taken),
        )  # fmt: skip
        share[rows] += (seen.wrong - share[rows]) * (upto - taken) / upto
        if upto < most:
            # The host waits here, once a round: whose vote is open decides what is asked next.
            now = share[rows]
            rows = rows[whole[rows] | ((2 * now >= 1) & (2 * now * upto <= most))]
            if len(rows) == 0:
                break
    return share


def rounds(most: int) -> tuple[int, ...]:
    """List after how many draws a vote of ``most`` looks: 1, 2, 4, ..., its majority, all."""
    majority = most // 2 + 1
    early = {2**k for k in range(most.bit_length()) if 2**k < majority}
    return tuple(sorted({*early, majority, most}))
