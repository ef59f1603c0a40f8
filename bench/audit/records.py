"""Checks of what was recorded: legality C1, cost C26, and settings without effect C27."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import Subject
from bench.plugins.strangers import SAID
from bench.results.cell import subject_of
from bench.results.cell_row import void_note
from bench.results.files import read_json
from bench.results.settings import flat, measured
from bench.results.store import Store, read_rows

_FEW = 8  # images left right: a second restart improves none of fewer by chance


def images_are_legal(subject: Subject) -> Finding:
    """C1: no proposal leaves the ball or the box or is not a number, here or in the results."""
    illegal, said = {}, []
    for where, cell, rows in cells_of(subject):
        if note := void_note(rows):
            name = f"{cell['attack']['name']} ({where} {cell['key']})"
            illegal[name] = int((~rows["legal"]).sum())
            said.append(f"{name}: {note}")
    return Finding(
        "C1",
        "images are legal",
        Weight.VOID,
        State.FAIL if illegal else State.PASS,
        figure=f"{sum(illegal.values())} illegal images",
        threshold="none beyond eps + 1e-6, outside [0, 1] or NaN",
        reason="; ".join(said),
        values={"illegal": illegal},
    )


def cost_is_recorded(subject: Subject) -> Finding:
    """C26: every row has its passes, seconds and peak memory, and the classifier was seen."""
    missing, total = [], 0
    for where, cell, rows in cells_of(subject):
        if rows.empty:  # cheaper attacks left it no image
            continue
        total += 1
        folder = subject.workspace.store if where == "audit" else subject.results
        cost = read_json(folder.cell(cell["key"]) / "provenance.json")
        asked = int(sum(map(np.sum, rows["votes"]))) + int(
            sum(map(np.sum, rows["clean_votes"]))
        )
        # The judge cannot have seen its draws with fewer passes than draws. An attack may well
        # be so short that its seconds round to 0, above all one that calls no network.
        seen = cost["judge passes"].get("classifier forward", 0)
        strange = any(SAID in flag for flag in cost["flags"])
        if (
            strange
            or seen < asked
            or cost["attack seconds"] < 0
            or cost["peak memory MiB"] <= 0
        ):
            missing.append(f"{cell['attack']['name']} ({where} {cell['key']})")
    return Finding(
        "C26",
        "cost is recorded",
        Weight.REMARK,
        State.FAIL if missing else State.PASS,
        figure=f"{total - len(missing)} of {total} cells",
        threshold="passes of all draws, seconds and memory in every cell",
        reason=f"{', '.join(missing)} ran on networks that were not counted, and that no key "
        "knows: a defense has to hold its networks as modules"
        if missing
        else "",
        values={"missing": missing},
    )


def settings_take_effect(subject: Subject) -> Finding:
    """C27: no two cells that differ in only one parameter have identical rows.

    An attack that finds the same whatever its budget is no evidence: then the robust accuracy
    is at most an upper bound. A parameter of attack or purifier that does nothing is not
    connected, and neither is one of training whose checkpoints have equal digests. Draws to
    average are left out where the defense is deterministic. Attacks let go of an image once it
    is broken, and another restart often finds nothing better for one that is not: cells that
    leave fewer than 8 images right tell nothing.
    """
    cells = list(_siblings(subject))
    idle: list[str] = []
    weight = Weight.REMARK
    for (one, first), (two, second) in combinations(cells, 2):
        name = _only_difference(one, two)
        most = one["attack"]["name"] == "apgd_t"  # its draws are as many as it needs, at most
        if name == "attack.eot" and (most or not subject.defense.stochastic):
            continue
        if name is None:
            continue
        if name.startswith("defense.training."):
            same = one["defense"]["checkpoint"] == two["defense"]["checkpoint"]
        else:
            same = _identical(read_rows(first), read_rows(second))
        if same:
            idle.append(f"{name} ({one['key']} and {two['key']})")
            if name.startswith("attack."):
                weight = Weight.BOUND
    return Finding(
        "C27",
        "settings take effect",
        weight,
        State.FAIL if idle else State.PASS,
        figure=f"{len(idle)} without effect among {len(cells)} cells",
        threshold="none",
        reason=f"cells that differ in {', '.join(idle)} have identical rows or checkpoints: is "
        "the parameter used?"
        if idle
        else "",
        values={"idle": idle},
    )


def cells_of(subject: Subject) -> Iterator[tuple[str, Mapping[str, Any], pd.DataFrame]]:
    """List the finished cells of this defense and ball: the audit's own and the user's."""
    wanted = subject_of(subject.base.cell.canonical())
    for where, store in (("audit", subject.workspace.store), ("cell", subject.results)):
        for cell in _finished(store):
            if subject_of(cell) == wanted:
                yield where, cell, read_rows(store.outcomes(cell["key"]))


def _finished(store: Store) -> Iterator[dict[str, Any]]:
    for folder in store.cells():
        if store.outcomes(folder.name).is_file():
            yield {**read_json(folder / "cell.json"), "key": folder.name}


def _siblings(subject: Subject) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """List all finished cells of this defense, whatever its parameters, with their outcomes."""
    mine = subject.base.cell.canonical()
    for store in (subject.workspace.store, subject.results):
        for cell in _finished(store):
            same = all(cell[name] == mine[name] for name in ("dataset", "data", "classifier"))
            if same and cell["defense"]["name"] == mine["defense"]["name"]:
                yield cell, store.outcomes(cell["key"])


def _only_difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """Name the one parameter in which two cells differ, None where it is another number."""
    mine, theirs = dict(_flat(one)), dict(_flat(two))
    names = [name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)]
    known = len(names) == 1 and ".params." in names[0]
    return names[0].replace(".params.", ".") if known else None


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Spell out what a cell measures; a checkpoint follows from its training.

    A cold start after other attacks is the same attack on fewer images, and an attack after
    none starts cold.
    """
    warm = content.get("after") and content["attack"]["params"].get("warm", False)
    idle = ("key", "defense.checkpoint", *(() if warm else ("after", "attack.params.warm")))
    for name, value in flat(measured(content)):
        if name not in idle:
            yield name, value


def _identical(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether all images of both have the same distance and mean logits, to the bit."""
    if not {"logits"} <= {*first} & {*second}:
        return False
    first, second = (
        one[one["index"].isin(other["index"])].reset_index(drop=True)
        for one, other in ((first, second), (second, first))
    )
    if first["robust"].sum() < _FEW or not first["distance"].any():
        return False
    one, two = (np.stack(list(frame["logits"])) for frame in (first, second))
    return np.array_equal(one, two) and first["distance"].equals(second["distance"])
