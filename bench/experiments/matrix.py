"""Requests to finished cells: one by one, each failure kept to its own cell."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.core.device import lacks_memory, lost
from bench.core.threat import format_eps
from bench.data.names import cell_name, trained_on
from bench.errors import BenchError, PlanError, UsageError
from bench.evaluation.run import Prepared, run_cell
from bench.experiments.attack_order import cheap_first, estimate
from bench.experiments.plan import Plan
from bench.experiments.plan_faults import all_faults
from bench.experiments.prepare import (
    Plugins,
    outline,
    prepare,
    prepare_classifier,
    refused,
    resolve,
    tried,
)
from bench.models.train import checkpoint_path, train
from bench.models.trainable import Trainable
from bench.results.cell import Request, digest_of
from bench.results.failures import forget_failures, no_row_without_a_shard
from bench.results.progress import Work
from bench.results.settings import Settings
from bench.results.so_far import with_accuracy
from bench.results.workspace import Workspace


def resolve_plan(plan: Plan) -> list[Plugins]:
    """Resolve every request of a plan before anything runs; raises PlanError, all faults."""
    faults, found = plan.faults(), []
    try:
        requests = plan.requests()
    except PlanError as error:
        raise all_faults([*faults, *error.faults]) from error
    others: dict[str, None] = {}  # each once, in their order
    for request in requests:
        try:
            found.append(resolve(request))
        except BenchError as error:
            others[str(error)] = None
    told = tuple(faults)  # with the places of what they are about
    faults += [f"{plan.at()}{one}" for one in others if not any(f.endswith(one) for f in told)]
    if faults:
        raise all_faults(faults)
    return found


def ordered(plan: Plan) -> list[Plugins]:
    """Resolve a plan to pairs in the order in which they run; raises PlanError."""
    pairs = resolve_plan(plan)
    return cheap_first(pairs) if plan.ladder is True else pairs


def evaluate(request: Request, *, workspace: Workspace) -> Work[str]:
    """Run one request to its end and return the key of its cell; raises BenchError."""
    plugins = resolve(request)
    if plugins.impossible:
        raise UsageError(f"this combination is not supported: {plugins.impossible}.")
    workspace.store.probe()
    prepared = yield from _prepared(plugins, workspace)
    with no_row_without_a_shard(workspace.store, prepared.cell):
        return (yield from _evaluate(plugins, prepared, workspace))


def attempt(
    plugins: Plugins,
    *,
    workspace: Workspace,
    say: Callable[[str], None],
    after: tuple[str, ...] = (),
) -> Work[str]:
    """Run a cell of a matrix; one that is not supported or fails is a row with the reason.

    ``after``: keys of finished cells whose broken images are not attacked again.
    """
    settings = Settings.asked(plugins.request).stored()
    content = plugins.asked()
    key = digest_of(content)
    if plugins.impossible:
        workspace.store.skip({**content, **settings}, key, plugins.impossible)
        return key
    if workspace.store.failed(key, workspace.run):  # in another process of this run
        return key
    prepared = None
    try:
        prepared = yield from _prepared(plugins, workspace, after)
        return (yield from _evaluate(plugins, prepared, workspace))
    except _RefusedError as error:
        workspace.store.skip({**content, **settings}, key, error.reason)
        return key
    except (Exception, SystemExit) as error:  # one failing cell never stops the others
        reason = str(error) if isinstance(error, BenchError) else _unexpected(error)
        # A cell that failed while it ran has a key and a row already: the reason goes there.
        content = prepared.cell.canonical() if prepared else content
        key = digest_of(content)
        say(f"failed: {reason}")
        forget_failures(workspace.store, {**content, **settings}, run=workspace.run)
        workspace.store.fail({**content, **settings}, key, reason, workspace.run)
        if lost(error):  # later cells would fail in this process only: end it
            raise
        return key


class _RefusedError(UsageError):
    """A combination that turns out not to be supported."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"this combination is not supported: {reason}.")
        self.reason = reason


