"""What a benchmark reports: rows of numbers with their targets. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How to measure: ``quick`` is a smoke run of seconds whose times mean nothing.

    ``data`` is the folder of the data sets, ``scratch`` one for results that are thrown away,
    ``devices`` names torch devices, ``peer_python`` an interpreter that has the peers.
    """

    quick: bool
    data: Path
    scratch: Path
    devices: tuple[str, ...] = ("cpu",)
    peer_python: Path | None = None

    @property
    def repeats(self) -> int:
        """How often each of the compared things is timed, after one round that is not."""
        return 1 if self.quick else 5

    def size(self, full: int, *, quick: int) -> int:
        """Choose a size, small in a smoke run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One number: the median ``value`` of ``repeats``, from ``low`` to ``high``.

    ``value`` goes by the wall clock, ``cpu`` is the same in process CPU time, which a busy
    machine disturbs less. ``checked`` says that the compared things did the same work,
    ``reason`` why a number is what it is. Without a value it says why there is none.
    """

    item: str
    what: str
    value: float | None = None
    unit: str = "ratio"
    low: float | None = None
    high: float | None = None
    cpu: float | None = None
    repeats: int = 0
    at_most: float | None = None
    at_least: float | None = None
    checked: str = ""
    reason: str = ""

    @property
    def target(self) -> str:
        """The target in words, empty where there is none."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else ""

    @property
    def holds(self) -> str:
        """Whether the target is met: yes or NO, empty without a target or a value."""
        if not self.target or self.value is None:
            return ""
        if self.at_most is not None:
            return "yes" if self.value <= self.at_most else "NO"
        return "yes" if self.value >= (self.at_least or 0) else "NO"
