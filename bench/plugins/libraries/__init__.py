"""Attacks of other libraries, found by names such as ``torchattacks:PGD``. Imports no torch."""

from __future__ import annotations

import functools
import importlib
from typing import Any


@functools.cache  # a class has to be the same whenever its name is
def attack(library: str, name: str) -> type[Any]:
    """Make the plugin of a library's attack, which a file here is for; raises BenchError."""
    from bench.plugins.libraries.adapter import adapted

    found = importlib.import_module(f"{__name__}.{library}").LIBRARY
    return adapted(found, name)
