"""RobustBench's leaderboards, and which cells of a results folder answer one. No torch.

Its fields, formats and rules: github.com/RobustBench/robustbench, README.md and model_info/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pandas as pd

from bench.core.threat import format_eps
from bench.errors import UsageError
from bench.results.cell import defended_of
from bench.results.cell_row import damaged_cells
from bench.results.compare import complete_key
from bench.results.files import read_json
from bench.results.settings import Settings
from bench.results.store import Store, read_rows

# The radius of each leaderboard as its cards write it.
BOARDS = {
    ("cifar10", "Linf"): "8/255",
    ("cifar10", "L2"): "0.5",
    ("cifar100", "Linf"): "8/255",
}
TEST_IMAGES = 10_000  # of each of them


@dataclass(frozen=True)
class Entry:
    """What one defense's cells say of its images: content and rows by key, all of one kind.

    ``whole`` is the key of a cell that has rows of all images.
    """

    cells: Mapping[str, dict[str, Any]]
    rows: Mapping[str, pd.DataFrame]
    whole: str

    @property
    def content(self) -> dict[str, Any]:
        """The cell that has rows of all images; what defends is the same in the others."""
        return self.cells[self.whole]


def board_of(dataset: str, norm: str) -> str:
    """Return the radius of a leaderboard; raises UsageError where there is none."""
    if (dataset, norm) not in BOARDS:
        known = ", ".join(f"{name} in {ball} {eps}" for (name, ball), eps in BOARDS.items())
        raise UsageError(
            f"RobustBench has no leaderboard for {dataset} in {norm}; of the data sets here it "
            f"has {known}."
        )
    return BOARDS[dataset, norm]


def entry(
    store: Store,
    *,
    defense: str,
    dataset: str,
    norm: str,
    classifier: str | None,
    n: int | None,
    seed: int,
    cell: str | None = None,
) -> Entry:
    """Find the finished cells of a defense on a leaderboard; raises UsageError.

    Of several numbers of images the most are taken, where ``n`` does not say. ``cell`` is a
    key, or how it begins, of one of the cells.
    """
    radius = format_eps(Fraction(board_of(dataset, norm)))
    damaged = damaged_cells(store)
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for key in store.finished():
        if key in damaged:
            continue
        content = read_json(store.cell(key) / "cell.json")
        asked = (dataset, norm, radius, seed, defense, classifier, n)
        found = (
            *(content[name] for name in ("dataset", "norm", "eps", "seed")),
            content["defense"]["name"],
            classifier and content["classifier"]["name"],
            n and content["n"],
        )
        if found == asked:
            groups.setdefault(defended_of(content), {})[key] = content
    if cell is not None:
        key = complete_key(store.finished(), cell)
        groups = {name: cells for name, cells in groups.items() if key in cells}
    entries = [made for cells in groups.values() if (made := _entry(store, cells))]
    if not entries:
        raise UsageError(
            f"{store.root} has no finished cell of {defense} on all of the first images of "
            f"{dataset} in {norm} {radius} with seed {seed}. Measure it: bench run --defense "
            f"{defense} --dataset {dataset} --norm {norm} --eps {radius}."
        )
    most = max(one.content["n"] for one in entries)
    largest = [one for one in entries if one.content["n"] == most]
    if len(largest) > 1:
        raise UsageError(_several(largest))
    return largest[0]


def _entry(store: Store, cells: Mapping[str, dict[str, Any]]) -> Entry | None:
    """Read the rows of cells that are not void; None where no cell has all images."""
    rows = {key: read_rows(store.outcomes(key)) for key in cells}
    rows = {key: frame for key, frame in rows.items() if frame["legal"].all()}
    whole = sorted(key for key, frame in rows.items() if len(frame) == cells[key]["n"])
    if not whole:
        return None
    return Entry({key: cells[key] for key in sorted(rows)}, rows, whole[0])


def _several(entries: Sequence[Entry]) -> str:
    cells = ", ".join(
        f"{one.whole} ({one.content['classifier']['name']}, {one.content['draws']} draws"
        f"{_settings(one.content)})"
        for one in entries
    )
    return (
        f"{len(entries)} defenses of that name were measured on as many images: {cells}. Say "
        "which with --cell KEY."
    )


def _settings(content: Mapping[str, Any]) -> str:
    """Write what was set of a defense."""
    return "".join(f", {word}" for word in Settings.read(content).only("defense").words())


def clean_share(made: Entry) -> float:
    """Return the share of images that are right without an attack."""
    return float(made.rows[made.whole]["clean"].mean())


def robust_images(made: Entry) -> pd.Series[bool]:
    """Return by image whether no cell broke it: the minimum per image."""
    rows = pd.concat([frame[["index", "robust"]] for frame in made.rows.values() if len(frame)])
    return rows.groupby("index")["robust"].min().astype(bool)


def autoattack_of(made: Entry) -> str | None:
    """Find the cell of the standard AutoAttack on the whole defense; None where none is."""
    for key, content in made.cells.items():
        version = content["attack"]["params"].get("version")
        drawn = int(made.rows[key]["votes"].map(sum).max()) if len(made.rows[key]) else 0
        standard = version == "standard" or (version == "auto" and drawn == 1)
        # Without a purifier the bare classifier, which transfer attacks, is the whole.
        whole = content["access"] == "full" or content["defense"]["name"] == "none"
        first = not any(content.get(name) for name in ("after", "images", "bits"))
        if content["attack"]["name"] == "autoattack" and standard and whole and first:
            return key
    return None
