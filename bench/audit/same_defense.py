"""Check that judge and attacker see the same defense: C28."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from bench.audit.attacks import attackable, square
from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import Run, Subject
from bench.core.batch_size import in_blocks
from bench.core.protocols import Attack, View
from bench.core.rng import Rng
from bench.core.threat import Access, ThreatModel
from bench.evaluation.judge import elected, vote
from bench.plugins.catalogue import build
from bench.results.stats import exceeds, worsens

_IMAGES = 24  # the first ones
# Of these tests: a false alarm voids an honest defense, and the salt is new in every audit.
_LEVEL = 0.001
_ROUNDING = 0.01  # the share of images that rounding may move
_PIXEL = 0.01  # by how much rounding may move a pixel


def same_defense_for_all(subject: Subject) -> Finding:
    """C28: judge and attacker see the same defense.

    The judge's votes on clean and attacked images are compared with votes through the
    attacker's view, with autograd, on the same streams; with the judge's on streams of a salt
    drawn now, with image indices drawn now; and with those on the attack's own streams. The
    purifier is run with gradient mode on and off.
    """
    sights = list(_sights(subject))
    n = sum(len(sight) for sight in sights)
    caller = sum(_by_caller(subject, sight) for sight in sights)
    mode = sum(_by_gradient_mode(subject, sight) for sight in sights)
    salt, chosen = secrets.randbits(62), [secrets.randbits(62) for _ in range(_IMAGES)]
    fresh = Rng.seeded(salt, chosen, device=subject.images.x.device).fork(salt)
    moved: dict[str, int] = {}
    streams: list[str] = []
    for name, rng in (("fresh", fresh), ("attack", _of_attack(subject))):
        moved[name], other = _by_streams(subject, sights, rng)
        streams += [name] if other else []
    causes = []
    if _too_many(mode, n):
        causes.append("whether gradients are computed")
    elif _too_many(caller, n):
        causes.append("who calls it, the judge or the attacker")
    if streams:
        causes.append(f"the stream it gets (other votes on {' and '.join(streams)} streams)")
    return Finding(
        "C28",
        "judge and attacker see the same defense",
        Weight.VOID,
        State.FAIL if causes else State.PASS,
        figure=f"of {n} clean and attacked images other votes on {caller} for the attacker, on "
        f"{moved['fresh']} on fresh streams and on {moved['attack']} on attack streams; "
        f"{mode} cleaned otherwise with gradients",
        threshold=f"as many as rounding and chance move (exact tests, {_LEVEL:.1%})",
        reason=f"the defense is another one depending on {' and on '.join(causes)}"
        if causes
        else "",
        values={"caller": caller, "gradient mode": mode, **moved},
    )


@dataclass(frozen=True)
class _Sight:
    """Images x (N, C, H, W) that the judge saw, its streams and its votes (N, K)."""

    x: Tensor
    y: Tensor
    rng: Rng
    votes: Tensor

    def __len__(self) -> int:
        return len(self.x)


def _sights(subject: Subject) -> Iterator[_Sight]:
    """List what the judge saw: clean images, those of the main attack, and transferred ones.

    Where a purifier hides the image, the main attack moves nothing; what breaks the bare
    classifier then shows that it is hidden.
    """
    runs = [subject.strong() if attackable(subject) else square(subject)]
    if attackable(subject):
        few = subject.first(_IMAGES)
        runs.append(few.run("pgd", Access.TRANSFER, {"steps": 20}))
    images = subject.images[:_IMAGES]
    judging = Rng.seeded(subject.base.cell.seed, images.indices).fork("judge")

    def sight(run: Run, x: Tensor, purpose: str, column: str) -> _Sight:
        votes = np.stack(list(run.rows[column][: len(images)]))
        streams = judging.fork(purpose)
        return _Sight(x, images.y, streams, torch.from_numpy(votes).to(x.device))

    yield sight(runs[0], images.x, "clean", "clean_votes")
    for run in runs:
        legal = torch.tensor(run.rows["legal"][: len(images)].to_numpy(dtype=bool))
        legal = legal.to(images.x.device).reshape(-1, 1, 1, 1)
        x_adv = torch.where(legal, run.x_adv[: len(images)], images.x)
        yield sight(run, x_adv, "adversarial", "votes")


def _too_many(count: int, n: int) -> bool:
    return count > 1 and exceeds(count, n, _ROUNDING) <= _LEVEL


def _by_caller(subject: Subject, sight: _Sight) -> int:
    """Count the images of which the attacker's view, with autograd, elects another class."""
    view, taken = subject.view(subject.access), sight.votes.sum(1)
    most, classes = int(taken.max()), sight.votes.shape[1]
    draw = torch.arange(most, device=sight.x.device)

    def of(block: slice) -> Tensor:
        counted = (draw < taken[block, None]).flatten()  # the draws that the judge took
        rows = torch.arange(len(counted), device=draw.device)[counted] // most
        shown = sight.x[block][rows].requires_grad_()
        with torch.enable_grad():
            logits = view(shown, rng=sight.rng[block].repeat(most)[counted]).detach()
        seen = torch.nn.functional.one_hot(logits.argmax(1), classes)
        return torch.zeros_like(sight.votes[block]).index_add_(0, rows, seen)

    votes = torch.cat(in_blocks(of, len(sight), draws=most, device=sight.x.device))
    return int((votes.argmax(1) != sight.votes.argmax(1)).sum())


