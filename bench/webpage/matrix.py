"""The table of a page: the rows of `bench table`, with bars, filters and links. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.results.audits import DAMAGED
from bench.results.render import Page, cells_as_text, shown, text_of
from bench.results.settings import Settings, common_to

WORST = "worst case"  # the attack of a row that joins others
_MANY = 60  # rows, beyond which a page begins with the worst cases
# In this order; what else tells rows apart comes before the key.
_FIRST = ("defense", "attack", "robust", "clean", "certified", "audit", "state", "access",
          "dataset", "ball", "images", "passes", "draws")  # fmt: skip
_ELSEWHERE = ("interval", "settings", "norm", "eps", "n", "attacked", "key", "keys")
# Said once, above the table, where all rows agree.
_SHARED = ("dataset", "ball", "images", "draws", "judging", "classifier", "seed")
_FILTERS = ("defense", "settings", "attack", "access", "dataset", "ball", "audit", "state")
_TITLES = {"dataset": "data set", "settings": "settings of the defense", "key": "cell"}
_AUDITS = {"none": "not audited", DAMAGED: "report damaged"}
_NUMBERS = (
    "robust",
    "clean",
    "certified",
    "robust_single",
    "passes",
    "images",
    "draws",
    "seed",
)


@dataclass(frozen=True)
class Bar:
    """A share and its interval, in percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Field:
    """One cell of the table: its text, ``small`` below it, and what it is sorted by."""

    text: str
    small: str = ""
    order: str = ""
    bar: Bar | None = None


@dataclass(frozen=True)
class Line:
    """One row: its cells by column, what filters look at, and the keys that it is made of."""

    fields: Mapping[str, Field]
    filters: Mapping[str, str]
    keys: tuple[str, ...]

    @property
    def worst(self) -> bool:
        """Whether it joins all attacks on one defense."""
        return self.fields["attack"].text == WORST


@dataclass(frozen=True)
class Matrix:
    """A table: heads by column, lines, what all lines share, and the values of each filter."""

    heads: Mapping[str, str]
    lines: tuple[Line, ...]
    shared: str
    filters: Mapping[str, tuple[str, ...]]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns of numbers."""
        return _NUMBERS

    @property
    def starts_with_worst(self) -> bool:
        """Whether a reader is better off with the worst cases first."""
        return len(self.lines) > _MANY and any(line.worst for line in self.lines)


def matrix(frame: pd.DataFrame, contents: Mapping[str, Mapping[str, Any]]) -> Matrix:
    """Lay rows out as `bench table` shows them; ``contents`` are their cells by key."""
    frame = _together(frame)
    page = shown(frame)
    texts = [dict(zip(page, row, strict=True)) for row in cells_as_text(page)]
    more = [name for name in page if name not in (*_FIRST, *_ELSEWHERE)]
    names = [name for name in (*_FIRST, *more, "key") if name not in _absent(page)]
    common = common_settings(contents)
    lines = [
        _line(row, text, contents, common)
        for row, text in zip(frame.to_dict("records"), texts, strict=True)
    ]
    shared = {}
    if len(lines) > 1:
        for name in filter(names.__contains__, _SHARED):
            values = {line.fields[name].text for line in lines}
            if len(values) == 1:
                shared[_title(name)] = values.pop()
                names.remove(name)
    if words := str(common):
        shared["settings"] = words
    found = {name: sorted({line.filters[name] for line in lines}) for name in _FILTERS}
    return Matrix(
        {name: _title(name) for name in names},
        tuple(lines),
        ", ".join(f"{name} {text}" for name, text in shared.items()),
        {name: tuple(values) for name, values in found.items() if len(values) > 1},
    )


def _together(frame: pd.DataFrame) -> pd.DataFrame:
    """Put each worst case before the rows that it joins, and those below each other."""
    at = {key: place for place, key in reversed(list(enumerate(frame["key"])))}
    places: dict[int, None] = {}
    joined = {
        at[key]: (place, [at[one] for one in keys.split() if one in at])
        for place, (keys, attack) in enumerate(zip(frame["key"], frame["attack"], strict=True))
        if attack == WORST
        for key in keys.split()
        if key in at
    }
    for place in range(len(frame)):
        worst, cells = joined.get(place, (place, []))
        places |= dict.fromkeys([worst, *cells])
    return frame.iloc[list(places)]


def _absent(page: Page) -> list[str]:
    left_out = [] if "certified" in page else ["certified"]
    return left_out + (["state"] if all(state == "done" for state in page["state"]) else [])


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


def common_settings(contents: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return what is set in the same way in the classifiers of all cells, of two or more."""
    several = [Settings.read(content).only("classifier") for content in contents.values()]
    return common_to(several if len(several) > 1 else [])


def of_defense(content: Mapping[str, Any], common: Settings) -> str:
    """Write what is set of a cell's defense, without what is said of all cells."""
    own = Settings.read(content).without("attack", "search").minus(common)
    return _short(own, "defense.")


def of_attack(content: Mapping[str, Any]) -> str:
    """Write what is set of a cell's attack."""
    return _short(Settings.read(content).only("attack", "search"), "attack.")


def _line(
    row: Mapping[Any, Any],
    text: Mapping[str, str],
    contents: Mapping[str, Mapping[str, Any]],
    common: Settings,
) -> Line:
    keys = tuple(str(row["key"]).split())
    defended, tried = str(row["settings"]), ""
    if keys[0] in contents:
        defended, tried = of_defense(contents[keys[0]], common), of_attack(contents[keys[0]])
    if row["attack"] == WORST:
        tried = str(row["note"]).removeprefix("minimum per image ")
    fields = {name: Field(said, order=_order(row.get(name))) for name, said in text.items()}
    fields["defense"] = Field(text["defense"], defended, f"{text['defense']} {defended}")
    fields["attack"] = Field(text["attack"], tried, f"{text['attack']} {tried}")
    fields["robust"] = _robust(row, text)
    audit = _AUDITS.get(text["audit"], text["audit"])
    fields["audit"] = Field(audit, order=audit)
    why = str(row["note"]) if row["state"] != "done" else ""
    fields["state"] = Field(text["state"], why, text["state"])
    ball = f"{text['norm']} {text['eps']}"
    fields["ball"] = Field(ball, order=ball)
    some = text_of(row["attacked"])
    images = text["n"] if some in ("", text["n"]) else f"{some} of {text['n']}"
    fields["images"] = Field(images, order=_order(row["n"]))
    fields["key"] = Field(keys[0] if len(keys) == 1 else f"{len(keys)} cells")
    filters = {name: fields[name].text for name in _FILTERS if name != "settings"}
    return Line(fields, {**filters, "settings": defended or "defaults"}, keys)


def _short(settings: Settings, start: str) -> str:
    """Write settings below the part that they set, without its name."""
    words = [word.removeprefix(start) for word in settings.words()]
    return " ".join(filter(None, [*words, ", ".join(settings.notes)]))


def _robust(row: Mapping[Any, Any], text: Mapping[str, str]) -> Field:
    """Write a robust accuracy with its bar; what has none says why in a word."""
    if pd.isna(row["robust"]):
        word = text["state"] if row["state"] != "done" else "no value"
        return Field("", word)
    bar = Bar(*(float(row[f"robust{end}"]) for end in ("", "_low", "_high")))
    return Field(text["robust"], text["interval"], _order(row["robust"]), bar)


def _order(value: Any) -> str:
    return "" if value is None or pd.isna(value) else str(value)
