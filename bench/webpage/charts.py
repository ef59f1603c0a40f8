"""The charts of a page: where each mark is, and the numbers behind it. Imports no torch.

A chart is an SVG that the page's template writes, so that its colours follow the page's and its
words can be read out and selected. Its numbers are those of the table and of the reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.figures.cells import SHARES, of_one_attack, points_of
from bench.figures.curves import from_zero, radius_of, without_eps
from bench.results.render import text_of
from bench.webpage.chosen import Chosen
from bench.webpage.defenses import Told

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 26, 12, 44
_CURVES = 6  # in one chart: as many as its colours and marks tell apart


@dataclass(frozen=True)
class Mark:
    """A point of a curve, with its interval from ``low`` to ``high``, in pixels."""

    x: float
    y: float
    low: float
    high: float
    said: str


@dataclass(frozen=True)
class Curve:
    """Marks from left to right; ``number`` is its colour and its kind of mark."""

    label: str
    number: int
    marks: tuple[Mark, ...]

    @property
    def line(self) -> str:
        """The points of an SVG polyline."""
        return " ".join(f"{mark.x},{mark.y}" for mark in self.marks)


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in pixels."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart, and the ``rows`` under ``heads`` that it is drawn from."""

    anchor: str
    title: str
    across: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    low: float
    high: float
    said: str
    row: tuple[str, ...]
    key: str


def security_curves(chosen: Chosen) -> list[Chart]:
    """Draw robust accuracy by radius for what was attacked at two radii or more."""
    found = []
    cells = chosen.cells
    done = cells[(cells["state"] == "done") & cells["key"].isin(chosen.abouts)]
    for (dataset, norm), rows in done.groupby(["dataset", "norm"], sort=True):
        frame = _by_radius(chosen, rows)
        if frame.empty:
            continue
        curves = {
            str(curve): [_at_radius(row) for row in part.to_dict("records")]
            for curve, part in frame.groupby("curve", sort=True)
        }
        heads = ("curve", "eps", "robust", "interval", "cell", "defense's checkpoint",
                 "classifier's checkpoint")  # fmt: skip
        found += _charts(
            chosen, "curves", f"Robust accuracy by radius: {dataset}, {norm}",
            f"radius eps ({norm}, pixels in [0, 1])", curves, heads, logarithmic=False,
        )  # fmt: skip
    return found


def _by_radius(chosen: Chosen, rows: pd.DataFrame) -> pd.DataFrame:
    cells = [
        (row["key"], chosen.contents[row["key"]], {name: row[name] for name in SHARES})
        for row in rows.to_dict("records")
        if of_one_attack(chosen.contents[row["key"]]) and radius_of(chosen.contents[row["key"]])
    ]

    def frame_of(some: Iterable[Any]) -> pd.DataFrame:
        return points_of(some, value="radius", number=radius_of, fixed=without_eps)

    frame = frame_of(cells)
    if frame.empty:
        return frame
    several = frame.groupby("curve")["radius"].transform("nunique") > 1
    kept = set(frame["key"][several])
    # Named again: fewer curves need fewer words to be told apart.
    frame = frame_of(cell for cell in cells if cell[0] in kept)
    return frame if frame.empty else from_zero(frame)


def _at_radius(row: Mapping[Any, Any]) -> _Point:
    robust, low, high = (row[f"robust{end}"] for end in ("", "_low", "_high"))
    interval = f"{low:.1f}-{high:.1f}"
    said = f"{row['curve']}, eps {row['eps']}: {text_of(robust)} % ({interval})"
    digests = [text_of(row[name])[:16] for name in ("checkpoint", "classifier_checkpoint")]
    line = (row["curve"], row["eps"], text_of(robust), interval, row["key"], *digests)
    return _Point(row["radius"], robust, low, high, said, line, row["key"])


