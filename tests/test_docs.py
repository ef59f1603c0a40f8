"""What the pages point at is there, and they use the words that they define."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from bench import cli

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
DOCS = sorted((REPO / "docs").glob("*.md"))
PAGES = [README, *DOCS, *(REPO / name for name in ("CHANGELOG.md", "CONTRIBUTING.md",
         "benchmarks/README.md", "results/gpu/README.md"))]  # fmt: skip


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
        assert there.exists(), link
        assert not anchor or anchor in headings(there), link


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