def _by_gradient_mode(subject: Subject, sight: _Sight) -> int:
    """Count the images that are cleaned otherwise where gradients are computed."""
    found = []
    for wanted in (False, True):
        x = sight.x.clone().requires_grad_(wanted and subject.defense.purifier.differentiable)
        with torch.set_grad_enabled(wanted):
            found.append(subject.defense.purify(x, rng=sight.rng).detach())
    moved = (found[0] - found[1]).flatten(1).abs().amax(1) > _PIXEL
    return int(moved.sum())


def _by_streams(subject: Subject, sights: list[_Sight], rng: Rng) -> tuple[int, bool]:
    """Count images with another verdict on other streams, and whether it is the streams' doing.

    A deterministic defense may differ by rounding only. Of a stochastic one no more images may
    be lost than are gained: the attack knew neither of the streams.
    """
    before, after = [], []
    for sight in sights:
        ballot = vote(
            subject.defense,
            sight.x,
            sight.y,
            draws=subject.base.cell.draws,
            rng=rng[: len(sight)],
            sequential=True,
        )
        before.append(elected(sight.votes, sight.y))
        after.append(elected(ballot.votes, sight.y))
    was, now = torch.cat(before).cpu().numpy(), torch.cat(after).cpu().numpy()
    moved = int((was != now).sum())
    if subject.defense.stochastic:
        return moved, worsens(was, now) <= _LEVEL
    return moved, _too_many(moved, len(was))


class _HeardError(Exception):
    """The attack has shown its streams, and may end."""


class _Listening:
    """A view that ends the attack at its first call and keeps the streams of that call."""

    def __init__(self, view: View) -> None:
        self.access, self.stochastic = view.access, view.stochastic
        self.classify, self.purification_step = view.classify, view.purification_step
        self.surrogate = view.surrogate
        self.heard: list[Rng] = []

    def __call__(self, x: Tensor, *, rng: Rng) -> NoReturn:
        self.heard.append(rng)
        raise _HeardError


def _of_attack(subject: Subject) -> Rng:
    """Open the streams (N,) on which the main attack calls the defense first."""
    images, able = subject.images[:_IMAGES], attackable(subject)
    attack: Attack = build("attacks", *(("apgd", subject.settings) if able else ("square", {})))
    access = subject.access if able else Access.QUERY
    threat = ThreatModel(subject.threat.norm, subject.threat.eps, access)
    view = _Listening(subject.view(access))
    rng = Rng.seeded(subject.base.cell.seed, images.indices).fork("attack")
    with contextlib.suppress(_HeardError):
        attack(view, images.x, images.y, threat=threat, rng=rng)
    return replace(rng, _key=view.heard[0]._key) if view.heard else rng
