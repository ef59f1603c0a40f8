"""How result rows are printed: in a table as wide as the terminal, or below each other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bench.results.render import Page, cells_as_text, shown, text_of
from bench.results.rows import Row, columns_of_rows

_SETTINGS_WIDTH = 26  # of one setting, beyond which it may be broken
_UNBROKEN = 12  # characters: numbers, states and short names, which are never broken
_SPARE = ("robust_single", "passes", "interval", "attacked")  # the first to go is the first
# Shown once, in the title, where all rows agree.
_TITLE = ("dataset", "norm", "eps", "n", "draws", "audit", "settings")


def print_table(rows: Sequence[Row], *, file: TextIO | None = None) -> None:
    """Print result rows with as many columns as the terminal has room for.

    Where long names leave no room, they are broken; where that would break what is short as
    well, each row has lines of its own.
    """
    whole = shown(columns_of_rows(rows))
    shared = [name for name in _TITLE if name in whole and _one(whole[name])]
    title = ", ".join(f"{name} {whole.pop(name)[0]}" for name in shared)
    console = Console(file=file)
    page = dict(whole)
    spare = [name for name in _SPARE if name in page]
    if all(state == "done" for state in page["state"]):
        spare.insert(0, "state")
    while spare and _width(console, page, {}) > console.width:
        del page[spare.pop(0)]
    widths: Mapping[str, int] | None = {}
    if _width(console, page, {}) > console.width:
        widths = _broken(console, page)
    if widths is None:
        console.print(
            "\n".join(_lines(whole, title, console.width)), markup=False, highlight=False
        )
    else:
        console.print(_table(page, title, widths))


def _one(values: Sequence[Any]) -> bool:
    """Whether all are known, and equal."""
    return len(set(map(text_of, values))) == 1 and bool(text_of(values[0]))


def _width(console: Console, page: Page, widths: Mapping[str, int]) -> int:
    endless = console.options.update(max_width=1000)
    return Measurement.get(console, endless, _table(page, "", widths)).minimum


def _broken(console: Console, page: Page) -> dict[str, int] | None:
    """Share out the room among columns of long names; None where it is too little."""
    needs = {name: max(len(text_of(value)) for value in page[name]) for name in page}
    needs = {name: need for name, need in needs.items() if need > _UNBROKEN}
    others = _width(console, page, dict.fromkeys(needs, 1)) - len(needs)
    room, found = console.width - others, {}
    for left, name in zip(
        range(len(needs), 0, -1), sorted(needs, key=lambda one: needs[one]), strict=True
    ):
        found[name] = min(needs[name], room // left)
        room -= found[name]
    return found if min(found.values(), default=0) >= _UNBROKEN else None


def _table(page: Page, title: str, widths: Mapping[str, int]) -> Table:
    # Text, since rich would read a name like "[red]x" as markup.
    table = Table(
        title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in page:
        if name in widths:
            table.add_column(name.replace("_", "\n"), overflow="fold", width=widths[name])
        elif name == "settings":  # what a user typed may be long: it is broken between words
            words = [len(word) for text in page[name] for word in text.split()]
            table.add_column(
                name, overflow="fold", min_width=min(max(words, default=0), _SETTINGS_WIDTH)
            )
        else:
            table.add_column(name.replace("_", "\n"), no_wrap=True)
    for row in cells_as_text(page):
        table.add_row(*map(Text, row))
    return table


def _lines(page: Page, title: str, width: int) -> Iterator[str]:
    """Write each row in lines of its own: its names, then its columns by name."""

    def filled(text: str, indent: str) -> str:
        return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)

    yield filled(title, "")
    names = [name.replace("_", " ") for name in page]
    for row in cells_as_text(page):
        cells = dict(zip(names, row, strict=True))
        yield filled(cells.pop("defense"), "  ")
        yield filled(f"  under {cells.pop('attack')}", "    ")
        said = ", ".join(f"{name} {text}" for name, text in cells.items() if text)
        yield filled(f"  {said}", "  ")
