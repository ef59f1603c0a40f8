"""What a check of stored results may find."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A contradiction (``wrong``), or something that could not be checked."""

    wrong: bool
    text: str
    until_loaded: bool = False  # settled where the defense was loaded and is the measured one
