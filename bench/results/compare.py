"""Two cells, or two defenses, compared on the same images. Imports no torch.

Defenses are compared by their worst case per image over the attacks that both have, since
whoever met one attack more would lose only for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from bench.core.threat import Norm, format_eps, parse_eps, parse_norm
from bench.errors import StoreError, UsageError, unknown_name
from bench.results.audits import DAMAGED
from bench.results.cell import EFFORT, SETTING, digest_of
from bench.results.cell_row import judging, said_by_cells, void_note
from bench.results.files import read_json
from bench.results.paired import Comparison, paired
from bench.results.render import row_label, row_labels, told_apart
from bench.results.settings import Settings
from bench.results.store import Store, read_rows
from bench.results.table import join

_PREFIX = 4  # characters of a key that may stand for it
_MOST = 5  # defenses of one name that an error lists


def compare(
    store: Store, first: str, second: str, *,
    dataset: str | None = None, norm: str | None = None, eps: str | None = None,
    attack: str | None = None, n: int | None = None,
) -> Comparison:  # fmt: skip
    """Compare two cells by (prefixes of) their keys, or two defenses by name.

    The filters choose among the cells of defenses. Raises UsageError where the sides cannot
    be told or share no images, and StoreError.
    """
    said = said_by_cells(store)
    for side in (first, second):
        found = [key for key in said if key.startswith(side)]
        if len(side) >= _PREFIX and len(found) == 1 and (damage := said[found[0]].damage):
            raise StoreError(damage)
    rows = {key: one.row for key, one in said.items() if not one.damage}
    cells = _Contents(store, rows)
    if not rows:
        raise UsageError(
            f"there are no results in {store.root}. Make some with `bench run`, or name their "
            "folder with --results."
        )
    if first == second:
        raise UsageError(f"'{first}' is compared with itself: name two cells or two defenses.")
    names = sorted({row["defense"] for row in rows.values()})
    by_name = [side in names for side in (first, second)]
    if all(by_name):
        chosen = _filtered(rows, dataset=dataset, norm=norm, eps=eps, attack=attack, n=n)
        return _defenses(store, chosen, first, second)
    unknown = f"No defense with results has that name. Defenses: {', '.join(names)}."
    one, two = (
        side if named else complete_key(cells, side, otherwise=unknown)
        for side, named in zip((first, second), by_name, strict=True)
    )
    if any(by_name):
        raise UsageError(
            f"'{first}' and '{second}' are a defense and a cell: give two cells or two "
            "defenses."
        )
    if any((dataset, norm, eps, attack, n)):
        raise UsageError(
            "--dataset, --norm, --eps, --attack and -n choose among the cells of a defense; a "
            "key names its cell. Leave them out."
        )
    return compare_cells(store, cells, one, two)


def complete_key(keys: Iterable[str], text: str, *, otherwise: str = "") -> str:
    """Complete 4 or more characters of a cell's key; raises UsageError, with ``otherwise``."""
    found = [key for key in keys if key.startswith(text)]
    if len(text) >= _PREFIX and len(found) == 1:
        return found[0]
    if len(text) < _PREFIX:
        what = f"'{text}' is too short for a key: give {_PREFIX} or more of its characters."
    elif found:
        what = f"'{text}' is ambiguous: {', '.join(found)}. Give more characters of the key."
        otherwise = ""
    else:
        what = f"no cell's key starts with '{text}'."
    more = f" {otherwise}" if otherwise else ""
    raise UsageError(f"{what}{more} `bench table --format csv` lists all keys.")


def compare_cells(store: Store, cells: Mapping[str, Any], one: str, two: str) -> Comparison:
    """Compare two of these cells by their keys; raises UsageError where they are no pair."""
    if one == two:
        raise UsageError(f"both sides are the cell {one}: name two cells.")
    for key in (one, two):
        if fault := _fault(store, key):
            raise UsageError(
                f"cell {key} {fault}: its accuracy cannot be compared. Run it again or name "
                "another."
            )
    if cells[one]["data"] != cells[two]["data"]:
        raise UsageError(
            f"cells {one} ({cells[one]['dataset']}) and {two} ({cells[two]['dataset']}) were "
            "measured on different data: their images cannot be paired. Compare cells of one "
            "data set."
        )
    labels = _pair_labels({key: cells[key] for key in (one, two)})
    return paired(labels, [_verdicts(store, [key], cells[key]["n"]) for key in (one, two)])


