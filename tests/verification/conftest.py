"""A results folder with one small finished cell, for verifying it and judging it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .one_cell import RUN


@pytest.fixture
def folder(filled_by: Callable[..., Path]) -> Path:
    """A results folder with one finished cell."""
    return filled_by(RUN)
