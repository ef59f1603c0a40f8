"""Lay out, as sections of a report, what proofs and an attack from outside say."""

from __future__ import annotations

from collections.abc import Sequence

from bench.calibration.ladders import LARGEST_SHARE, OutsideResult
from bench.calibration.outside import Effort
from bench.calibration.proven import SIGMA, Facts, Row
from bench.calibration.report import Section

_PROVEN_HEADS = (
    "network", "eps", "defense", "attack", "access", "images", "attacked", "error found",
    "error proven", "gap", "breakable found", "undecided broken", "passes", "holds",
)  # fmt: skip
_PROVEN = f"""\
MNIST networks of others (Linf). Of WK17a a mixed-integer solver proved that exactly 4.38 % of
the 10,000 test images have an adversarial example (Tjeng et al. 2019, arXiv 1711.07356). Of
Small-Adv and CNN-A-Adv there are lists of test images that gradient attacks failed on: provably
breakable ones, and undecided ones (Zhang et al. 2022); all other images are decided and are not
attacked here.

`error found`: percent of `images` that are not right after the attack. `error proven`: what no
attack can exceed; `gap`: points below the least that is proven. `breakable found`: of provably
breakable images that are right without an attack. `passes`: of an image that was attacked. All
attacks have their default parameters.

What linear bounds certify breaks under no attack. Most attacks of WK17a do not see certified
images, and they count as right; one that breaks all the same is a bug, as is an error above the
proven one. AutoAttack does not see undecided images. Behind `gaussian` (sigma {SIGMA:g}, 50
votes) nothing is proven, since noise leaves the ball: the rows show which images break with it
of those that break without: of the listed ones, of WK17a of the first 100 that an attack
breaks."""
_FACT_HEADS = (
    "network", "images", "wrong without attack", "certified", "weights SHA-256", "data digest",
    "provably breakable, and no attack here breaks them without noise",
)  # fmt: skip
_FACTS = """\
`certified`: images that linear bounds (Fast-Lin, arXiv 1804.09699) prove unbreakable, computed
for the network whose every image is decided."""

_OUTSIDE_HEADS = (
    "dataset", "defense", "settings", "eps", "images", "survivors", "broken", "share", "left",
    "images broken", "passes", "draws", "checkpoints", "ladder", "holds",
)  # fmt: skip


def proven(rows: Sequence[Row], facts: Sequence[Facts]) -> list[Section]:
    """Lay out attacks against proofs."""
    return [
        Section("Proven networks", _PROVEN, _PROVEN_HEADS, [_proven(row) for row in rows]),
        Section("What was there to find", _FACTS, _FACT_HEADS, [_fact(one) for one in facts]),
    ]


def outside(verdicts: Sequence[OutsideResult], effort: Effort) -> Section:
    """Lay out what an attack from outside broke of ladders' survivors."""
    about = f"""\
A simple attack that shares no code with the attacks and the judge, on the images that every
cell of a ladder left: {effort.targets} targets, {effort.steps} sign steps each with momentum
{effort.momentum:g} and a cosine step from {effort.first:g} eps, {effort.draws} draws a step,
loss z_t - z_y, random start; fresh draws vote, as many as the ladder's judge had. `share`:
broken in percent of all images; more than {LARGEST_SHARE:g} fails. `left`: robust accuracy in
percent before and after. `passes`: passes of all networks an image; through the whole defense
they are {effort.passes(10):,} at most with ten classes."""
    rows = [_outside(one) for one in verdicts]
    return Section("Attack from outside", about, _OUTSIDE_HEADS, rows)


def _proven(row: Row) -> list[str]:
    if row.missing:
        blank = [""] * (len(_PROVEN_HEADS) - 3)
        return [row.network, row.eps, *blank, f"not measured: {row.missing}"]
    exact = "" if row.least is None or row.most is None else _percent(row.least, row.images)
    if exact and row.least != row.most:
        exact = f"{exact} to {_percent(row.most or 0, row.images)}"
    return [
        row.network, row.eps, row.defense, row.attack, row.access, f"{row.images:,}",
        f"{row.attacked:,}", _percent(row.broken, row.images), exact,
        "" if row.gap is None else f"{row.gap:.2f}",
        "" if row.found is None else f"{row.found} of {row.breakable}",
        "" if row.undecided is None else str(row.undecided), f"{row.passes:,}", _holds(row),
    ]  # fmt: skip


def _holds(row: Row) -> str:
    if row.fault:
        return f"NO: {row.fault}"
    return "nothing proven" if row.most is None else "yes"


def _fact(facts: Facts) -> list[str]:
    certified = "" if facts.certified is None else f"{facts.certified:,}"
    unbroken = ", ".join(map(str, facts.unbroken))
    return [
        facts.name, f"{facts.images:,}", str(facts.wrong), certified, facts.weights[:16],
        facts.data[:16],
        f"{len(facts.unbroken)}: {unbroken}" if unbroken else "",
    ]  # fmt: skip


def _percent(count: int, images: int) -> str:
    return f"{100 * count / images:.2f}" if images else ""


def _outside(one: OutsideResult) -> list[str]:
    survivors, lost = one.survivors, len(one.broken)
    left = f"{100 * survivors / one.images:.1f} to {100 * (survivors - lost) / one.images:.1f}"
    return [
        one.dataset, one.defense, one.settings, one.eps, str(one.images), str(survivors),
        str(lost), f"{one.share:.2f}", left, ", ".join(map(str, one.broken)),
        f"{one.passes // max(survivors, 1):,}", str(one.draws), ", ".join(one.checkpoints),
        f"{', '.join(one.attacks)} ({len(one.cells)} cells: {', '.join(one.cells)})",
        "yes" if one.holds else "NO",
    ]  # fmt: skip
