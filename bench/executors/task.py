"""The task of a worker, as JSON, and the work on it. Imports no torch by itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import no_exit


@dataclass(frozen=True)
class WorkerTask:
    """Plans as JSON values, with the folders, device, run and command that belong to them."""

    plans: tuple[Mapping[str, Any], ...]
    results: str
    data: str
    zoo: str
    device: str
    run: str
    command: tuple[str, ...]

    def text(self) -> str:
        """Write the task as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> WorkerTask:
        """Read what ``text`` wrote."""
        content = json.loads(text)
        return cls(**{**content, "plans": tuple(content["plans"])})


def work(task: WorkerTask, *, report: bool, complain: Callable[[str], None]) -> None:
    """Work on the plans of a task until every cell is finished, here or elsewhere.

    ``report``: write progress to stderr. Raises BenchError where the work cannot continue.
    """
    from bench.executors.worker import measure
    from bench.experiments.matrix import ordered
    from bench.experiments.plan import Plan
    from bench.results.progress import finish
    from bench.results.store import Store
    from bench.results.watching import watch
    from bench.results.workspace import Workspace, open_device

    sys.argv = list(task.command)  # recorded in the provenance of the cells
    data, zoo, device = Path(task.data), Path(task.zoo), open_device(task.device)
    workspace = Workspace(Store(Path(task.results)), data, zoo, device, task.run)
    for content in task.plans:
        plan = Plan.model_validate(content)
        with no_exit():
            measure(
                plan,
                ordered(plan),
                workspace=workspace,
                drive=watch if report else finish,
                announce=complain if report else lambda _: None,
                complain=complain,
            )
