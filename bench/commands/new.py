"""bench new: write a working plugin with its test, to begin with. Imports no torch."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.shared import say
from bench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from bench.plugins.catalogue import Kind

_KINDS: dict[str, Kind] = {
    "defense": "defenses",
    "attack": "attacks",
    "classifier": "classifiers",
    "dataset": "datasets",
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_RUN = {
    "defense": "bench run --defense {name} --attack apgd --access full --eps 0.1 -n 20",
    "attack": "bench run --defense gaussian --attack {name} --eps 0.1 -n 20",
    "classifier": "bench run --defense gaussian --classifier {name} --attack apgd --eps 0.1",
    "dataset": "bench run --dataset {name} --defense gaussian --attack apgd --eps 0.1 -n 20",
}


def new(
    kind: Annotated[str, typer.Argument(help="defense, attack, classifier or dataset.")],
    name: Annotated[str, typer.Argument(help="Its name, such as my_blur.")],
    package: Annotated[
        bool, typer.Option("--package", help="Write a package that pip installs.")
    ] = False,
) -> None:
    """Write a plugin that works, with its test: replace its inside by your own."""
    if kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS)
    pages = dict(_pages(kind, name, package=package))
    there = [path for path in pages if path.exists()]
    if there:
        raise UsageError(
            f"{there[0]} exists, and nothing is overwritten. Choose another name, or delete it."
        )
    _check_name(kind, name, package=package)
    for path, text in pages.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(text)
    say(f"wrote {', '.join(map(str, pages))}")
    typed = name if package else f"{name}.py:{_class(name)}"
    todo = [f"pip install -e {name}"] if package else []
    todo += [f"bench check {typed}", _RUN[kind].format(name=typed)]
    say("\n".join(["next:", *(f"  {line}" for line in todo)]))


def _check_name(kind: str, name: str, *, package: bool) -> None:
    from bench.data.datasets import DATASETS
    from bench.plugins.catalogue import catalogue

    if not _NAME.fullmatch(name):
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name).strip("_").lower()
        such = f", such as {snake}" if _NAME.fullmatch(snake) else ""
        raise UsageError(
            f"{name!a} cannot name a module: take lower-case letters, digits and _, at most "
            f"40, beginning with a letter{such}."
        )
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or find_spec(name):
        raise UsageError(
            f"'{name}' is a module or a word of Python already, which a file of that name "
            "would hide. Choose another one."
        )
    taken = {*catalogue(_KINDS[kind]), *(DATASETS if kind == "dataset" else ())}
    if package and name in taken:
        raise UsageError(f"a {kind} is called '{name}' already. Choose another name.")


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _pages(kind: str, name: str, *, package: bool) -> Iterator[tuple[Path, str]]:
    """Fill in the templates: real names in place of theirs."""
    folder = files("bench") / "testing" / "templates"

    def filled(template: str) -> str:
        text = (folder / template).read_text()
        for word, own in (
            ("PluginName", _class(name)), ("plugin_name", name), ("plugin-name",
            name.replace("_", "-")), ("plugin_kinds", _KINDS[kind]), ("plugin_kind", kind),
        ):  # fmt: skip
            text = text.replace(word, own)
        return text

    if not package:
        yield Path(f"{name}.py"), filled(f"{kind}.py")
        yield Path(f"test_{name}.py"), filled("test_file.in")
        return
    root = Path(name)
    yield root / "pyproject.toml", filled("pyproject.in")
    yield (
        root / "src" / name / "__init__.py",
        f'"""{_class(name)}, a {kind} for purifybench."""\n',
    )
    yield root / "src" / name / f"{kind}.py", filled(f"{kind}.py")
    yield root / "src" / name / "py.typed", ""
    yield root / "tests" / f"test_{name}.py", filled("test_package.in")
