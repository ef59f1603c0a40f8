"""Training as one straight line: find the checkpoint, or train it, resumably."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.access import TransferView
from bench.core.border import blamed
from bench.core.device import lacks_memory, lost
from bench.core.networks import frozen
from bench.core.protocols import Images
from bench.core.threat import format_eps
from bench.data.datasets import dataset_info
from bench.data.load import digest_of_train, load_train
from bench.data.names import cell_name
from bench.errors import UsageError
from bench.evaluation.propose import propose
from bench.models.checkpoints import complete, load_checkpoint, save_checkpoint
from bench.models.trainable import (
    Task,
    Trainable,
    TrainableClassifier,
    TrainablePurifier,
    Training,
)
from bench.plugins.catalogue import build, parameters
from bench.plugins.names import parsed
from bench.plugins.sources import source_of
from bench.results.cell import Part, digest_of
from bench.results.files import written
from bench.results.locks import Shard, claimed, is_held, share, wait
from bench.results.progress import Progress, Work
from bench.results.provenance import provenance
from bench.results.workspace import Workspace

# What a saved state of another shape may raise, beside RuntimeError.
_OTHER_STATE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_SAVE_EVERY_S = 20.0
_REPORT_EVERY_S = 0.5
_SHARD = 500  # training images attacked at a time


@dataclass(frozen=True)
class Trained:
    """Weights that were loaded, with the digest that identifies them."""

    weights: Mapping[str, Tensor]
    digest: str


def trained_as(name: str, plugin: Trainable) -> str:
    """Return the name under which a plugin's weights are kept: plugins may share them."""
    shared: str = getattr(plugin, "trained_as", name)
    return shared


def identity(
    name: str, plugin: Trainable, *, dataset: str, data: str, classifier: Part | None
) -> dict[str, Any]:
    """Collect what a checkpoint depends on; how a purifier is used later is not part of it."""
    params = parameters(plugin)
    if isinstance(plugin, TrainablePurifier):
        params = params["training"]
    return {
        "name": trained_as(name, plugin),
        "revision": plugin.revision,
        "recipe": params,
        "dataset": dataset,
        "data": data,
        "classifier": classifier.canonical()
        if classifier and plugin.needs_classifier
        else None,
        **({"source": source} if (source := source_of(plugin)) else {}),
    }


def find_trained(
    name: str,
    plugin: Trainable,
    *,
    dataset: str,
    workspace: Workspace,
    classifier: Part | None = None,
) -> Trained | None:
    """Return a plugin's weights, None where it is not trained yet."""
    path = checkpoint_path(
        name, plugin, dataset=dataset, workspace=workspace, classifier=classifier
    )
    return Trained(*load_checkpoint(path)) if complete(path) else None


def checkpoint_path(
    name: str,
    plugin: Trainable,
    *,
    dataset: str,
    workspace: Workspace,
    classifier: Part | None = None,
) -> Path:
    """Name the file where a plugin's weights are, or will be once it is trained."""
    data = digest_of_train(dataset, root=workspace.data)
    known = cell_name(dataset)
    about = identity(name, plugin, dataset=known, data=data, classifier=classifier)
    return workspace.store.checkpoint(known, about["name"], digest_of(about)[:8])


def train(
    name: str,
    plugin: Trainable,
    *,
    dataset: str,
    workspace: Workspace,
    classifier: tuple[nn.Module, Part] | None = None,
) -> Work[Trained]:
    """Return a plugin's weights, training them first where no checkpoint has them.

    ``classifier`` is the network to be defended with its place in the cell. A killed training
    goes on from its last saved state and ends with the same weights.
    """
    about = identity(
        name,
        plugin,
        dataset=cell_name(dataset),
        data=digest_of_train(dataset, root=workspace.data),
        classifier=classifier[1] if classifier else None,
    )
    path = workspace.store.checkpoint(cell_name(dataset), about["name"], digest_of(about)[:8])
    what = f"train {name} on {dataset}"
    claim = workspace.store.claim(f"train-{digest_of(about)}")
    while not complete(path):
        if is_held(claim):
            yield from wait(what, 0, 1)
            continue
        found, held_out, data = load_train(dataset, root=workspace.data)
        # Before the claim, so that several processes share the shards of these images.
        attacked = (
            (yield from _attacked(plugin, found, data, classifier, dataset, workspace))
            if classifier
            else None
        )
        with claimed(claim) as ours:
            if ours and not complete(path):
                task = Task(
                    train=found.to(workspace.device),
                    validation=held_out.to(workspace.device),
                    classes=dataset_info(dataset).classes,
                    device=workspace.device,
                    classifier=classifier[0] if classifier else None,
                    adversarial=attacked,
                )
                state = workspace.store.training(digest_of(about))
                with blamed(f"the training of {name}"):
                    run, spent = _resumed(plugin, task, state)
                seconds = yield from _advance(what, run, state, spent)
                with blamed(f"the training of {name}"):
                    metrics, weights = run.evaluate(), run.weights()
                    said = ", ".join(f"{name} {value:.3g}" for name, value in metrics.items())
                yield Progress(what, run.total, run.total, run.metrics(), said, unit="steps")
                card = {
                    **about,
                    "images": len(found),
                    "metrics": metrics,
                    "seconds": round(seconds, 1),
                    **provenance(workspace.device),
                }
                save_checkpoint(path, weights, card)
    # Here, also for a process that died before it could.
    workspace.store.training(digest_of(about)).unlink(missing_ok=True)
    return Trained(*load_checkpoint(path))


