"""bench check: run the contract tests on a plugin, and say in words what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import DATA, AsJson, Data, Dataset, Settings
from bench.commands.shared import say
from bench.errors import unknown_name

if TYPE_CHECKING:
    from bench.plugins.catalogue import Kind

_MARKS = {"ok": "ok", "fails": "FAILS", "not applicable": "-"}
_WIDTH = 96


def check(
    name: Annotated[
        str, typer.Argument(help="A plugin: a name of `bench list`, or mine.py:MyPurifier.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="defense, attack, classifier or dataset.", show_default="found out"),
    ] = None,
    dataset: Dataset = "digits",
    settings: Settings = [],
    data: Data = DATA,
    as_json: AsJson = False,
) -> None:
    """Check that a plugin keeps its contract; exit with 1 where it does not."""
    import dataclasses
    import json

    from bench.results.settings import parse_settings
    from bench.testing.check import results_of
    from bench.testing.kinds import OPTION, kind_of

    singular: dict[str, Kind] = {option: plural for plural, option in OPTION.items()}
    if kind is not None and kind not in singular:
        raise unknown_name("kind", kind, singular)
    asked = parse_settings(settings)
    known = singular[kind] if kind else kind_of(name, dataset=dataset, data=data)
    if kind is None and not as_json:
        say(f"{name}: taken for a plugin of the kind {OPTION[known]}; --kind names another.")
    found = []
    for result in results_of(
        known, name, dataset=dataset, data=data, settings=asked.get(OPTION[known])
    ):
        found.append(result)
        if not as_json:
            say(_line(result.state, result.check, result.sentence))
    if as_json:
        rows = [dataclasses.asdict(result) for result in found]
        say(json.dumps({"name": name, "kind": OPTION[known], "checks": rows}, indent=2))
    wrong = sum(result.state == "fails" for result in found)
    if not as_json:
        held = sum(result.state == "ok" for result in found)
        fail = "fail" if wrong > 1 else "fails"
        say(f"{name}: {held} checks hold, {wrong or 'none'} {fail}.")
    if wrong:
        raise typer.Exit(1)


def _line(state: str, check: str, sentence: str) -> str:
    import textwrap

    said = f"{_MARKS[state]:<6}  {check}"
    if state == "not applicable":
        return f"{said}: {sentence}"
    lines = textwrap.wrap(sentence, _WIDTH - 8, break_long_words=False)
    return "\n".join([said, *(f"        {line}" for line in lines)])
