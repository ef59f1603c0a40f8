"""What the pages point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    for link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_the_calibration_in_the_docs_is_the_one_that_was_made() -> None:
    made = (REPO / "results" / "calibration.md").read_text()
    assert (REPO / "docs" / "calibration.md").read_text() == made
    assert "| NO" not in made
