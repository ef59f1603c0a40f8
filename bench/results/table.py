"""From stored outcomes to tables: one row per cell, and the worst case image by image.

Imports no torch. Accuracies are in percent. ``clean`` and ``robust`` go by the vote of all
draws, and ``robust`` asks that the clean vote is right too; ``vote`` is the vote on the
attacked images only; ``single`` is the expected accuracy of one draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import StoreError, UsageError
from bench.results.audits import DAMAGED, reports
from bench.results.cell import defended_of, is_key, subject_of
from bench.results.certificates import certified
from bench.results.digests import MALFORMED, fault
from bench.results.locks import alone
from bench.results.provenance import BY_BLOCK
from bench.results.render import csv_text
from bench.results.settings import Settings
from bench.results.stats import wilson
from bench.results.store import Store, damage, read_json, read_rows, written
from bench.results.vote_rules import Rule, read_outcomes

COLUMNS = (
    "defense", "attack", "access", "norm", "eps", "dataset", "classifier", "n", "attacked",
    "seed", "draws", "judging", "noise", "audit",
    "clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high",
    "certified", "clean_single", "robust_single", "clean_vote", "robust_vote",
    "passes", "forward", "backward", "memory", "seconds", "state", "note", "settings", "key",
    "classifier_checkpoint", "checkpoint", "commit", "date",
)  # fmt: skip
NOT_AUDITED = "none"
_TEXTS = (
    "defense", "attack", "access", "norm", "eps", "dataset", "classifier", "judging", "audit",
)  # fmt: skip
_SAME_DEFENSE = [
    "dataset", "classifier", "classifier_checkpoint", "defense", "checkpoint", "norm", "eps",
    "n", "seed", "draws",
]  # fmt: skip


def collect(store: Store) -> pd.DataFrame:
    """Read every cell of a results folder to one row each; raises StoreError."""
    keys = [folder.name for folder in store.cells()]
    frame = rows_of(store, keys, reports(store), certified(store, keys))
    order = ["dataset", "classifier", "norm", "eps", "defense", "access", "attack"]
    order += ["settings", "n", "key"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


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
    rows = [_row_again(store, key, audits) for key in keys]
    found = [{"certified": certified.get(row["key"]), **row} for row in rows if row is not None]
    return _counted(pd.DataFrame(found, columns=list(COLUMNS)))


def _row_again(store: Store, key: str, audits: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read a cell that another process may be changing; None where it dropped a failure."""
    row = _row(store, key, audits)
    if row["state"] != DAMAGED or not is_key(key):
        return row
    if not (store.cell(key) / "cell.json").exists():
        return None
    return _row(store, key, audits)  # finished meanwhile; or damaged indeed


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    for name in ("passes", "forward", "backward", "memory", "attacked"):
        frame[name] = frame[name].astype("Int64")  # also beside rows that have none
    frame["certified"] = frame["certified"].astype(float)
    for name in ("n", "seed", "draws"):
        if frame[name].isna().any():  # of a damaged cell
            frame[name] = frame[name].astype("Int64")
    return frame


def write_runs(store: Store) -> pd.DataFrame:
    """Rebuild runs.csv from the cells and return its rows; raises StoreError."""
    # Under one claim: who writes last has also read last, and leaves nobody's row out.
    with alone(store.claim("runs.csv")):
        frame = collect(store)
        with written(store.runs) as temporary:
            temporary.write_text(csv_text(frame))
    return frame


def _row(store: Store, key: str, audits: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        **dict.fromkeys(_TEXTS, "?"),
        "noise": "",
        "settings": "",
        "key": key,
    }
    try:
        folder = store.cell(key)
        found = fault(folder)
        if not (found and found.startswith("cell.json")):
            cell = read_json(folder / "cell.json")
            row |= _asked(cell)
        if found:
            raise damage(folder, found)
        with np.errstate(divide="raise", invalid="raise"):  # such as images without a vote
            row |= _measured(store, folder, cell, audits)
    except StoreError as error:
        row |= {"state": DAMAGED, "note": str(error)}
    except MALFORMED as error:  # cells from before the digests may hold anything
        why = f"{type(error).__name__}: {error}"
        note = f"cell.json or provenance.json is of another version or was changed ({why})"
        row |= {"state": DAMAGED, "note": note}
    return row