def _prepared(
    plugins: Plugins, workspace: Workspace, after: tuple[str, ...] = ()
) -> Work[Prepared]:
    """Prepare a cell, its purifier first: what cannot run costs no training."""
    with _enough_memory():
        ready = tried(plugins, workspace=workspace)
        if ready and (reason := refused(plugins, ready.purifier)):
            raise _RefusedError(reason)
        prepared = yield from prepare(plugins, workspace=workspace, after=after, ready=ready)
        if reason := refused(plugins, prepared.defense.purifier):
            raise _RefusedError(reason)
    return prepared


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Say what to do where a GPU's memory does not hold the least that is tried."""
    try:
        yield
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        raise BenchError(  # bench.core.batch_size halved what it can
            "the GPU's memory does not hold one image with all its draws, or the whole shard "
            "that an attack such as autoattack takes at once. Use fewer draws "
            "(--draws, attack.eot), a smaller --shard (all of them are part of the cell), or "
            "--device cpu. Finished shards are kept. Where another process uses the GPU "
            "(nvidia-smi shows which), wait for it."
        ) from error


def _evaluate(plugins: Plugins, prepared: Prepared, workspace: Workspace) -> Work[str]:
    key = prepared.cell.key()
    settings = Settings.asked(plugins.request)
    asked = {**plugins.asked(), **settings.stored()}
    forget_failures(workspace.store, asked, run=workspace.run)
    with _enough_memory():
        work = with_accuracy(
            run_cell(prepared, workspace=workspace, settings=settings),
            prepared.cell,
            store=workspace.store,
        )
        for now in work:
            if workspace.store.failed(key, workspace.run):  # in another process of this run
                work.close()
                break
            yield now
    return key


def _unexpected(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(where.filename).name}:{where.lineno}"
    return (
        f"{type(error).__name__}: {error} ({place}). This is a fault of a plugin or of bench: "
        "run only this cell with `bench --debug run` to see where."
    )


def title(plugins: Plugins) -> str:
    """Name a cell for people."""
    request, threat = plugins.request, plugins.threat
    settings = str(Settings.asked(request))
    return (
        f"{cell_name(request.dataset)} {request.defense} under {request.attack} "
        f"({threat.access}, {threat.norm} {format_eps(threat.eps)}, seed {request.seed})"
        + (f" {settings}" if settings else "")
    )


def preview(
    request: Request, workspace: Workspace, *, after: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Describe a cell without running it: content, key, and cost in network passes."""
    plugins = resolve(request)
    if plugins.impossible:
        return {"impossible": plugins.impossible}
    cell, untrained = outline(plugins, workspace, after=after)
    return {
        "cell": cell.canonical(),
        "key": cell.key(),
        **({"to be trained first": untrained} if untrained else {}),
        "done": workspace.store.done(cell),
        "cost per image, at most": estimate(plugins),
    }


def train_only(request: Request, *, workspace: Workspace, classifier_only: bool) -> Work[Path]:
    """Train a classifier, or a defense and the classifier it needs; return the checkpoint."""
    plugins = resolve(request)
    name: str = request.classifier
    plugin: object = plugins.classifier
    classifier = None
    if not classifier_only:
        name, plugin = request.defense, plugins.defense
        if not isinstance(plugin, Trainable):
            raise UsageError(
                f"{name} has nothing to train: `bench run --defense {name}` needs no more."
            )
        if plugin.needs_classifier:
            classifier = yield from prepare_classifier(plugins, workspace=workspace)
    if not isinstance(plugin, Trainable):
        raise UsageError(f"{name} has its weights already: there is nothing to train.")
    workspace.store.probe()
    yield from train(
        name,
        plugin,
        dataset=trained_on(request.dataset),
        workspace=workspace,
        classifier=classifier,
    )
    part = classifier[1] if classifier else None
    return checkpoint_path(
        name, plugin, dataset=trained_on(request.dataset), workspace=workspace, classifier=part
    )
