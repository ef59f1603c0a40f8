"""Write calibration results as Markdown, a section a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.calibration.gaps import DRAWS, IMAGES, LARGEST_GAP, SEED, Gap
from bench.calibration.traps import Named

_HEADS = (
    "attack", "access", "norm", "defense", "classes", "eps", "exact", "reached", "judged",
    "gap", "gap of one draw", "budget", "holds",
)  # fmt: skip
_KNOWN = f"""\
{IMAGES} images of 8 x 8 pixels, a third of them black or white, before a linear classifier;
the best attack on it within ball and box is known in closed form. The purifiers are undone
by the classifier, so they change no answer; `noise` adds Gaussian noise, and the judge
votes over {DRAWS} draws. `exact`: robust accuracy in percent under the optimum, `reached`:
expected of the attack's images, from their true margins, `judged`: counted by the judge, at
each eps. `gap`: the largest of reached - exact, in points; more than {LARGEST_GAP:g} fails
unless a reason says why an attack need not get there. On `1 - x` and `mirror` BPDA's
gradient is wrong: that gap is BPDA's own. With alike rivals no single ascent has to find
the nearest class: there an attack that has targets also runs towards every class."""


_TRAP_HEADS = ("trap", "check", "said of the trap", "said of its honest twin", "named")
_TRAPS = """\
Each trap looks robust to some attack and is not; it stands before the classifier of `digits`
(Linf 0.15). `named`: the audit's check objects to the trap, and not to an honest defense of
the same kind: a purifier with a gradient, unscaled logits, a hundredth of noise, a smooth
energy."""


@dataclass(frozen=True)
class Section:
    """One table of a report: its title, what it says, heads and rows of text."""

    title: str
    about: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def known_answers(gaps: Sequence[Gap]) -> Section:
    """Lay out the optimality gaps."""
    return Section("Optimality gaps", _KNOWN, _HEADS, [_row(gap) for gap in gaps])


def traps(named: Sequence[Named]) -> Section:
    """Lay out what the audit said of the planted traps."""
    rows = [
        [
            row.trap,
            f"{row.found.check} {row.found.title}",
            f"{row.found.state}: {row.found.figure or row.found.reason}",
            f"{row.honest.state}: {row.honest.figure or row.honest.reason}",
            "yes" if row.passes else "NO",
        ]
        for row in named
    ]
    return Section("Planted traps", _TRAPS, _TRAP_HEADS, rows)


def document(sections: Sequence[Section], origin: Mapping[str, Any]) -> str:
    """Write a report with a header of where it comes from (``bench.results.provenance``)."""
    versions = ", ".join(f"{name} {found}" for name, found in origin["versions"].items())
    lines = [
        "# Calibration of the attacks",
        "",
        f"- command: `{origin['command']}`",
        f"- date: {origin['date']}",
        f"- commit: {origin['commit'] or 'unknown'}",
        f"- seed: {SEED}",
        f"- versions: {versions}",
        f"- device: {origin['device']}",
    ]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.about, ""]
        lines += [_line(section.heads), _line(["---"] * len(section.heads))]
        lines += [_line(row) for row in section.rows]
    return "\n".join(lines) + "\n"


def _row(gap: Gap) -> list[str]:
    if gap.fault:
        holds = f"NO: {gap.fault}"
    elif gap.ungated:
        holds = f"not gated: {gap.ungated}"
    else:
        holds = "yes" if gap.passes else "NO"
    single = "" if gap.gap_single is None else f"{gap.gap_single:.2f}"
    return [
        gap.attack, gap.access, gap.norm, gap.defense, str(gap.classes), " / ".join(gap.eps),
        _shares(gap.exact), _shares(gap.reached), _shares(gap.judged),
        "" if gap.gap is None else f"{gap.gap:.2f}", single, gap.budget, holds,
    ]  # fmt: skip


def _shares(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def _line(cells: Sequence[str]) -> str:
    """Join cells; what a third-party error says must not end a cell or a line."""
    safe = [" ".join(cell.replace("|", r"\|").split()) for cell in cells]
    return f"| {' | '.join(safe)} |"
