"""The shipped recipes: parameters per data set that differ from a plugin's defaults."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

import yaml


@functools.cache
def _read(dataset: str) -> dict[str, dict[str, Any]]:
    path = files("bench_defenses") / "recipes" / f"{dataset}.yaml"
    return dict(yaml.safe_load(path.read_text())) if path.is_file() else {}


def recipe(name: str, dataset: str) -> dict[str, Any]:
    """Return a plugin's parameters in a recipe; empty where there is no recipe."""
    return _read(dataset).get(name, {})
