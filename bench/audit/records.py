"""Checks of what was recorded: legality C1, cost C26, and settings without effect C27."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import Subject
from bench.cell import subject_of
from bench.store import Store, read_json, read_rows

_FEW = 8  # images left right: a second restart improves none of fewer by chance


def images_are_legal(subject: Subject) -> Finding:
    """C1: no proposal leaves the ball or the box or is not a number, here or in the results."""
    subject.strong()
    illegal = {}
    for where, cell, rows in cells_of(subject):
        out = int((~rows["legal"]).sum())
        if out:
            illegal[f"{cell['attack']['name']} ({where} {cell['key']})"] = out
    return Finding(
        "C1",
        "images are legal",
        Weight.VOID,
        State.FAIL if illegal else State.PASS,
        figure=f"{sum(illegal.values())} illegal images",
        threshold="none beyond eps + 1e-6, outside [0, 1] or NaN",
        reason=f"of {', '.join(illegal)} some images left the ball or the box"
        if illegal
        else "",
        values={"illegal": illegal},
    )


def cost_is_recorded(subject: Subject) -> Finding:
    """C26: every row has its passes, seconds and peak memory, and the classifier was seen."""
    subject.strong()
    missing, total = [], 0
    for where, cell, rows in cells_of(subject):
        total += 1
        folder = subject.space.store if where == "audit" else subject.results
        cost = read_json(folder.cell(cell["key"]) / "provenance.json")
        asked = int(sum(map(np.sum, rows["votes"]))) + int(
            sum(map(np.sum, rows["clean_votes"]))
        )
        # The judge cannot have seen its draws with fewer passes than draws.
        seen = cost["judge passes"].get("classifier forward", 0)
        if seen < asked or cost["attack seconds"] <= 0 or cost["peak memory MiB"] <= 0:
            missing.append(f"{cell['attack']['name']} ({where} {cell['key']})")
    return Finding(
        "C26",
        "cost is recorded",
        Weight.REMARK,
        State.FAIL if missing else State.PASS,
        figure=f"{total - len(missing)} of {total} cells",
        threshold="passes of all draws, seconds and memory in every cell",
        reason=f"{', '.join(missing)} ran on networks that were not counted: a defense has to "
        "hold its networks as modules"
        if missing
        else "",
        values={"missing": missing},
    )


def settings_take_effect(subject: Subject) -> Finding:
    """C27: no two cells that differ in one parameter alone have identical rows.

    A parameter that does nothing is not connected. Draws to average are left out where the
    defense is deterministic, and radius 0 leaves nothing to set. Attacks let go of an image
    once it is broken, and another restart often finds nothing better for one that is not: cells
    that leave fewer than 8 images right tell nothing.
    """
    found = [
        (cell, rows)
        for _, cell, rows in cells_of(subject)
        if len(rows) and not cell.get("images")
    ]
    idle = []
    for (one, first), (two, second) in combinations(found, 2):
        name = _only_difference(one, two)
        if name is None or (name == "attack.eot" and not subject.defense.stochastic):
            continue
        if _identical(first, second):
            idle.append(f"{name} ({one['key']} and {two['key']})")
    return Finding(
        "C27",
        "settings take effect",
        Weight.REMARK,
        State.FAIL if idle else State.PASS,
        figure=f"{len(idle)} without effect among {len(found)} cells",
        threshold="none",
        reason=f"cells that differ in {', '.join(idle)} have identical rows: is the parameter "
        "used?"
        if idle
        else "",
        values={"idle": idle},
    )


def cells_of(subject: Subject) -> Iterator[tuple[str, Mapping[str, Any], pd.DataFrame]]:
    """List the finished cells of this defense and ball: the audit's own and the user's."""
    wanted = subject_of(subject.base.cell.canonical())
    for where, store in (("audit", subject.space.store), ("cell", subject.results)):
        for cell in _finished(store):
            if subject_of(cell) == wanted:
                yield where, cell, read_rows(store.outcomes(cell["key"]))


def _finished(store: Store) -> Iterator[dict[str, Any]]:
    for folder in store.cells():
        if store.outcomes(folder.name).is_file():
            yield {**read_json(folder / "cell.json"), "key": folder.name}


def _only_difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """Name the one parameter in which two cells differ, None where it is another number."""
    ignored = {"settings", "key", "attack"}
    if any(one.get(name) != two.get(name) for name in {*one, *two} - ignored):
        return None
    mine, theirs = one["attack"], two["attack"]
    if (mine["name"], mine["revision"]) != (theirs["name"], theirs["revision"]):
        return None
    names = [
        name
        for name in {*mine["params"], *theirs["params"]}
        if mine["params"].get(name) != theirs["params"].get(name)
    ]
    return f"attack.{names[0]}" if len(names) == 1 else None


def _identical(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Say whether all images have the same distance, to the bit, and the same votes."""
    if not first["index"].equals(second["index"]) or not first["distance"].any():
        return False
    if first["robust"].sum() < _FEW:
        return False
    same_votes = np.array_equal(np.stack(list(first["votes"])), np.stack(list(second["votes"])))
    return same_votes and first["distance"].equals(second["distance"])
