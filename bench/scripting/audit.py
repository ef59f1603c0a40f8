"""Audit objects of a script or a notebook, as `bench audit` audits what has a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from bench.audit import run as audits
from bench.audit.findings import Finding
from bench.audit.recheck import read_finding
from bench.scripting.question import question, run

_IMAGES = 256  # at most, where n is not given: as on the command line
_COLUMNS = ("check", "title", "state", "figure", "threshold", "reason")


@dataclass(frozen=True, repr=False)
class Audit:
    """What the checks say of a defense; ``report`` is all of it, as it is stored."""

    report: Mapping[str, Any]

    @property
    def state(self) -> str:
        """``stands``, ``upper bound`` or ``void``."""
        return str(self.report["state"])

    @property
    def verdict(self) -> str:
        """The same in a sentence, with the checks that object."""
        return str(self.report["verdict"])

    @property
    def accuracy(self) -> Mapping[str, float] | None:
        """What is left after the audit's own attacks, in percent; None where none could run."""
        found: Mapping[str, float] | None = self.report["accuracy"]
        return found

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One finding per check."""
        return tuple(map(read_finding, self.report["findings"]))

    def to_pandas(self) -> pd.DataFrame:
        """Return a line per check."""
        return pd.DataFrame(self.report["findings"], columns=list(_COLUMNS))

    def __repr__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.verdict)}</p>{self.to_pandas().to_html(index=False)}"


def audit(
    purifier: Any,
    classifier: Any = "small_cnn",
    x: Any = None,
    y: Any = None,
    *,
    dataset: str | None = None,
    norm: str = "Linf",
    eps: str | float | Fraction = "8/255",
    n: int | None = None,
    seed: int = 0,
    draws: int = 50,
    shard: int = 100,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    results: str | Path | None = None,
    data: str | Path | None = None,
    zoo: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Audit:
    """Say whether a robust accuracy stands; raises BenchError. Arguments as of ``evaluate``."""
    asked = question(
        purifier, classifier, x, y, dataset=dataset, attack="apgd", norm=norm, eps=eps, n=n,
        most=_IMAGES, seed=seed, draws=draws, shard=shard, settings=settings,
        results=results, data=data, zoo=zoo, device=device,
    )  # fmt: skip
    with asked.at_work() as workspace:
        return Audit(run(audits.audit(asked.request, workspace=workspace), progress=progress))
