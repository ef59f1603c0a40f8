"""A results folder with one small finished cell, to hand in and to check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..command import Bench
from ..verification.one_cell import RUN


@pytest.fixture
def folder(filled_by: Callable[..., Path]) -> Path:
    """A results folder with one finished cell."""
    return filled_by(RUN)


@pytest.fixture
def deposit(bench: Bench, folder: Path) -> Path:
    """A deposit of that cell."""
    said = bench("attest", "-o", "deposit.zip")
    assert said.code == 0, said.err
    return Path("deposit.zip")
