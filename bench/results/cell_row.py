"""What one cell says: the columns of its row, or why it has no number. Imports no torch.

Accuracies are in percent; ``bench.results.table`` says what each is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import StoreError
from bench.results.audits import DAMAGED
from bench.results.cell import is_key, subject_of
from bench.results.digests import MALFORMED, fault
from bench.results.files import read_json
from bench.results.index import Said, remembered
from bench.results.provenance import BY_BLOCK
from bench.results.settings import Settings
from bench.results.stats import wilson
from bench.results.store import Store, damage, read_rows

if TYPE_CHECKING:
    import pandas as pd

NOT_AUDITED = "none"
_TEXTS = (
    "defense", "attack", "access", "norm", "eps", "dataset", "classifier", "judging", "audit",
)  # fmt: skip


def said_by_cells(store: Store) -> dict[str, Said]:
    """Return what every cell of a results folder says, by key; most are not read again."""
    return remembered(store, store.keys(), partial(said_by, store))


def damaged_cells(store: Store) -> dict[str, str]:
    """List the cells of which a file is not what was written: the error by key."""
    return {key: one.damage for key, one in said_by_cells(store).items() if one.damage}


def said_by(store: Store, key: str) -> Said | None:
    """Read a cell that another process may be changing; None where it dropped a failure."""
    said = _said(store, key)
    if said.row["state"] != DAMAGED or not is_key(key):
        return said
    if not (store.cell(key) / "cell.json").exists():
        return None
    return _said(store, key)  # finished meanwhile; or damaged indeed


def _said(store: Store, key: str) -> Said:
    import numpy as np  # slow to import: most cells are not read again

    row: dict[str, Any] = {
        **dict.fromkeys(_TEXTS, "?"),
        "noise": "",
        "settings": "",
        "key": key,
    }
    subject = wrong = None
    try:
        folder = store.cell(key)
        found = fault(folder)
        if not (found and found.startswith("cell.json")):
            cell = read_json(folder / "cell.json")
            row |= _asked(cell)
            subject = subject_of(cell)
        if found:
            raise damage(folder, found)
        with np.errstate(divide="raise", invalid="raise"):  # such as images without a vote
            row |= _measured(store, folder, cell)
    except StoreError as error:
        wrong = str(error)
        row |= {"state": DAMAGED, "note": wrong}
    except MALFORMED as error:  # cells from before the digests may hold anything
        why = f"{type(error).__name__}: {error}"
        note = f"cell.json or provenance.json is of another version or was changed ({why})"
        row |= {"state": DAMAGED, "note": note}
    return Said(row, subject, wrong)


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


def _measured(store: Store, folder: Path, cell: Mapping[str, Any]) -> dict[str, Any]:
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
    if not illegal:  # void means that nothing was measured: there is no number
        shares = survival(outcomes, cell["n"]) if "after" in cell else accuracies(outcomes)
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
    }


def void_note(outcomes: pd.DataFrame) -> str | None:
    """Say why rows with ``legal`` and ``distance`` are void; None where they are not."""
    illegal = outcomes[~outcomes["legal"]]
    unreal = int(illegal["distance"].isna().sum())
    outside = len(illegal) - unreal
    said = [f"{outside} images outside the ball"] if outside else []
    said += [f"the attack returned NaN for {unreal} images"] if unreal else []
    return "; ".join(said) or None


def is_void(store: Store, key: str) -> bool:
    """Whether the outcomes of a cell, where it has any, are void."""
    path = store.outcomes(key)
    return path.is_file() and void_note(read_rows(path)) is not None


def judging(content: Mapping[str, Any]) -> str:
    """Name how a cell was judged."""
    return "sequential" if content.get("sequential") else "all draws"


def survival(outcomes: pd.DataFrame, n: int) -> dict[str, float]:
    """Return the share of all n images that survive an attack on others' survivors."""
    left = int(outcomes["robust"].sum())
    low, high = wilson(left, n)
    return {
        "robust": percent(left / n),
        "robust_low": percent(low),
        "robust_high": percent(high),
    }


def accuracies(outcomes: pd.DataFrame) -> dict[str, float]:
    """Sum per-image outcomes up to accuracies in percent, with 95 % Wilson intervals."""
    import numpy as np

    n = len(outcomes)
    found: dict[str, float] = {}
    for name in ("clean", "robust"):
        # Of probabilities this is the expected number right, and Wilson is conservative:
        # values within [0, 1] vary less than the coin flips that it assumes.
        right = float(outcomes[name].to_numpy().sum())
        low, high = wilson(right, n)
        found |= {
            name: percent(right / n),
            f"{name}_low": percent(low),
            f"{name}_high": percent(high),
        }
    labels = outcomes["label"].to_numpy()
    for name, column in (("clean", "clean_votes"), ("robust", "votes")):
        votes = np.stack(outcomes[column].tolist())
        true = votes[np.arange(n), labels].astype(float)
        others = votes.copy()
        others[np.arange(n), labels] = -1
        # Draws that stopped at a clear verdict say too little of an image's share.
        if len(set(votes.sum(1))) == 1:
            found[f"{name}_single"] = percent(float((true / votes.sum(1)).mean()))
        found[f"{name}_vote"] = percent(float((true > others.max(1)).mean()))
    return found


def percent(share: float) -> float:
    """Write a share in percent, with two decimals."""
    return round(100 * share, 2)
