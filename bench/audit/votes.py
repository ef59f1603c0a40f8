"""Checks of the judge's verdicts: resubmission C19, determinism C22, 8-bit images C23."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import LEVEL, Subject
from bench.core.defense import Defense
from bench.core.geometry import rounded
from bench.core.passes import count_passes
from bench.evaluation.batch_votes import votes_alone, votes_beside
from bench.evaluation.judge import elected, vote
from bench.plugins.as_defense import draws_by_block
from bench.results.stats import paired_interval, worsens
from bench.results.vote_rules import parse_rule, right

_AGAIN = 10  # submissions of the same image
_DRAWS = 20  # of which ten are submitted: what any ten would do is counted, not sampled
_VOTES = 5  # draws of an image whose votes are compared with themselves
_ROUNDING = 0.005  # share of verdicts that another batch size may change
_ALONE = 16  # images that are judged each by itself, and beside foreign ones
# Calls on one image, at most: 50 for each image of the audit, and as many as these passes
# forward and back allow. A chain of a thousand steps has seconds a call.
_CALLS, _PASSES = 1000, 80_000
_PIXEL = 0.01  # by how much rounding may move a pixel


def resubmission(subject: Subject) -> Finding:
    """C19: how much an attacker gains who submits the best image ten times, noise counted."""
    about = ("C19", "resubmission", Weight.REMARK)
    threshold = f"worst of {_AGAIN} costs the attacked image no more than the clean one + 5"
    if not subject.defense.stochastic:
        reason = "the defense is deterministic: ten submissions are one"
        return Finding(*about, State.NOT_APPLICABLE, threshold=threshold, reason=reason)
    if subject.base.cell.draws < _AGAIN:
        reason = (
            f"{subject.base.cell.draws} draws of the judge hold no {_AGAIN} submissions: give "
            f"--draws={_AGAIN} or more"
        )
        return Finding(*about, State.NOT_APPLICABLE, threshold=threshold, reason=reason)
    rows = subject.quick(draws=min(_DRAWS, subject.base.cell.draws)).rows
    rule, single = parse_rule(f"worst-of-{_AGAIN}"), parse_rule("vote")
    found = {
        f"{kind} {name}": 100 * float(np.mean(right(rows, chosen, attacked=kind == "attacked")))
        for kind in ("clean", "attacked")
        for name, chosen in (("vote", single), ("worst", rule))
    }
    lost = {
        kind: found[f"{kind} vote"] - found[f"{kind} worst"] for kind in ("clean", "attacked")
    }
    gains = lost["attacked"] - lost["clean"] > 5
    return Finding(
        *about,
        State.FAIL if gains else State.PASS,
        figure=f"clean {found['clean vote']:.1f} % by vote and {found['clean worst']:.1f} in "
        f"the worst of {_AGAIN}; attacked {found['attacked vote']:.1f} and "
        f"{found['attacked worst']:.1f}",
        threshold=threshold,
        reason="submitting an image more than once breaks more than the vote shows"
        if gains
        else "",
        values=found,
    )


def verdicts_repeat(subject: Subject) -> Finding:
    """C22: votes depend only on image, seed and draw.

    Clean and attacked images are judged by a copy of the defense that was never called, by the
    one that was attacked, after reseeding torch's global generator, and in other company:
    another batch size and order, each image by itself, and beside foreign images. At last the
    purifier is called many times on one image. A defense that counts its calls or draws from
    the global generator gives itself away. Where noise is known to go by the block, another
    batch is other noise: it may move no more images than other streams in the same batch do.
    """
    run = subject.strong()
    x, y, rng = run.x_adv, subject.images.y, subject.rng.fork("repeat")
    draws = min(_VOTES, subject.base.cell.draws)
    by_block = draws_by_block(subject.defense.purifier)

    def votes(defense: Defense, rows: Tensor) -> Tensor:
        return vote(defense, x[rows], y[rows], draws=draws, rng=rng[rows]).votes

    everything = torch.arange(len(x), device=x.device)
    with torch.random.fork_rng(devices=_devices(x)):
        torch.manual_seed(1)
        first = votes(subject.pristine, everything)
        torch.manual_seed(2)
        second = votes(subject.defense, everything)
        back = everything.flip(0)
        flipped = votes(subject.defense, back)[back]
        halves = [votes(subject.defense, part) for part in everything.chunk(3)]
        alone, by_chance = _in_other_company(subject, x, by_block=by_block)
        changed, calls = _changed_by_calls(subject, x[:1])
        again = votes(subject.defense, everything)
    drifting = int(((first != second) | (second != again)).any(1).sum())
    verdicts = elected(second, y)
    moved = (elected(torch.cat(halves), y) != verdicts) | (elected(flipped, y) != verdicts)
    share = float(moved.float().mean())
    by_batch = share > _ROUNDING and int(moved.sum()) > 1
    company = float(alone.float().mean())
    by_company = company > _ROUNDING and int(alone.sum()) > 1
    if by_block:
        # As many as are compared with it: in halves and in another order.
        one, other = (
            elected(vote(subject.defense, x, y, draws=draws, rng=rng.fork("other", k)).votes, y)
            != verdicts
            for k in range(2)
        )
        by_batch &= _exceeds(moved, one | other)
        by_company &= _exceeds(alone, by_chance)
    reason = ""
    if drifting or changed:
        what = f"{drifting} images are voted otherwise when they are judged again"
        if not drifting:
            what = f"one image is cleaned otherwise after {calls} calls"
        reason = (
            f"{what} with the same streams: the defense depends on something beside image and "
            "stream, such as the number of its calls or the global generator"
        )
    elif by_batch or by_company:
        reason = (
            "the verdict depends on the batch an image is judged in, or on its place there "
            f"({company:.1%} of the images are voted otherwise alone or beside foreign ones)"
        )
    return Finding(
        "C22",
        "verdicts repeat",
        Weight.VOID,
        State.FAIL if reason else State.PASS,
        figure=f"{drifting} images with other votes; another order or batch moves {share:.1%}, "
        f"judging alone or beside foreign images {company:.1%}",
        threshold=f"identical votes; another batch moves at most {_ROUNDING:.1%}",
        reason=reason,
        values={
            "drifting": drifting,
            "batch": share,
            "company": company,
            "calls": changed,
            "long run": calls,
        },
    )


def _exceeds(moved: Tensor, by_chance: Tensor) -> bool:
    """Whether significantly more images moved than other noise moves."""
    return worsens(~by_chance.cpu().numpy(), ~moved.cpu().numpy()) <= LEVEL


def _in_other_company(
    subject: Subject, x_adv: Tensor, *, by_block: bool
) -> tuple[Tensor, Tensor]:
    """Find which images, clean and attacked, elect another class alone or beside others.

    The second are those that do under other streams in the same batch, for comparison; none
    are asked for where noise does not go by the block.
    """
    images, x_adv = subject.images[:_ALONE], x_adv[:_ALONE]
    draws = min(_AGAIN, subject.base.cell.draws)
    moved, by_chance = [], []
    for name, x in (("clean", images.x), ("attacked", x_adv)):
        rng = subject.rng[: len(x)].fork("company", name)
        known = vote(subject.defense, x, images.y, draws=draws, rng=rng).votes.argmax(1)
        for other in (votes_alone, votes_beside):
            found = other(subject.defense, x, images.y, draws=draws, rng=rng)
            moved.append(found.argmax(1) != known)
            if not by_block:
                continue
            fresh = rng.fork("other", other.__name__)
            found = vote(subject.defense, x, images.y, draws=draws, rng=fresh).votes
            by_chance.append(found.argmax(1) != known)
    return torch.cat(moved), torch.cat(by_chance) if by_chance else x_adv.new_zeros(0)


def _changed_by_calls(subject: Subject, x: Tensor) -> tuple[bool, int]:
    """Whether one image (1, C, H, W), one stream, is cleaned otherwise in so many calls."""
    rng = subject.rng[:1].fork("calls")
    with torch.no_grad():
        with count_passes(subject.defense.networks()) as passes:
            first = subject.defense.purify(x, rng=rng)
        far = torch.zeros_like(first)
        most = _PASSES // max(1, passes.total())
        calls = min(_CALLS, 50 * len(subject.images), most)
        for _ in range(calls):
            far = torch.maximum(far, (subject.defense.purify(x, rng=rng) - first).abs())
    return bool((far > _PIXEL).any()), calls


def _devices(x: Tensor) -> list[torch.device]:
    return [x.device] if x.device.type == "cuda" else []


def eight_bits_suffice(subject: Subject) -> Finding:
    """C23: the attack survives when its images are stored with 8 bits per pixel."""
    run = subject.strong()
    x, y = subject.images.x, subject.images.y
    stored = rounded(run.x_adv, x, 8)
    ballot = vote(
        subject.defense,
        stored,
        y,
        draws=subject.base.cell.draws,
        rng=subject.rng.fork("8 bits"),
        sequential=True,
    )
    clean = run.rows["clean"].to_numpy()
    after = clean & elected(ballot.votes, y).cpu().numpy()
    before = run.robust.to_numpy()
    points = 100 * (after.mean() - before.mean())
    significant = min(worsens(before, after), worsens(after, before)) <= LEVEL
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    low, high = paired_interval(gained, lost, len(before))
    state = State.PASS
    if abs(points) > 1:
        state = State.FAIL if significant else State.WARN
    return Finding(
        "C23",
        "8-bit images",
        Weight.REMARK,
        state,
        figure=f"{points:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})",
        threshold="at most 1 point",
        reason=""
        if state is State.PASS
        else "the images that break it cannot be stored as ordinary pictures: `bench judge KEY "
        "--bits 8` tells what is left of an attack",
        values={"points": points},
    )
