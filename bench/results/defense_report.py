"""A page for a reviewer: what was tried on a defense, with which budget, what broke, what it cost.

Made only from stored outcomes. Imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jinja2

from bench.errors import StoreError, UsageError
from bench.results.audits import read_report
from bench.results.cell import subject_of
from bench.results.cell_row import judging, said_by_cells, void_note
from bench.results.compare import complete_key
from bench.results.files import read_json
from bench.results.render import markdown_cell, row_label, told_apart
from bench.results.settings import Settings, flat, has
from bench.results.stats import wilson
from bench.results.store import Store, read_rows

# The levels of access (T0 to T9) and what each means.
LEVELS = {
    "T0": "clean images",
    "T1": "random noise in the ball",
    "T2": "transfer: the attack sees only the bare classifier (gray box)",
    "T3": "queries to the whole defense",
    "T4": "BPDA with EOT",
    "T5": "full gradient through the purifier, with EOT",
    "T6": "full gradient of a cheaper surrogate process",
    "T7": "purification-aligned adaptive attack",
    "T8": "fixed randomness: the attacker knows the noise (check C14 of the audit)",
    "T9": "resubmission of the best image (check C19 of the audit)",
}
_OF_A_KIND = {"n": "-n ", "shard": "shard ", "seed": "seed ", "draws": "draws "}  # in words
_VALUES = 4  # of a parameter, and parameters, in an error
_OF_THE_AUDIT = {"T8": "C14", "T9": "C19"}


@dataclass(frozen=True)
class Tried:
    """One attack: images ``attacked``, those that it ``broke`` first, those still ``left``.

    ``broke`` is None where the cell is void.
    """

    level: str
    attack: str
    access: str
    budget: str
    attacked: int
    broke: int | None
    left: int
    passes: int
    seconds: float
    flags: str
    key: str


def level_of(cell: Mapping[str, Any]) -> str:
    """Return the level of access (T0 to T9) of a cell."""
    attack, access = cell["attack"], cell["access"]
    if access == "transfer":
        return "T2"
    if attack["name"] == "noise":
        return "T1"
    if access in ("query", "label"):
        return "T3"
    if attack["params"].get("surrogate"):
        return "T6"
    if attack["name"] == "adaptive":
        return "T7"
    return "T4" if access == "bpda" else "T5"


def find(
    store: Store,
    *,
    defense: str,
    dataset: str,
    norm: str,
    eps: str,
    n: int | None,
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    like: str | None = None,
) -> list[dict[str, Any]]:
    """List a defense's finished cells under a ball, in the order of attack; raises UsageError.

    ``settings`` has parameters that its cells must have. ``like``: key, or its first
    characters, of one of them, where they are of several kinds. Damaged cells are left out.
    """
    wanted = {"defense": defense, "dataset": dataset, "norm": norm, "eps": eps}
    found = []
    said = said_by_cells(store)
    damaged = [key for key, one in said.items() if one.damage]
    for key, row in ((key, one.row) for key, one in said.items() if not one.damage):
        if any(row[name] != value for name, value in wanted.items()):
            continue
        if store.outcomes(key).is_file() and n in (None, row["n"]):
            cell = read_json(store.cell(key) / "cell.json")
            if not attacked(cell) or not all(
                has(cell[part]["params"], set_) for part, set_ in settings.items()
            ):
                continue
            about = read_json(store.cell(key) / "provenance.json")
            found.append({**cell, "key": key, "about": about})
    if not found:
        words = " ".join(Settings.of(settings).words())
        raise UsageError(
            f"{store.root} has no finished cell of {defense} on {dataset} under {norm} {eps}"
            + (f" with n {n}" if n else "")
            + (f" with {words}" if words else "")
            + _meant(defense, {one.row["defense"] for one in said.values() if not one.damage})
            + f". Run some: `bench run --defense {defense} ...`, or a plan like plans/ladder.yaml "
            "for it with `bench matrix`."
            + (f" Damaged cells are not used: {', '.join(damaged)}." if damaged else "")
        )
    if like is not None:
        key = complete_key([cell["key"] for cell in found], like)
        (kind,) = (kind_of(cell) for cell in found if cell["key"] == key)
        found = [cell for cell in found if kind_of(cell) == kind]
    kinds = {kind_of(cell): cell for cell in found}
    if len(kinds) > 1:
        raise UsageError(
            f"{store.root} has {len(kinds)} kinds of cells of {defense}, {_told_apart(kinds)}. "
            "Choose one by -n or --set, or by --cell and a key of its cells, such as "
            f"{' or '.join(cell['key'] for cell in list(kinds.values())[:_VALUES])}."
        )
    return in_order(found)


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near and near[0] != name else ""


def attacked(cell: Mapping[str, Any]) -> bool:
    """Whether a cell's images were attacked for it, and not only judged again."""
    return not cell.get("images") and not cell.get("bits")


