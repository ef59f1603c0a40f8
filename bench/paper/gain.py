"""The layout `gain`: every defense beside a baseline on the same images. Imports no torch.

A row is paired with the cell of the baseline of which all the same was asked (data, images,
classifier, ball, attack, seed, draws). Where the baseline was run in several settings, those of
``match`` decide, one after the other: by default first the cells with the same training.seed,
then of those the ones with the same steps. A parameter in which no candidate agrees decides
nothing, and the column ``paired`` says what the partner has in place; a row that is left with
several partners has no gain, and ``paired`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

import pandas as pd

from bench.paper.cells import Cells, Row, arm, frame_of, grouped, parameter
from bench.paper.spec import Head
from bench.results.compare import compare_cells, pairing
from bench.results.store import read_rows

COLUMNS = (
    "dataset", "classifier", "norm", "eps", "attack", "access", "defense", "settings",
    "training_seed", "steps",
    "clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high", "robust_sd",
    "gain", "gain_low", "gain_high", "gain_method", "gain_p", "gain_sd", "gain_min", "gain_max",
    "clean_gain", "paired", "paper", "seeds", "n", "seed", "draws", "judging", "audit", "state",
    "note", "keys", "baseline_key", "classifier_checkpoint", "checkpoint",
)  # fmt: skip
_SEED = "training.seed"


def table(runs: list[tuple[Cells, dict[str, float]]], head: Head) -> pd.DataFrame:
    """Write a row per defense and training seed, and one per defense over its seeds."""
    rows: list[Row] = []
    for cells, paper in runs:
        found = _with_gains(cells, head)
        for row in found:
            row["seeds"] = 1
            row["paper"] = paper.get(row["defense"])
            row["_arm"] = arm(cells.contents[row["key"]], attack=True, without=[_SEED])
        for group in grouped(found, "_arm"):
            rows += group
            if len({row["training_seed"] for row in group}) > 1:
                rows.append(_over_seeds(group, is_baseline=_named(group[0], head)))
    return frame_of([_rounded(row) for row in rows], COLUMNS)


def _named(row: Row, head: Head) -> bool:
    return bool(row["defense"] == head.baseline)


def _with_gains(cells: Cells, head: Head) -> list[Row]:
    rows = cells.rows()
    done = {row["key"]: row for row in rows if row["state"] == "done"}
    asked = {key: pairing(cells.contents[key], cells.contents) for key in done}
    for key, row in done.items():
        if _named(row, head):
            continue
        others = [
            other for other in done if _named(done[other], head) and asked[other] == asked[key]
        ]
        partner, note = _partner(key, others, cells.contents, head.match)
        row["paired"] = note
        if partner is not None:
            row |= _gain(cells, key, partner)
    return rows


def _partner(
    key: str, others: list[str], contents: Mapping[str, Any], match: list[str]
) -> tuple[str | None, str]:
    """Choose the cell of the baseline that a cell is paired with, and say where it differs."""
    differs = []
    unlike = all(parameter(contents[key], path) is None for path in match)
    if unlike and len(others) > 1:
        return None, ""  # the undefended classifier has no setting to be paired by
    for path in match:
        own = parameter(contents[key], path)
        same = [other for other in others if parameter(contents[other], path) == own]
        if same:
            others = same
        elif own is not None:
            differs.append(path)
    if not others:
        return None, "no baseline was measured in the same way"
    if len(others) > 1:
        return None, f"{len(others)} baselines differ in more than {', '.join(match)}"
    partner = contents[others[0]]
    known = [(path, parameter(partner, path)) for path in differs]
    told = [f"{path} {value}" for path, value in known if value is not None]
    return others[0], f"the baseline has {', '.join(told)}" if told else ""


def _gain(cells: Cells, key: str, partner: str) -> Row:
    """Compare two cells image by image, as `bench compare` does; in points."""
    found = compare_cells(cells.store, cells.contents, key, partner)
    own, other = (
        read_rows(cells.store.outcomes(side)).set_index("index")["clean"].astype(float)
        for side in (key, partner)
    )
    shared = own.index.intersection(other.index)
    low, high = found.interval
    return {
        "gain": 100 * found.difference,
        "gain_low": 100 * low,
        "gain_high": 100 * high,
        "gain_method": found.interval_method,
        "gain_p": found.p,
        "clean_gain": 100 * float((own[shared] - other[shared]).mean()),
        "baseline_key": partner,
    }


def _over_seeds(group: list[Row], *, is_baseline: bool) -> Row:
    """Sum the trainings of one defense up: spread over seeds, and no interval over images."""
    first = group[0]
    kept = ["dataset", "classifier", "norm", "eps", "attack", "access", "defense", "steps"]
    kept += ["n", "seed", "draws", "judging", "paper", "classifier_checkpoint"]
    row = {name: first[name] for name in kept}
    row |= {
        "settings": first["settings"].without(f"defense.{_SEED}"),
        "seeds": len(group),
        "keys": " ".join(row["keys"] for row in group),
        "baseline_key": " ".join(row.get("baseline_key", "") for row in group).strip(),
        "checkpoint": " ".join(row["checkpoint"] for row in group),
    }
    wanted = ["robust", "clean"] + ([] if is_baseline else ["gain", "clean_gain"])
    if any(pd.isna(other.get(name)) for other in group for name in wanted):
        return {**row, "state": "incomplete", "note": "a seed has no number"}
    values = {name: [float(other[name]) for other in group] for name in wanted}
    row |= {name: mean(found) for name, found in values.items()}
    row |= {"state": "done", "robust_sd": stdev(values["robust"])}
    if not is_baseline:
        gains = values["gain"]
        row |= {"gain_sd": stdev(gains), "gain_min": min(gains), "gain_max": max(gains)}
    return row


def _rounded(row: Row) -> Row:
    points = ("clean", "robust", "gain")
    return {
        name: round(value, 2)
        if isinstance(value, float) and name.startswith(points)
        and name not in ("gain_p", "gain_method")
        else value
        for name, value in row.items()
    }  # fmt: skip
