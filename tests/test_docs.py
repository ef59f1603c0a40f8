"""What the pages point at is there, and they use the words that they define."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from bench import api, cli, testing

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
DOCS = sorted((REPO / "docs").glob("*.md"))
REFERENCE = sorted((REPO / "docs" / "reference").glob("*.md"))
OTHERS = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "results/gpu/README.md")
PAGES = [README, *DOCS, *REFERENCE, *(REPO / name for name in OTHERS)]


def headings(page: Path) -> set[str]:
    """List the anchors of a page as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        there = page.parent / name if name else page
        assert there.is_file(), f"{link}: the site has files only"
        assert not anchor or anchor in headings(there), link


def test_the_site_has_every_page_in_its_navigation() -> None:
    conf = ast.parse((REPO / "docs" / "site" / "conf.py").read_text())
    found = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in conf.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in ("_NAVIGATION", "_MORE")
    }
    named = [f"docs/{name}.md" for names in found["_NAVIGATION"].values() for name in names]
    named += [f"{name}.md" for name in found["_MORE"]]
    assert all((REPO / name).is_file() for name in named)
    assert len(named) == len(set(named))
    assert {str(page.relative_to(REPO)) for page in [*DOCS, *REFERENCE]} <= set(named)


def documented() -> Iterator[tuple[str, str]]:
    """Find the docstrings that the reference shows: of what is public, and of its methods."""
    for module in (api, testing):
        yield module.__name__, inspect.getdoc(module) or ""
        for name in module.__all__:
            thing = getattr(module, name)
            if isinstance(thing, type) or inspect.isroutine(thing):
                yield name, inspect.getdoc(thing) or ""
            for method, value in vars(thing).items() if isinstance(thing, type) else ():
                if not method.startswith("_") and callable(value):
                    yield f"{name}.{method}", inspect.getdoc(value) or ""


def test_docstrings_have_no_markup_by_accident() -> None:
    """reStructuredText takes *x for emphasis, |x| for a substitution and x_ for a link."""
    found = dict(documented())
    assert len(found) > 60
    for name, text in found.items():
        plain = re.sub(r"``.+?``", "", text, flags=re.DOTALL)
        assert not re.search(r"(?<![\w*])\*+\w|\|\S[^|]*\||\w_\b(?!_)|`", plain), (name, plain)


def test_the_reference_names_what_is_there() -> None:
    text = "".join(page.read_text() for page in REFERENCE)
    named = re.findall(r"^\.\. auto\w+:: (\S+)$", text, flags=re.MULTILINE)
    assert {"bench.api", "bench.testing", "bench.api.evaluate"} <= set(named)
    for name in named:
        assert pkgutil.resolve_name(name), name


def test_the_readme_leads_to_every_page() -> None:
    for page in DOCS:
        assert f"](docs/{page.name})" in README.read_text(), page.name


def test_words_are_defined_once_and_used_as_defined() -> None:
    """A page that names a cell, ball, draw, shard or void leads to the definition."""
    text = README.read_text()
    for word in ("cell", "ball", "draw", "shard", "void"):
        assert len(re.findall(rf"\*\*{word}\*\*", text)) == 1, word
    for page in DOCS:
        if page.name != "calibration.md" and re.search(
            r"\b(cell|ball|draw|shard)s?\b", page.read_text()
        ):
            assert "README.md#read-a-row" in page.read_text(), page.name


def test_help_groups_every_command_and_the_usage_page_names_it() -> None:
    usage = (REPO / "docs" / "usage.md").read_text().partition("\n## ")[0]
    groups: dict[str, list[str]] = {}
    commands = typer.main.get_command(cli.app).commands
    for name, command in commands.items():
        assert isinstance(command.rich_help_panel, str), name
        groups.setdefault(command.rich_help_panel, []).append(name)
    rows = re.findall(r"^\| (\w[^|]*) \| (`[^|]*)\|", usage, flags=re.MULTILINE)
    named = [(what, re.findall(r"`(\w+)`", names)) for what, names in rows]
    assert [(panel.lower(), names) for panel, names in groups.items()] == named


def test_the_calibration_in_the_docs_is_the_one_that_was_made() -> None:
    made = (REPO / "results" / "calibration.md").read_text()
    assert (REPO / "docs" / "calibration.md").read_text() == made
    assert "| NO" not in made