class _Contents(Mapping[str, Any]):
    """The contents of cells by key, each read when it is asked for."""

    def __init__(self, store: Store, keys: Iterable[str]) -> None:
        self._store, self._read = store, dict[str, Any].fromkeys(keys)

    def __getitem__(self, key: str) -> Any:
        if self._read[key] is None:
            self._read[key] = read_json(self._store.cell(key) / "cell.json")
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def _filtered(
    rows: Mapping[str, Any],
    *,
    dataset: str | None,
    norm: str | None,
    eps: str | None,
    attack: str | None,
    n: int | None,
) -> dict[str, Any]:
    # Only the radius: a radius above 1 is only wrong in Linf, where no cell has it.
    radius = None if eps is None else format_eps(parse_eps(eps, Norm.L2))
    wanted = {
        "dataset": dataset,
        "norm": parse_norm(norm).value if norm else None,
        "eps": radius,
        "attack": attack,
        "n": None if n is None else str(n),
    }
    left = dict(rows)
    for name, value in wanted.items():
        if value is None:
            continue
        present = {str(row[name]) for row in left.values()}
        if value not in present:
            raise unknown_name(f"{name} with results", value, present)
        left = {key: row for key, row in left.items() if str(row[name]) == value}
    return left


def _plain(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    return str(value["name"] if isinstance(value, dict) else value)


def _defenses(store: Store, rows: Mapping[str, Any], first: str, second: str) -> Comparison:
    cells = _Contents(store, rows)
    sound: list[dict[str, str]] = []  # of each side: pairing digest -> key
    left_out: list[str] = []
    for name in (first, second):
        own = {key: cells[key] for key, row in rows.items() if row["defense"] == name}
        faults = {key: _fault_of(rows[key]) for key in own}
        left_out += [
            f"{_label(own[key], key)}: {fault}" for key, fault in faults.items() if fault
        ]
        own = {key: cell for key, cell in own.items() if not faults[key]}
        if not own:
            raise UsageError(f"defense {name} has no finished cell among those asked for.")
        own = _as_it_ships(own)
        if len({digest_of(cell["defense"]) for cell in own.values()}) > 1:
            raise UsageError(
                f"several defenses with other parameters or checkpoints are called {name}:\n"
                f"{_kinds(own)}\nCompare cells by their keys, or narrow the choice with "
                "--dataset, --norm, --eps or --attack."
            )
        sound.append({pairing(cell, cells): key for key, cell in own.items()})
    one, two = sound
    common = sorted(one.keys() & two.keys())
    if not common:
        raise UsageError(
            f"{first} and {second} share no attack: cells are joined where data, classifier, "
            "norm, eps, attack, access, settings, seed, draws and n agree. "
            f"{first} has {_listed({key: cells[key] for key in one.values()})}; "
            f"{second} has {_listed({key: cells[key] for key in two.values()})}."
        )
    contexts = [_context(cells[one[asked]]) for asked in common]
    if len({digest_of(context) for context in contexts}) > 1:
        kinds = {name: sorted({_plain(found, name) for found in contexts}) for name in SETTING}
        several = "; ".join(
            f"{name} {', '.join(found)}" for name, found in kinds.items() if len(found) > 1
        )
        raise UsageError(
            f"{first} and {second} share cells of several kinds ({several or 'classifiers'}). "
            "Choose with --dataset, --norm, --eps or -n, or compare cells by their keys."
        )
    for side in sound:
        unmatched = [key for asked, key in side.items() if asked not in common]
        left_out += [f"{_label(cells[key], key)} has no match" for key in unmatched]
    return paired(
        [f"{name}, worst case per image" for name in (first, second)],
        [
            _verdicts(store, keys, cells[keys[0]]["n"])
            for keys in ([side[asked] for asked in common] for side in sound)
        ],
        joined=tuple(_attack_labels({one[asked]: cells[one[asked]] for asked in common})),
        left_out=tuple(left_out),
    )


def _as_it_ships(cells: dict[str, Any]) -> dict[str, Any]:
    """Keep the cells of a defense with no parameter set, as its name says; else all."""

    def digest(cell: Mapping[str, Any]) -> str:
        return digest_of(cell["defense"])

    # By content: a plan may set what a recipe has anyway.
    shipped = {digest(cell) for cell in cells.values() if not _set_for_defense(cell)}
    return {key: cell for key, cell in cells.items() if digest(cell) in shipped} or cells


def _set_for_defense(content: Mapping[str, Any]) -> str:
    return str(Settings.read(content).only("defense"))


def _kinds(cells: Mapping[str, Any]) -> str:
    """List what differs, a line for each defense, with a cell to name it by."""
    kinds = {digest_of(content["defense"]): key for key, content in cells.items()}
    lines = [
        f"  {_set_for_defense(cells[key]) or 'as it ships'}, checkpoint "
        f"{str(cells[key]['defense']['checkpoint'])[:8]} [{key}]"
        for key in kinds.values()
    ]
    more = [f"  and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return "\n".join(lines[:_MOST] + more)


def _context(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: content[name] for name in SETTING}


def pairing(content: Mapping[str, Any], cells: Mapping[str, Any]) -> str:
    """Hash everything in a cell but its defense: equal where the same was asked of another."""
    asked = {name: content[name] for name in EFFORT if name in content}
    # Keys of earlier cells contain the defense: what counts is what those cells asked.
    asked["after"] = sorted(
        pairing(cells[key], cells) if key in cells else key for key in asked.get("after", ())
    )
    return digest_of({**_context(content), **asked})


def _fault(store: Store, key: str) -> str | None:
    if not store.outcomes(key).is_file():
        return "is not finished"
    void = void_note(read_rows(store.outcomes(key)))
    return f"is void: {void}" if void else None


def _fault_of(row: Mapping[str, Any]) -> str | None:
    if row["state"] == "done":
        return None
    said = {"void": f"is void: {row['note']}", DAMAGED: f"is damaged: {row['note']}"}
    return said.get(row["state"], "is not finished")


def _attack(content: Mapping[str, Any]) -> str:
    chosen = Settings.read(content).only("attack", "search")
    return " ".join([content["attack"]["name"], content["access"], *chosen.words()])


def _columns(cells: Mapping[str, Any]) -> dict[str, list[str]]:
    """Write what identifies cells beside their keys, as columns of text."""
    contents = list(cells.values())
    names = ("dataset", "classifier", "norm", "eps", "n", "seed", "draws", "defense")
    return {
        **{name: [_plain(content, name) for content in contents] for name in names},
        "attack": list(map(_attack, contents)),
        "judging": list(map(judging, contents)),
        "settings": [str(Settings.read(c).without("attack", "search")) for c in contents],
        "checkpoint": [str(content["defense"]["checkpoint"])[:16] for content in contents],
    }


def _pair_labels(cells: Mapping[str, Any]) -> list[str]:
    """Name two cells by defense, attack, everything in which they differ, and key."""
    columns, head = _columns(cells), ["defense", "attack"]
    more = told_apart(columns, head)
    return [f"{row_label(columns, k, head, more)} [{key}]" for k, key in enumerate(cells)]


def _attack_labels(cells: Mapping[str, Any]) -> list[str]:
    """Name cells of one defense by their attacks and what tells equal ones apart."""
    return sorted(row_labels({**_columns(cells), "key": list(cells)}, ["attack"]))


def _label(content: Mapping[str, Any], key: str) -> str:
    return (
        f"{content['defense']['name']} under {_attack(content)}, {content['dataset']} "
        f"{content['norm']} {content['eps']}, n {content['n']}, draws {content['draws']}, seed "
        f"{content['seed']}, {content['classifier']['name']} [{key}]"
    )


def _listed(cells: Mapping[str, Any]) -> str:
    return "; ".join(_label(content, key) for key, content in cells.items())


def _verdicts(store: Store, keys: list[str], n: int) -> pd.Series[bool]:
    """Join cells image by image; raises UsageError where they attacked only survivors."""
    frames = [read_rows(store.outcomes(key)) for key in keys]
    seen = len({index for frame in frames for index in frame["index"]})
    if seen < n:
        raise UsageError(
            f"{', '.join(keys)} attacked {seen} of {n} images, those that cheaper "
            "attacks left: they say nothing of the others. Compare the two defenses by name, "
            "with all their attacks."
        )
    return join([frame for frame in frames if len(frame)])["robust"].astype(bool)
