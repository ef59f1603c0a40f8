"""From rows to text: what is shown, by what rows are told apart, and escapes.

Imports neither torch nor pandas: a frame, or columns by name, is what it is given.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    Table = pd.DataFrame | Mapping[str, Sequence[Any]]

Format = Literal["csv", "md", "latex"]
Columns = Mapping[str, Sequence[str]]  # of a table: text by the column's name
Page = dict[str, list[Any]]  # columns in the order in which they are shown

# What identifies a row besides defense and attack: shown where rows differ in it.
_VARYING = (
    "dataset", "classifier", "norm", "eps", "access", "n", "seed", "draws", "judging", "rule",
    "settings",
)  # fmt: skip
# Shown only where two different rows would look alike without it.
_LAST = ("checkpoint", "classifier_checkpoint", "key", "keys")
_LABELS = ("defense", "attack", "state", *_VARYING, *_LAST)
_BEFORE = ("defense", "attack", "access", "norm", "eps", "dataset", "n", "draws")
_AFTER = (
    "clean", "robust", "interval", "certified", "robust_single", "noise", "attacked", "passes",
    "state", "audit", "settings",
)  # fmt: skip


def told_apart(columns: Columns, shown: Sequence[str]) -> list[str]:
    """Choose what to show beside ``shown``: columns in which rows differ, and needed ones."""
    chosen = [
        name
        for name in _VARYING
        if name in columns and name not in shown and len(set(map(_line, columns[name]))) > 1
    ]
    return chosen + needed(columns, [*shown, *chosen])


def needed(columns: Columns, shown: Sequence[str]) -> list[str]:
    """Choose the columns without which two different rows look alike."""
    chosen: list[str] = []
    for name in (*_VARYING, *_LAST):
        if name not in columns or name in shown:
            continue
        seen: dict[tuple[str, ...], str] = {}
        labels = _rows(columns, [*shown, *chosen])
        for label, value in zip(labels, map(_line, columns[name]), strict=True):
            if seen.setdefault(label, value) != value:
                chosen.append(name)
                break
    return chosen


def row_labels(columns: Columns, head: Sequence[str]) -> list[str]:
    """Name rows by ``head``, joined by "under", and by what tells those of one head apart."""
    heads = _rows(columns, head)
    found = []
    for number, own in enumerate(heads):
        alike = [place for place, other in enumerate(heads) if other == own]
        group = {name: [column[place] for place in alike] for name, column in columns.items()}
        found.append(row_label(columns, number, head, told_apart(group, head)))
    return found


def row_label(columns: Columns, number: int, head: Sequence[str], more: Sequence[str]) -> str:
    """Name a row by ``head``, joined by "under", and by the name and value of other columns."""
    values = {name: _line(columns[name][number]) for name in (*head, *more)}
    named = [f"{name.replace('_', ' ')} {values[name]}" for name in more if values[name]]
    return ", ".join([" under ".join(values[name] for name in head), *named])


def columns_of(table: Table) -> dict[str, list[str]]:
    """Write the columns of a table by which rows can be told apart."""
    return {name: list(map(text_of, table[name])) for name in _LABELS if name in table}


def _rows(columns: Columns, names: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(map(_line, columns[name]) for name in names), strict=True))


def shown(table: Table) -> Page:
    """Choose the columns that fit a page, the interval in one, and those that differ."""
    page = {name: list(table[name]) for name in map(str, table)}
    page["interval"] = [
        "" if _missing(low) else f"{low:.1f}-{high:.1f}"
        for low, high in zip(page["robust_low"], page["robust_high"], strict=True)
    ]
    left_out = []
    if not any(page["settings"]):
        left_out.append("settings")
    if all(map(_missing, page["certified"])):
        left_out.append("certified")  # it is about L2 balls of defenses with a certificate
    if "by block" not in page["noise"]:
        left_out.append("noise")
    if all(
        _missing(attacked) or attacked == n
        for attacked, n in zip(page["attacked"], page["n"], strict=True)
    ):
        left_out.append("attacked")  # no row attacked only what others left
    columns = columns_of(table)
    labels = [name for name in (*_BEFORE, "state", "settings") if name in columns]
    more = told_apart(columns, labels)
    inside = [name for name in more if name in _VARYING]
    last = [name for name in more if name in _LAST]
    names = [*_BEFORE, *inside, *_AFTER, *last]
    return {name: page[name] for name in names if name not in left_out}


def render(table: Table, form: Format) -> str:
    """Write a table as CSV (every column), Markdown or LaTeX (those that fit a page)."""
    if form == "csv":
        return csv_text(table)
    page = shown(table)
    text = cells_as_text(page)
    heads = [name.replace("_", " ") for name in page]
    if form == "latex":
        import pandas as pd  # slow to import

        return str(pd.DataFrame(text, columns=heads).to_latex(index=False, escape=True))
    return "\n".join(markdown_lines(heads, text)) + "\n"


def markdown_lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Write a Markdown table, line by line."""
    lines = [f"| {' | '.join(map(markdown_cell, heads))} |"]
    lines.append(f"|{'|'.join(' --- ' for _ in heads)}|")
    return [*lines, *(f"| {' | '.join(map(markdown_cell, row))} |" for row in rows)]


def markdown_cell(text: str) -> str:
    """Keep a text from ending a Markdown cell or line, and from being read as HTML."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", r"\|")
    return _line(escaped)


def csv_text(table: Table) -> str:
    """Write a table as CSV whose texts no spreadsheet takes for a formula."""
    text = io.StringIO()
    columns = ([name, *map(_csv_cell, table[name])] for name in map(str, table))
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def unescaped(frame: pd.DataFrame) -> pd.DataFrame:
    """Take back what ``csv_text`` put before texts, in a frame that was read."""
    plain = frame.copy()
    for name in frame.columns:
        if any(map(_is_escaped, frame[name])):
            plain[name] = [v[1:] if _is_escaped(v) else v for v in frame[name]]
    return plain


def _csv_cell(value: Any) -> Any:
    if _is_formula(value):
        return f"'{value}"
    return "" if _missing(value) else value  # numbers at their full precision


def _is_formula(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))


def _is_escaped(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("'") and _is_formula(value[1:])


def cells_as_text(page: Page) -> list[list[str]]:
    """Write the cells of a table for people: one decimal, nothing for what is missing."""
    return [list(row) for row in zip(*(map(text_of, page[name]) for name in page), strict=True)]


def text_of(value: Any) -> str:
    """Write one value for people: one decimal, nothing for what is missing."""
    if _missing(value):
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) > 100 else f"{value:.1f}"
    return str(value)


def _missing(value: Any) -> bool:
    """Whether a value is None, not a number, or what pandas has for either."""
    return value is None or (
        not isinstance(value, str | int) and str(value) in ("nan", "<NA>", "NaT")
    )


def _line(text: str) -> str:
    return " ".join(text.split())