def kind_of(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what the cells of one report share: a defense, its images, seed and draws."""
    return (subject_of(cell), *(cell[name] for name in _OF_A_KIND))


def in_order(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort the cells of one kind in the order of attack."""
    return sorted(
        cells, key=lambda cell: (len(cell.get("after", ())), level_of(cell), cell["key"])
    )


def _told_apart(kinds: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> str:
    """Say by what kinds of cells differ: images, seed, draws, parameters, or weights alone."""
    said = []
    for name, values in _values(kinds.values()).items():
        if len(values) > 1:
            more = " ..." if len(values) > _VALUES else ""
            said.append(
                f"{_OF_A_KIND.get(name, f'--set {name}=')}{' or '.join(values[:_VALUES])}{more}"
            )
    return f"with {', '.join(said[:_VALUES])}" if said else "with other weights, data or files"


def _values(cells: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """List the values of all that may tell cells of one defense apart."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        params = flat({part: cell[part]["params"] for part in ("defense", "classifier")})
        for name, value in (*((name, cell[name]) for name in _OF_A_KIND), *params):
            found.setdefault(name, set()).add(str(value))
    return {name: sorted(values, key=_by_length) for name, values in found.items()}


def _by_length(text: str) -> tuple[int, str]:
    return len(text), text  # so that 6 comes before 12


def _budgets(cells: list[dict[str, Any]]) -> list[str]:
    """Write each attack's parameters, a low precision of its search, and what else differs."""
    columns = {
        "attack": [cell["attack"]["name"] for cell in cells],
        "access": [cell["access"] for cell in cells],
        "budget": [", ".join(f"{k} {v}" for k, v in _budget(cell).items()) for cell in cells],
        "judging": list(map(judging, cells)),
        "key": [cell["key"] for cell in cells],
    }
    more = told_apart(columns, ["attack", "access", "budget"])
    return [row_label(columns, k, ["budget"], more) for k in range(len(cells))]


def _budget(cell: Mapping[str, Any]) -> dict[str, Any]:
    low = {"search": cell["search"]} if "search" in cell else {}
    return {**cell["attack"]["params"], **low}


def follow(store: Store, cells: list[dict[str, Any]]) -> tuple[list[Tried], int]:
    """Follow the images through all attacks; return the attacks and how many clean images are right."""
    outcomes = [read_rows(store.outcomes(cell["key"])) for cell in cells]
    notes = [void_note(rows) for rows in outcomes]
    sound = [rows for rows, reason in zip(outcomes, notes, strict=True) if not reason]
    whole = next((rows for rows in sound if len(rows) == cells[0]["n"]), None)
    if whole is None:
        raise UsageError(
            f"nothing was measured on all {cells[0]['n']} images: cell {cells[0]['key']} is "
            f"void ({notes[0]}). Run an attack that stays in the ball."
        )
    robust, right = (
        dict(zip(whole["index"], whole["clean"], strict=True)),
        int(whole["clean"].sum()),
    )
    attacks = []
    for cell, budget, rows, reason in zip(cells, _budgets(cells), outcomes, notes, strict=True):
        # What is void has no number: its images break nothing, and survive nothing.
        counted = rows.iloc[:0] if reason else rows
        broken = counted["index"][~counted["robust"].astype(bool)]
        new = [index for index in broken if robust[index]]
        robust |= dict.fromkeys(new, False)
        about = cell["about"]
        void = [f"VOID: {reason}"] if reason else []
        nothing = [] if len(rows) else ["no image was left to attack"]
        attacks.append(
            Tried(
                level=level_of(cell),
                attack=cell["attack"]["name"],
                access=cell["access"],
                budget=budget,
                attacked=len(rows),
                broke=None if reason else len(new),
                left=sum(robust.values()),
                passes=round(sum(about["attack passes"].values()) / max(len(rows), 1)),
                seconds=about["attack seconds"],
                flags="; ".join([*void, *nothing, *about["flags"]]),
                key=cell["key"],
            )
        )
    return attacks, right


def page(store: Store, cells: list[dict[str, Any]]) -> str:
    """Write the report of a defense as Markdown."""
    pages = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
    )
    pages.filters["digest"] = lambda text: (text or "none")[:16]
    pages.filters["cell"] = markdown_cell
    return pages.from_string(_PAGE).render(told(store, cells))


def told(store: Store, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect what a report says of a defense, from the cells of one kind in their order.

    Raises UsageError where no attack on all images was measured.
    """
    first = cells[0]
    if first.get("after"):
        raise UsageError("the cell that attacked all images is missing: run the plan again.")
    attacks, right = follow(store, cells)
    audit = store.audit(subject_of(first))
    report, damaged = None, ""
    try:
        report = read_report(audit) if audit.is_file() else None
    except StoreError as error:
        damaged = str(error)
    n, left = first["n"], attacks[-1].left
    tried = {one.level for one in attacks if one.attacked and one.broke is not None} | {"T0"}
    checks = {found["check"]: found for found in report["findings"]} if report else {}
    tried |= {level for level, check in _OF_THE_AUDIT.items() if check in checks}
    return {
        "cell": first,
        "attacks": attacks,
        "meaning": LEVELS,
        "n": n,
        "robust": 100 * left / n,
        "interval": [round(100 * side, 2) for side in wilson(left, n)],
        "clean": 100 * right / n,
        "clean_interval": [round(100 * side, 2) for side in wilson(right, n)],
        "report": report,
        "damaged": damaged,
        "known_seed": checks.get("C14"),
        "again": checks.get("C19"),
        "untried": {level: text for level, text in LEVELS.items() if level not in tried},
        "commands": sorted({cell["about"]["command"] for cell in cells}),
        "commits": sorted({(cell["about"]["commit"] or "unknown")[:12] for cell in cells}),
        "dates": sorted(cell["about"]["date"] for cell in cells),
        "devices": sorted({device for cell in cells for device in cell["about"]["devices"]}),
        "versions": first["about"]["versions"],
        "seconds": sum(cell["about"]["attack seconds"] for cell in cells),
        "judging": sum(cell["about"]["judge seconds"] for cell in cells),
    }


_PAGE = """\
# How robust is `{{ cell.defense.name }}` on {{ cell.dataset }} under {{ cell.norm }} {{ cell.eps }}?

**{{ "%.1f"|format(robust) }} % ({{ "%.1f-%.1f"|format(*interval) }}) of the first {{ n }} test images survive everything that was tried;
{{ "%.1f"|format(clean) }} % ({{ "%.1f-%.1f"|format(*clean_interval) }}) are right without an attack.** The worst case is taken image by image.
95 % Wilson intervals.

{% if report -%}
The audit: **{{ report.verdict }}** ({{ report.subject.n }} images.)
{%- elif damaged -%}
Nothing is known of its audit: {{ damaged }}
{%- else -%}
This defense was not audited: `bench audit` tells whether the number can be trusted.
{%- endif %}

## What was tried, in this order, and what broke

| level | attack | access | images attacked | newly broken | surviving | surviving, % | cell |
| --- | --- | --- | --- | --- | --- | --- | --- |
| T0 | none | | {{ n }} | {{ n - (clean * n / 100)|round|int }} | {{ (clean * n / 100)|round|int }} | {{ "%.1f"|format(clean) }} | |
{% for r in attacks -%}
| {{ r.level }} | {{ r.attack }} | {{ r.access }} | {{ r.attacked }} | {% if r.broke is none %}void | | |{% else %}{{ r.broke }} | {{ r.left }} | {{ "%.1f"|format(100 * r.left / n) }} |{% endif %} {{ r.key }} |
{% endfor %}
Where fewer than {{ n }} images were attacked, the others were already broken or were wrong
without an attack.
{% for level, text in meaning.items() %}
- {{ level }}: {{ text }}{% endfor %}

{% if known_seed -%}
T8, fixed randomness (audit C14, {{ known_seed.state }}): {{ known_seed.figure or known_seed.reason }}.
{% endif -%}
{% if again -%}
T9, resubmission (audit C19, {{ again.state }}): {{ again.figure or again.reason }}.
{% endif -%}
{% if untried -%}
Not tried: {{ untried | join(", ") }}. These attacks may break more images.
{%- endif %}

## Budget and cost

| attack | parameters | passes per attacked image | seconds | remarks |
| --- | --- | --- | --- | --- |
{% for r in attacks -%}
| {{ r.attack }}, {{ r.access }} | {{ r.budget | cell }} | {{ r.passes }} | {{ "%.0f"|format(r.seconds) }} | {{ r.flags | cell }} |
{% endfor %}
Attacks {{ "%.0f"|format(seconds) }} s, judging {{ "%.0f"|format(judging) }} s, on {{ devices | join(", ") }}. Passes are
network passes of the attack, without judging, forward and backward, of classifier and purifier
together; images of a transfer attack are made once and shared by all purifiers.

## The defense

- purifier `{{ cell.defense.name }}`, checkpoint {{ cell.defense.checkpoint | digest }}: {% for k, v in cell.defense.params.items() %}{{ k }} {{ v }}{{ ", " if not loop.last }}{% endfor %}
- classifier `{{ cell.classifier.name }}`, checkpoint {{ cell.classifier.checkpoint | digest }}
- data: {{ cell.dataset }}, first {{ n }} test images, SHA-256 {{ cell.data | digest }}
- judged by {{ cell.draws }} draws of fresh noise{{ ", fewer where the verdict is clear (same verdict at the 1 % level)" if cell.get("sequential") }}, seed {{ cell.seed }}

## How to repeat it

```sh
{% for command in commands -%}
{{ command }}
{% endfor -%}
```

Commit {{ commits | join(", ") }}; {{ dates[0] }} to {{ dates[-1] }};
{% for name, number in versions.items() %}{{ name }} {{ number }}{{ ", " if not loop.last }}{% endfor %}.
"""
