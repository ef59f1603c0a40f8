"""The judge: what a proposed image is worth, on fresh noise, trusting nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from bench.core.batch_size import in_blocks
from bench.core.border import plain_images
from bench.core.defense import Defense
from bench.core.geometry import size
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.errors import PluginError
from bench.evaluation.early_stopping import looks, needed

_FAR = 10.0  # noise may leave [0, 1]; pixels from 0 to 255 are another scale
TOLERANCE = 1e-6  # rounding of a float32 projection, measured in float64


@dataclass(frozen=True)
class Outcomes:
    """One row per image.

    ``distance`` (N,) float64; ``legal`` (N,) inside ball and box; ``clean_votes`` and
    ``votes`` (N, K) int64, draws per class; ``clean_logits`` and ``logits`` (N, K), their mean
    over the draws; ``clean`` (N,) the clean vote is right; ``robust`` (N,) it stays right on
    the proposed image. An illegal image does not count as a break.
    """

    distance: Tensor
    legal: Tensor
    clean_votes: Tensor
    clean_logits: Tensor
    votes: Tensor
    logits: Tensor
    clean: Tensor
    robust: Tensor


@dataclass(frozen=True)
class Ballot:
    """``votes`` (N, K) int64, draws per class, and ``logits`` (N, K), their mean over draws."""

    votes: Tensor
    logits: Tensor


def judge(
    defense: Defense,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    threat: ThreatModel,
    draws: int,
    rng: Rng,
    sequential: bool = False,
) -> Outcomes:
    """Judge proposals x_adv for x (N, C, H, W) by ``draws`` votes each; raises PluginError.

    ``sequential``: stop drawing for an image once its verdict is clear, as
    ``bench.evaluation.early_stopping`` says.
    """
    # What counts is the image that the defense sees.
    x_adv = plain_images(x_adv, x, rows=len(x), whose="the attack")
    distance = size(x_adv.double() - x.double(), threat.norm)
    box = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    legal = box & (distance <= threat.radius + TOLERANCE)  # NaN compares false
    clean_ballot = vote(
        defense, x, y, draws=draws, rng=rng.fork("clean"), sequential=sequential
    )
    # What is illegal is never shown to the defense: it might be NaN.
    shown = torch.where(legal.reshape(-1, 1, 1, 1), x_adv, x)
    ballot = vote(
        defense, shown, y, draws=draws, rng=rng.fork("adversarial"), sequential=sequential
    )
    clean = elected(clean_ballot.votes, y)
    robust = clean & (elected(ballot.votes, y) | ~legal)
    return Outcomes(
        distance=distance,
        legal=legal,
        clean_votes=clean_ballot.votes,
        clean_logits=clean_ballot.logits,
        votes=ballot.votes,
        logits=ballot.logits,
        clean=clean,
        robust=robust,
    )


def vote(
    defense: Defense, x: Tensor, y: Tensor, *, draws: int, rng: Rng, sequential: bool = False
) -> Ballot:
    """Let the defense vote on x (N, C, H, W); sequential: no longer than the label y needs."""
    draws = draws if defense.stochastic else 1
    stops = looks(draws) if sequential else (draws,)
    rows = torch.arange(len(x), device=x.device)
    votes, logits = _draw(defense, x, y, range(stops[0]), rng)
    for taken, upto in pairwise(stops):
        rows = rows[~_clear(votes[rows], y[rows], taken=taken, draws=draws)]
        if len(rows) == 0:
            break
        more, sums = _draw(defense, x[rows], y[rows], range(taken, upto), rng[rows])
        votes[rows] += more
        logits[rows] += sums
    return Ballot(votes, (logits / votes.sum(1, keepdim=True)).float())


def _clear(votes: Tensor, y: Tensor, *, taken: int, draws: int) -> Tensor:
    """Say which images (N,) are decided after ``taken`` draws."""
    true, rival = needed(taken, draws=draws)
    mine = votes.gather(1, y[:, None])[:, 0]
    others = votes.scatter(1, y[:, None], -1).amax(1)
    return (mine >= true) | (others >= rival)


def _draw(
    defense: Defense, x: Tensor, y: Tensor, which: range, rng: Rng
) -> tuple[Tensor, Tensor]:
    """Take some of the draws: votes (N, K) int64 and the sums of their logits in float64."""

    def of(block: slice) -> tuple[Tensor, Tensor]:
        streams = rng[block].repeat(which.stop)
        if which.start:  # by index: for a mask the host would wait
            each = torch.arange(len(streams), device=x.device).reshape(-1, which.stop)
            streams = streams[each[:, which.start :].flatten()]
        purified = defense.purify(x[block], rng=streams)
        logits = defense.classify(purified)
        _check_values(defense, purified, logits, y[block])
        seen = logits.argmax(1, keepdim=True)
        one_hot = torch.zeros_like(logits, dtype=torch.int64).scatter_(1, seen, 1)
        classes = logits.shape[1]
        votes = one_hot.reshape(-1, len(which), classes).sum(1)
        return votes, logits.double().reshape(-1, len(which), classes).sum(1)

    with torch.no_grad():
        parts = in_blocks(of, len(x), draws=len(which), device=x.device)
    votes, sums = zip(*parts, strict=True)
    return torch.cat(votes), torch.cat(sums)


def _check_values(defense: Defense, purified: Tensor, logits: Tensor, y: Tensor) -> None:
    """Refuse NaN, images of another scale and labels without a logit; raises PluginError."""
    purifier = f"the purifier {type(defense.purifier).__name__}"
    classifier = f"the classifier {type(defense.classifier).__name__}"
    seen = (*torch.aminmax(purified), logits.isnan().any(), y.max())
    low, high, lost, label = torch.stack([one.double() for one in seen]).tolist()  # one wait
    if math.isnan(low):
        raise PluginError(
            f"{purifier} returned NaN for images of the box [0, 1]. Check its step size and "
            "its checkpoint."
        )
    if max(-low, high) > _FAR:
        raise PluginError(
            f"{purifier} returned values from {low:.3g} to {high:.3g}. Images are in [0, 1]: "
            "divide by 255 where it works on bytes."
        )
    if lost:
        raise PluginError(
            f"{classifier} returned NaN for images of the box [0, 1]. Check its checkpoint."
        )
    if label >= logits.shape[1]:
        raise PluginError(
            f"{classifier} returned {logits.shape[1]} logits, but labels go up to "
            f"{int(label)}. It has to know every class of the data set."
        )


def elected(votes: Tensor, y: Tensor) -> Tensor:
    """Say whether the true class has strictly the most votes (N, K): a tie is a loss."""
    true = votes.gather(1, y[:, None])[:, 0]
    return true > votes.scatter(1, y[:, None], -1).amax(1)