def cost(chosen: Chosen, told: Sequence[Told]) -> list[Chart]:
    """Draw what attacks leave of a defense by the network passes that they took so far."""
    passes = dict(zip(chosen.cells["key"], chosen.cells["passes"], strict=True))
    balls: dict[str, dict[str, list[_Point]]] = {}
    for one in told:
        points = list(_spent(one, passes))
        if len(points) > 1:
            cell = chosen.contents[one.keys[0]]
            curves = balls.setdefault(one.ball, {})
            label = f"{one.title}, n {cell['n']}"
            same = sum(name == label or name.startswith(f"{label} (") for name in curves)
            curves[f"{label} ({same + 1})" if same else label] = points
    heads = ("defense", "after", "passes per image so far", "surviving, %", "cell")
    return [
        chart
        for ball, curves in balls.items()
        for chart in _charts(
            chosen, "cost", f"Robustness by the cost of attacks: {ball}",
            "network passes per image, attacks and judge, so far", curves, heads,
            logarithmic=True,
        )
    ]  # fmt: skip


def _spent(one: Told, passes: Mapping[str, Any]) -> Iterator[_Point]:
    """Yield a point per attack that has a number, in the order in which they were made."""
    if one.story is None:
        return
    n, so_far = one.story["n"], 0
    tried = [attack for attack in one.story["attacks"] if attack.broke is not None]
    for attack in tried:
        so_far += int(passes[attack.key])
        left = 100 * attack.left / n
        low, high = one.story["interval"] if attack is tried[-1] else (left, left)
        text = f"{left:.1f}"
        said = (
            f"{one.title}, after {attack.attack} ({attack.access}): {text} %, {so_far} passes"
        )
        line = (one.title, f"{attack.attack} ({attack.access})", str(so_far), text, attack.key)
        yield _Point(max(so_far, 1), left, low, high, said, line, attack.key)


def _charts(
    chosen: Chosen,
    kind: str,
    title: str,
    across: str,
    curves: Mapping[str, list[_Point]],
    heads: tuple[str, ...],
    *,
    logarithmic: bool,
) -> list[Chart]:
    """Share curves out among charts that each can be read."""
    names = list(curves)
    parts = [names[k : k + _CURVES] for k in range(0, len(names), _CURVES)]
    found = []
    for number, part in enumerate(parts, 1):
        some = {name: curves[name] for name in part}
        points = [point for name in part for point in some[name]]
        scale, ticks = _axis([point.x for point in points], logarithmic=logarithmic)
        more = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
        keys = tuple(dict.fromkeys(point.key for point in points))
        found.append(
            Chart(
                anchor="".join(c if c.isalnum() else "-" for c in f"{kind}-{title}{more}"),
                title=title + more,
                across=across,
                curves=tuple(
                    Curve(name, k, tuple(_mark(point, scale) for point in some[name]))
                    for k, name in enumerate(part)
                ),
                x_ticks=ticks,
                y_ticks=tuple(Tick(_height(y), str(y)) for y in (0, 25, 50, 75, 100)),
                heads=heads,
                rows=tuple(point.row for point in points),
                keys=keys,
                commands=tuple(sorted({chosen.abouts[key]["command"] for key in keys})),
            )
        )
    return found


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    logarithmic: bool

    def __call__(self, x: float) -> float:
        if self.logarithmic:
            x = math.log10(x)
        share = (x - self.low) / (self.high - self.low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)


def _axis(values: Sequence[float], *, logarithmic: bool) -> tuple[_Scale, tuple[Tick, ...]]:
    if logarithmic:
        low, high = (math.log10(side) for side in (min(values), max(values)))
        low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
        scale = _Scale(low, high, True)
        return scale, tuple(Tick(scale(10**k), f"{10**k:,}") for k in range(low, high + 1))
    scale = _Scale(0, max(values) * 1.04, False)
    step = _round_step(max(values) / 5)
    count = int(max(values) / step + 1e-9)
    return scale, tuple(Tick(scale(k * step), f"{k * step:g}") for k in range(count + 1))


def _round_step(least: float) -> float:
    """Return the next of 1, 2, 5, 10, ... times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _height(percent: float) -> float:
    return round(HEIGHT - _BOTTOM - percent / 100 * (HEIGHT - _BOTTOM - _TOP), 1)


def _mark(point: _Point, scale: _Scale) -> Mark:
    return Mark(
        scale(point.x), _height(point.y), _height(point.low), _height(point.high), point.said
    )