def _asked(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that say what was asked."""
    return {
        "defense": cell["defense"]["name"],
        "attack": cell["attack"]["name"],
        "classifier": cell["classifier"]["name"],
        "settings": str(Settings.read(cell)),
        "classifier_checkpoint": (cell["classifier"]["checkpoint"] or "")[:16],
        "checkpoint": (cell["defense"]["checkpoint"] or "")[:16],
        "note": "",
        "audit": NOT_AUDITED,
        "judging": judging(cell),
        **{
            name: cell[name]
            for name in ("access", "norm", "eps", "dataset", "n", "seed", "draws")
        },
    }


def _measured(
    store: Store, folder: Path, cell: Mapping[str, Any], audits: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the columns that say how far the cell is, with its numbers once it is done."""
    if not store.outcomes(folder.name).is_file():
        for state in ("skipped", "failed"):
            if (folder / f"{state}.json").is_file():
                return {"state": state, "note": read_json(folder / f"{state}.json")["reason"]}
        return {"state": "unfinished"}
    outcomes = read_rows(store.outcomes(folder.name))
    provenance = read_json(folder / "provenance.json")
    illegal = int((~outcomes["legal"]).sum())
    passes = {
        way: sum(
            count
            for part in ("attack passes", "judge passes")
            for name, count in provenance[part].items()
            if name.endswith(way)
        )
        for way in ("forward", "backward")
    }
    shares: dict[str, float] = {}
    audit = NOT_AUDITED
    if not illegal:  # void means that nothing was measured: no number, and none to judge
        shares = survival(outcomes, cell["n"]) if "after" in cell else accuracies(outcomes)
        audit = _audited(audits.get(subject_of(cell)), shares["robust"])
    return {
        **shares,
        "attacked": len(outcomes),
        "passes": round(sum(passes.values()) / cell["n"]),
        **{way: round(count / cell["n"]) for way, count in passes.items()},
        "memory": provenance.get("peak memory MiB"),
        "seconds": round(provenance["attack seconds"] + provenance["judge seconds"], 1),
        "commit": (provenance["commit"] or "")[:12],
        "date": provenance["date"],
        "noise": "by block" if BY_BLOCK in provenance["flags"] else "",
        "state": "void" if illegal else "done",
        "note": void_note(outcomes) or "; ".join(provenance["flags"]),
        "audit": audit,
    }


def void_note(outcomes: pd.DataFrame) -> str | None:
    """Say why rows with ``legal`` and ``distance`` are void; None where they are not."""
    illegal = outcomes[~outcomes["legal"]]
    unreal = int(illegal["distance"].isna().sum())
    outside = len(illegal) - unreal
    said = [f"{outside} images outside the ball"] if outside else []
    said += [f"the attack returned NaN for {unreal} images"] if unreal else []
    return "; ".join(said) or None


def judging(content: Mapping[str, Any]) -> str:
    """Name how a cell was judged."""
    return "sequential" if content.get("sequential") else "all draws"


def _audited(report: Mapping[str, Any] | None, robust: float) -> str:
    """Return what an audit makes of a row's robust accuracy in percent.

    A row above all that the audit's own attacks left is an upper bound, whatever checks say.
    """
    if report is None:
        return NOT_AUDITED
    reached = report.get("accuracy")
    if report["state"] == "stands" and (reached is None or robust > reached["robust_high"]):
        return "upper bound"
    return str(report["state"])


def survival(outcomes: pd.DataFrame, n: int) -> dict[str, float]:
    """Return the share of all n images that survive an attack on others' survivors."""
    left = int(outcomes["robust"].sum())
    low, high = wilson(left, n)
    return {
        "robust": _percent(left / n),
        "robust_low": _percent(low),
        "robust_high": _percent(high),
    }


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


def accuracies(outcomes: pd.DataFrame) -> dict[str, float]:
    """Sum per-image outcomes up to accuracies in percent, with 95 % Wilson intervals."""
    n = len(outcomes)
    found: dict[str, float] = {}
    for name in ("clean", "robust"):
        # Of probabilities this is the expected number right, and Wilson is conservative:
        # values within [0, 1] vary less than the coin flips that it assumes.
        right = float(outcomes[name].to_numpy().sum())
        low, high = wilson(right, n)
        found |= {
            name: _percent(right / n),
            f"{name}_low": _percent(low),
            f"{name}_high": _percent(high),
        }
    labels = outcomes["label"].to_numpy()
    for name, column in (("clean", "clean_votes"), ("robust", "votes")):
        votes = np.stack(outcomes[column].tolist())
        true = votes[np.arange(n), labels].astype(float)
        others = votes.copy()
        others[np.arange(n), labels] = -1
        # Draws that stopped at a clear verdict say too little of an image's share.
        if len(set(votes.sum(1))) == 1:
            found[f"{name}_single"] = _percent(float((true / votes.sum(1)).mean()))
        found[f"{name}_vote"] = _percent(float((true > others.max(1)).mean()))
    return found


def _percent(share: float) -> float:
    return round(100 * share, 2)


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
                "clean": _percent(joined["clean"].mean()),
                "clean_low": _percent(clean_low),
                "clean_high": _percent(clean_high),
                "robust": _percent(joined["robust"].mean()),
                "robust_low": _percent(low),
                "robust_high": _percent(high),
                "robust_single": _percent(joined["single"].mean()),
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
    cells = frame[frame["key"].map(is_key)].drop_duplicates("key")
    when = {key: store.cell(key).stat().st_mtime for key in cells["key"]}
    written = cells["key"].map(when).map(_date)
    # As objects: where no cell has a date, the column is one of numbers.
    dates = cells["date"].astype(object).where(cells["date"].notna(), written)
    last = set(cells.loc[dates.sort_values(kind="stable").index[-most:], "key"])
    kept = [not last.isdisjoint(key.split()) for key in frame["key"]]
    return frame[np.array(kept) | (frame["state"] == DAMAGED)]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


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
