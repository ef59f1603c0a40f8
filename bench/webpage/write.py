"""From what is known to HTML: one file that needs no other, by the templates. No torch."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from bench import __version__
from bench.results.defense_report import LEVELS
from bench.results.provenance import origin
from bench.webpage.charts import cost, security_curves
from bench.webpage.chosen import Chosen
from bench.webpage.defenses import defenses
from bench.webpage.drawn import drawn
from bench.webpage.matrix import matrix

if TYPE_CHECKING:
    from bench.webpage.pictures import Strips


@cache
def _pages() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bench", "webpage/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )


def _asset(name: str) -> str:
    return (files("bench") / "webpage" / "templates" / name).read_text("utf-8")


def _document(template: str, **content: Any) -> str:
    script = "\n" + _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _pages()
        .get_template(template)
        .render(
            style=_asset("page.css"),
            script=script,
            script_digest=f"sha256-{digest}",
            version=__version__,
            command=origin()["command"],
            **content,
        )
    )


def report(chosen: Chosen, pictures: Strips | None = None) -> str:
    """Write the page on the cells that were chosen."""
    told = defenses(chosen)
    links = {origin.key: one.anchor for one in told for origin in one.origins}
    return _document(
        "page.html",
        title=_title(chosen),
        summary=_summary(chosen),
        unread=chosen.unread,
        table=matrix(chosen.rows, chosen.contents),
        links=links,
        curves=security_curves(chosen),
        costs=cost(chosen, told),
        strips=pictures.found if pictures else (),
        missing=pictures.missing if pictures else (),
        drawn=drawn(chosen),
        told=told,
        meaning=LEVELS,
    )


def table_page(
    frame: pd.DataFrame, contents: Mapping[str, Mapping[str, Any]], *, note: str = ""
) -> str:
    """Write a table as a page of its own, with a note above it."""
    table = matrix(frame, contents)
    return _document("table_page.html", title="Results", table=table, note=note)


def fragment(frame: pd.DataFrame, contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a table as a part of another page, such as a notebook."""
    parts: Any = _pages().get_template("table.html").module
    return str(parts.matrix(matrix(frame, contents), {}))


def _title(chosen: Chosen) -> str:
    names = _names(chosen, "defense")
    if len(names) == 1:
        return f"How robust is {names[0]}?"
    return f"How robust are {len(names)} defenses?"


def _names(chosen: Chosen, column: str) -> list[str]:
    known = chosen.cells[chosen.cells["defense"] != "?"]
    return sorted(set(known[column]))


def _summary(chosen: Chosen) -> str:
    states = chosen.cells["state"].value_counts()
    words = ", ".join(f"{number} {state}" for state, number in states.items())
    dates = sorted(about["date"] for about in chosen.abouts.values())
    days = list(dict.fromkeys(date[:10] for date in dates))
    when = f" Measured {' to '.join((days[0], days[-1])[: len(days)])}." if days else ""
    cells = "1 cell" if len(chosen.cells) == 1 else f"{len(chosen.cells)} cells"
    return (
        f"{cells} ({words}): "
        f"defenses {', '.join(_names(chosen, 'defense'))}; "
        f"data sets {', '.join(_names(chosen, 'dataset'))}.{when}"
    )