def _advance(what: str, run: Training, state: Path, spent: float = 0.0) -> Work[float]:
    """Advance a training to its end, saving its state now and then; return the seconds."""
    begun = reported = saved = time.monotonic()
    yield Progress(what, run.step, run.total, unit="steps")
    while run.step < run.total:
        with blamed(f"the {what.replace('train', 'training of', 1)}"):
            run.advance()
        now = time.monotonic()
        # The last step is reported with what the network is worth, once that is known.
        if now - reported > _REPORT_EVERY_S and run.step < run.total:
            yield Progress(what, run.step, run.total, run.metrics(), unit="steps")
            reported = now
        if now - saved > _SAVE_EVERY_S:
            packed = io.BytesIO()
            torch.save({"run": run.state(), "seconds": spent + now - begun}, packed)
            with written(state) as temporary:
                temporary.write_bytes(packed.getvalue())
            saved = now
    return spent + time.monotonic() - begun


def _resumed(plugin: Trainable, task: Task, state: Path) -> tuple[Training, float]:
    """Start a training where its state was saved, with the seconds spent until then."""
    if state.is_file():
        try:
            return _restored(plugin, task, state)
        except (
            *_OTHER_STATE,
            EOFError,
            OSError,
            RuntimeError,
            pickle.UnpicklingError,
        ) as error:
            if isinstance(error, RuntimeError) and (lacks_memory(error) or lost(error)):
                raise  # the device's fault, not the state's
            state.unlink()  # damaged or of another version: begin anew, not in part
    return plugin.start(task), 0.0


def _restored(plugin: Trainable, task: Task, state: Path) -> tuple[Training, float]:
    """Read a saved state and take one step from it: optimisers notice a wrong shape there."""
    kept = torch.load(state, map_location=task.device, weights_only=True)
    _count_on_cpu(kept)
    run = plugin.start(task)
    run.restore(kept["run"])
    if not 0 <= run.step <= run.total:
        raise ValueError(f"step {run.step} of {run.total}")
    if run.step < run.total:
        run.advance()
    return run, float(kept["seconds"])


def _count_on_cpu(kept: object) -> None:
    """Move the step counters of optimisers to the CPU, where torch keeps and reads them.

    On a GPU every iteration would wait for each of them.
    """
    if not isinstance(kept, dict):
        return
    if "param_groups" in kept:
        fast = any(
            group.get("capturable") or group.get("fused") for group in kept["param_groups"]
        )
        for slot in kept["state"].values():
            if isinstance(slot.get("step"), Tensor) and not fast:
                slot["step"] = slot["step"].cpu()
        return
    for value in kept.values():
        _count_on_cpu(value)


def _attacked(
    plugin: Trainable,
    images: Images,
    data: str,
    classifier: tuple[nn.Module, Part],
    dataset: str,
    workspace: Workspace,
) -> Work[Tensor | None]:
    """Attack training images of a bare classifier with AutoAttack, once per content."""
    wanted = plugin.negatives()
    if wanted is None:
        return None
    threat = wanted.threat
    if wanted.classifier_seed is not None:
        classifier = yield from _with_seed(
            classifier[1], wanted.classifier_seed, dataset, workspace
        )
    network, part = classifier
    attack = build("attacks", "autoattack", {})
    content = {
        "attack": Part("autoattack", parameters(attack), attack.revision).canonical(),
        "classifier": part.canonical(),
        "training data": data,
        "norm": threat.norm.value,
        "eps": format_eps(threat.eps),
    }
    n = min(wanted.images, len(images))
    shards = [(start, min(start + _SHARD, n)) for start in range(0, n, _SHARD)]
    key = digest_of(content)
    done: dict[Shard, Tensor] = {}

    def attack_shard(shard: Shard) -> None:
        done[shard] = propose(
            attack,
            TransferView(network),
            images[slice(*shard)].to(workspace.device),
            threat=threat,
            seed=0,
            networks={"classifier": network},
            path=workspace.store.proposal(key, *shard),
        ).x_adv

    yield from share(
        f"attack training images of {dataset}",
        n,
        left=lambda: [shard for shard in shards if shard not in done],
        claim=lambda shard: workspace.store.claim_on_shard(key, *shard),
        work=attack_shard,
    )
    return torch.cat([done[shard] for shard in shards])


def _with_seed(
    part: Part, seed: int, dataset: str, workspace: Workspace
) -> Work[tuple[nn.Module, Part]]:
    """Load or train a classifier that differs from another one in its seed; frozen."""
    wants = f"the defense is to be trained on images of another classifier than {part.name}"
    # A cell's name of a plugin in a file does not say in which folder it is.
    if parsed(part.name) or "training" not in part.params:
        raise UsageError(
            f"{wants}, of which there is only one training. Choose a --classifier that bench "
            "trains, of a package."
        )
    training = part.params["training"]
    if seed == training["seed"]:
        raise UsageError(
            f"{wants} of seed {seed}, but asks for seed {seed} itself. Choose another seed in "
            "the defense's training."
        )
    params = {**part.params, "training": {**training, "seed": seed}}
    plugin: TrainableClassifier = build("classifiers", part.name, params)
    info = dataset_info(dataset)
    trained = yield from train(part.name, plugin, dataset=dataset, workspace=workspace)
    network = plugin.load(trained.weights, shape=info.shape, classes=info.classes)
    network = frozen(network).to(workspace.device)
    return network, Part(
        part.name, parameters(plugin), plugin.revision, trained.digest, source_of(plugin)
    )
