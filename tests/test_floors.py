"""The oldest versions that are allowed are those that `tox -e floors` installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def test_every_declared_floor_is_installed_by_the_environment_of_floors() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    declared = [re.split(">=|==", one) for one in project["dependencies"]]
    lines = (REPO / "tests" / "floors.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned.get(name) for name, _ in declared} == dict(declared)
    assert all("," not in floor and "<" not in floor for _, floor in declared)
    assert "floors.txt" in (REPO / "tox.ini").read_text()
