"""From stored outcomes to tables: one row per cell, and the worst case image by image.

Imports no torch. Accuracies are in percent. ``clean`` and ``robust`` go by the vote of all
draws, and ``robust`` asks that the clean vote is right too; ``vote`` is the vote on the
attacked images only; ``single`` is the expected accuracy of one draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import UsageError
from bench.results.audits import DAMAGED
from bench.results.cell import defended_of
from bench.results.cell_row import accuracies, percent, said_by
from bench.results.files import read_json
from bench.results.rows import COLUMNS, Row, all_rows, finished_rows, last_written
from bench.results.settings import Settings
from bench.results.stats import wilson
from bench.results.store import Store
from bench.results.vote_rules import Rule, read_outcomes

_SAME_DEFENSE = [
    "dataset", "classifier", "classifier_checkpoint", "defense", "checkpoint", "norm", "eps",
    "n", "seed", "draws",
]  # fmt: skip


def collect(store: Store) -> pd.DataFrame:
    """Read every cell of a results folder to one row each; raises StoreError."""
    return _framed(all_rows(store))


def rows_of(
    store: Store,
    keys: Sequence[str],
    audits: Mapping[str, Any],
    certified: Mapping[str, float] = MappingProxyType({}),
) -> pd.DataFrame:
    """Read these cells to one row each, in this order; a damaged one has no number.

    ``audits`` are reports by subject, as `bench audit` wrote them, and ``certified`` what
    certificates say of cells, by key.
    """
    said = (said_by(store, key) for key in keys)
    return _framed(finished_rows((one for one in said if one), audits, certified))


def _framed(rows: list[Row]) -> pd.DataFrame:
    return _counted(pd.DataFrame(rows, columns=list(COLUMNS)))


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    for name in ("passes", "forward", "backward", "memory", "attacked"):
        frame[name] = frame[name].astype("Int64")  # also beside rows that have none
    frame["certified"] = frame["certified"].astype(float)
    for name in ("n", "seed", "draws"):
        if frame[name].isna().any():  # of a damaged cell
            frame[name] = frame[name].astype("Int64")
    return frame


def decided(frame: pd.DataFrame, store: Store, rule: Rule) -> pd.DataFrame:
    """Return the rows with clean and robust by a rule, empty with a note where it cannot be.

    Raises UsageError where it can be for no row.
    """
    frame = frame.assign(rule=str(rule))
    shares = [name for name in COLUMNS if name.startswith(("clean", "robust"))]
    objections = []
    finished = frame[frame["state"] == "done"]
    for place, row in finished.iterrows():
        try:
            found = accuracies(read_outcomes(store, row["key"], rule))
        except UsageError as error:
            objections.append(str(error))
            frame.loc[[place], shares] = np.nan
            frame.loc[[place], "note"] = str(error)
        else:
            frame.loc[[place], list(found)] = list(found.values())
    if objections and len(objections) == len(finished):
        raise UsageError(objections[0])
    return frame


def with_worst_case(
    frame: pd.DataFrame, store: Store, rule: Rule | None = None
) -> pd.DataFrame:
    """Add a row per defense and threat that joins all its attacks image by image.

    Cells are joined where they defend the same images in the same way: the row takes each
    image's minimum over the attacks, never the minimum of the means.
    """
    done = frame[frame["state"] == "done"].copy()
    if done.empty:
        return frame
    contents = {key: read_json(store.cell(key) / "cell.json") for key in done["key"]}
    chosen = {key: Settings.read(content) for key, content in contents.items()}
    done["_defended"] = [defended_of(contents[key]) for key in done["key"]]
    added = []
    for _, group in done.groupby("_defended", sort=False):
        first = group.iloc[0]
        try:
            frames = [read_outcomes(store, key, rule) for key in group["key"]]
        except UsageError:
            continue  # its rows say why the rule cannot be used
        if len({index for frame in frames for index in frame["index"]}) < first["n"]:
            continue  # the attack on all images is void or missing: these are only survivors
        joined = join([frame for frame in frames if len(frame)])
        # One attack in low precision is enough to be said: another search may break more.
        found = [chosen[key] for key in group["key"]]
        names = ", ".join(map(_named, group["attack"], found))
        searches = sorted({pair for one in found for pair in one.only("search").pairs})
        settings = found[0].without("attack", "search")
        low, high = wilson(float(joined["robust"].sum()), len(joined))
        clean_low, clean_high = wilson(float(joined["clean"].sum()), len(joined))
        added.append(
            {
                **{name: first[name] for name in _SAME_DEFENSE},
                "attack": "worst case",
                "attacked": len(joined),
                "audit": _worst_audited(group["audit"]),
                "access": "/".join(sorted(set(group["access"]))),
                "judging": "/".join(sorted(set(group["judging"]))),
                "noise": max(group["noise"]),
                "clean": percent(joined["clean"].mean()),
                "clean_low": percent(clean_low),
                "clean_high": percent(clean_high),
                "robust": percent(joined["robust"].mean()),
                "robust_low": percent(low),
                "robust_high": percent(high),
                "robust_single": percent(joined["single"].mean()),
                "certified": first["certified"],
                "passes": int(group["passes"].sum()),
                "seconds": round(float(group["seconds"].sum()), 1),
                "state": "done",
                "note": f"minimum per image over {names}",
                "settings": str(replace(settings, pairs=(*settings.pairs, *searches))),
                "rule": str(rule),
                "date": group["date"].max(),
                "key": " ".join(group["key"]),
            }
        )
    return pd.concat([frame, pd.DataFrame(added, columns=frame.columns)], ignore_index=True)


def newest(frame: pd.DataFrame, store: Store, most: int) -> pd.DataFrame:
    """Keep the rows of the cells that were written last, in their order, and what joins them.

    Damaged ones are always kept.
    """
    dated = frame[["key", "date", "state"]].to_dict("records")
    rows = [{str(name): value for name, value in row.items()} for row in dated]
    last = last_written(rows, store, most)
    kept = [not last.isdisjoint(key.split()) for key in frame["key"]]
    return frame[np.array(kept) | (frame["state"] == DAMAGED)]


def _worst_audited(states: pd.Series[str]) -> str:
    """Let the worst case, which is at most each of its rows, stand where one of them does."""
    return "stands" if "stands" in set(states) else str(states.iloc[0])


def _named(attack: str, settings: Settings) -> str:
    return " ".join([attack, *settings.only("search").words()])


def join(outcomes: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Take the minimum per image over attacks: columns clean, robust, single."""
    parts = []
    for frame in outcomes:
        votes = np.stack(list(frame["votes"]))
        share = votes[np.arange(len(frame)), frame["label"].to_numpy()] / votes.sum(1)
        if len(set(votes.sum(1))) > 1:
            share = np.full(len(frame), np.nan)
        parts.append(
            pd.DataFrame(
                {"clean": frame["clean"], "robust": frame["robust"], "single": share}
            ).set_index(frame["index"])
        )
    joined = pd.concat(parts).groupby(level=0)
    # Attacks on survivors have no rows for the others; a share that is not known stays unknown.
    return joined.min(skipna=False)
