"""From a request to all that a run needs: plugins built, weights at hand, the cell named."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bench.core.access import unsupported
from bench.core.border import blamed
from bench.core.defense import Defense
from bench.core.networks import digest_of_weights, freeze, frozen, modules_in
from bench.core.protocols import Attack, DefensePlugin, Purifier, fits
from bench.core.threat import ThreatModel
from bench.data.datasets import dataset_info
from bench.data.load import load_test
from bench.data.names import cell_name, found_at, trained_on
from bench.errors import PluginError, UsageError
from bench.evaluation.run import Prepared
from bench.experiments.compatible import check_classes, check_trainable, zoo_dataset
from bench.models.robustbench import find_threat, load_zoo_classifier
from bench.models.train import find_trained, train
from bench.models.trainable import (
    MakesPurifier,
    Trainable,
    TrainableClassifier,
    TrainablePurifier,
    UntrainedClassifier,
)
from bench.plugins.catalogue import SINGULAR, Kind, build_dataclass, parameters, plugin
from bench.plugins.elsewhere import source_of
from bench.plugins.measured import measure
from bench.plugins.names import kept, parsed
from bench.results.cell import ZOO, Cell, Part, Request, asked_of
from bench.results.progress import Work
from bench.results.workspace import Workspace

_FEW = 4  # images on which a purifier is tried


@dataclass(frozen=True)
class Plugins:
    """A request with its plugins built and its threat model resolved.

    ``classifier`` is None for one of the RobustBench zoo. ``impossible`` says why the
    combination is not supported, None where it is.
    """

    request: Request
    classifier: TrainableClassifier | UntrainedClassifier | None
    defense: DefensePlugin
    attack: Attack
    threat: ThreatModel
    impossible: str | None

    def cell(
        self,
        *,
        data: str = "",
        classifier: str | None = None,
        defense: str | None = None,
        after: tuple[str, ...] = (),
    ) -> Cell:
        """Build the cell of the request from the digests of its data and checkpoints.

        ``after``: keys of finished cells whose broken images are not attacked again.
        """
        request = self.request
        return Cell(
            dataset=cell_name(request.dataset),
            data=data,
            n=request.n,
            shard=request.shard,
            classifier=self.classifier_part(classifier),
            defense=_part(request.defense, self.defense, defense),
            attack=_part(request.attack, self.attack, digest_of_weights(self.attack)),
            threat=self.threat,
            seed=request.seed,
            draws=request.draws,
            sequential=request.sequential,
            search=request.search,
            after=after,
            sources={"dataset": source} if (source := found_at(request.dataset)) else {},
        )

    def classifier_part(self, digest: str | None) -> Part:
        """Describe the classifier of the cell, whose checkpoint has this digest."""
        if self.classifier is None:
            return Part(self.request.classifier, {}, 1, digest)
        return _part(self.request.classifier, self.classifier, digest)

    def asked(self) -> dict[str, Any]:
        """Write what identifies the cell before its key is known."""
        return asked_of(self.cell().canonical())


def _part(name: str, plugin: Any, digest: str | None) -> Part:
    return Part(kept(name), parameters(plugin), plugin.revision, digest, source_of(plugin))


def resolve(request: Request) -> Plugins:
    """Build a request's plugins; raises UsageError for whatever the user can correct."""
    info = dataset_info(request.dataset)
    if request.n > info.test_images:
        raise UsageError(
            f"n is {request.n}, but {info.name} has {info.test_images} images to test on. "
            f"Give -n {info.test_images} or less."
        )
    classifier = None
    if request.classifier.startswith(ZOO):
        find_threat(request.classifier.removeprefix(ZOO), dataset=zoo_dataset(request.dataset))
        if request.settings.get("classifier"):
            raise UsageError("a classifier of the RobustBench zoo has no parameters to --set.")
    else:
        classifier = configured("classifiers", request.classifier, request)
    attack = configured("attacks", request.attack, request)
    defense = configured("defenses", request.defense, request)
    trained = {request.classifier: classifier, request.defense: defense}
    check_trainable(request.dataset, trained)
    access = request.access or attack.accesses[0]
    threat = ThreatModel(request.norm, request.eps, access)
    return Plugins(
        request,
        classifier,
        defense,
        attack,
        threat,
        _impossible(request, threat, attack, defense),
    )


def configured(kind: Kind, name: str, request: Request) -> Any:
    """Build a plugin by name from defaults, recipe and settings, as ``built`` does."""
    settings = request.settings.get(SINGULAR[kind], {})
    return built(kind, plugin(kind, name), dataset=request.dataset, settings=settings)


def built(kind: Kind, cls: type[Any], *, dataset: str, settings: Mapping[str, Any]) -> Any:
    """Build a plugin from its defaults, the data set's recipe and the user's settings."""
    params = cls.recipe(cell_name(trained_on(dataset))) if hasattr(cls, "recipe") else {}
    return build_dataclass(cls, _merged(params, settings), where=SINGULAR[kind])


def _merged(base: Any, over: Any) -> Any:
    """Lay nested settings over others."""
    both = dict(base)
    for name, value in over.items():
        nested = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = _merged(both[name], value) if nested else value
    return both


def _impossible(
    request: Request, threat: ThreatModel, attack: Attack, defense: Any
) -> str | None:
    if threat.norm not in attack.norms:
        return f"{request.attack} has no {threat.norm} version: use {', '.join(attack.norms)}"
    if threat.access not in attack.accesses:
        return (
            f"{request.attack} does not work with {threat.access} access: use "
            f"--access {' or '.join(attack.accesses)}"
        )
    if not threat.bounded and not attack.unbounded:
        return f"{request.attack} needs a bound: give a finite --eps"
    reason = unsupported(differentiable=defense.differentiable, access=threat.access)
    return f"{request.defense}: {reason}" if reason else None


def outline(
    plugins: Plugins, workspace: Workspace, *, after: tuple[str, ...] = ()
) -> tuple[Cell, list[str]]:
    """Name the cell of a request without training; list what has to be trained first.

    The key depends on the digests of all checkpoints: it is final when the list is empty.
    """
    request, untrained = plugins.request, []
    dataset = trained_on(request.dataset)
    if plugins.classifier is None:
        classifier: str | None = _zoo_digest(*_zoo_names(plugins), workspace.zoo)
    elif isinstance(plugins.classifier, UntrainedClassifier):
        classifier = digest_of_weights(_network(plugins))
    else:
        classifier = find_trained(
            kept(request.classifier),
            plugins.classifier,
            dataset=dataset,
            workspace=workspace,
        )
        if classifier is None:
            untrained.append(request.classifier)
    defense = None
    if isinstance(plugins.defense, Trainable):
        if not (plugins.defense.needs_classifier and untrained):
            defense = find_trained(
                kept(request.defense),
                plugins.defense,
                dataset=dataset,
                workspace=workspace,
                classifier=plugins.classifier_part(classifier),
            )
        if defense is None:
            untrained.append(request.defense)
    else:
        defense = digest_of_weights(_purifier(plugins))
    data = load_test(request.dataset, root=workspace.data).digest
    cell = plugins.cell(data=data, classifier=classifier, defense=defense, after=after)
    return cell, untrained


def prepare(
    plugins: Plugins, *, workspace: Workspace, after: tuple[str, ...] = ()
) -> Work[Prepared]:
    """Load or train what a request needs; raises BenchError.

    ``after``: keys of finished cells whose broken images are not attacked again.
    """
    request = plugins.request
    pixels = load_test(request.dataset, root=workspace.data, first=request.n)
    network, classifier = yield from prepare_classifier(plugins, workspace=workspace)
    check_classes(
        network, pixels, classifier=request.classifier, dataset=cell_name(request.dataset),
        device=workspace.device,
    )  # fmt: skip
    defense: object = plugins.defense
    digest = None
    if isinstance(defense, TrainablePurifier):
        trained = yield from train(
            kept(request.defense),
            defense,
            dataset=trained_on(request.dataset),
            workspace=workspace,
            classifier=(network, classifier),
        )
        digest = trained.digest
        with blamed(f"the defense {request.defense}"):
            defense = defense.load(trained.weights, shape=dataset_info(request.dataset).shape)
    else:
        defense = _purifier(plugins)
        digest = digest_of_weights(defense)  # what it brought itself, by whatever way
    freeze(defense)
    if not fits(defense, Purifier):
        raise no_purifier(f"the defense '{request.defense}'", defense)
    cell = plugins.cell(
        data=pixels.digest, classifier=classifier.checkpoint, defense=digest, after=after
    )
    for own in modules_in(plugins.attack):
        own.to(workspace.device)
    whole = Defense(defense, network, seed=request.seed).to(workspace.device)
    if parsed(request.defense):
        few = pixels.images(0, _FEW).x.to(workspace.device)
        measure(whole.purifier, few, label=f"the defense {kept(request.defense)}")
    return Prepared(cell, whole, plugins.attack, pixels)


def prepare_classifier(
    plugins: Plugins, *, workspace: Workspace
) -> Work[tuple[nn.Module, Part]]:
    """Load or train the classifier of a request, frozen and in evaluation mode."""
    digest: str | None
    if plugins.classifier is None:
        network, digest = _zoo(*_zoo_names(plugins), workspace.zoo)
    elif isinstance(plugins.classifier, UntrainedClassifier):
        network = _network(plugins)
        digest = digest_of_weights(network)
    else:
        info = dataset_info(plugins.request.dataset)
        trained = yield from train(
            kept(plugins.request.classifier),
            plugins.classifier,
            dataset=trained_on(plugins.request.dataset),
            workspace=workspace,
        )
        digest = trained.digest
        with blamed(f"the classifier {plugins.request.classifier}"):
            network = plugins.classifier.load(
                trained.weights, shape=info.shape, classes=info.classes
            )
    network = frozen(network).to(workspace.device)
    return network, plugins.classifier_part(digest)


def _network(plugins: Plugins) -> nn.Module:
    """Make a classifier that has its weights."""
    assert isinstance(plugins.classifier, UntrainedClassifier)
    info, name = dataset_info(plugins.request.dataset), kept(plugins.request.classifier)
    with blamed(f"the classifier {name}"):
        return plugins.classifier.network(shape=info.shape, classes=info.classes)


def _purifier(plugins: Plugins) -> object:
    """Make a purifier that nothing is trained for; most are their plugin itself."""
    if not isinstance(plugins.defense, MakesPurifier):
        return plugins.defense
    with blamed(f"the defense {kept(plugins.request.defense)}"):
        return plugins.defense.purifier(shape=dataset_info(plugins.request.dataset).shape)


def refused(plugins: Plugins, prepared: Prepared) -> str | None:
    """Say why a combination is not supported after all; None where it is.

    A purifier that does not say whether it has a gradient is asked once it is there.
    """
    has = prepared.defense.purifier.differentiable
    reason = unsupported(differentiable=has, access=plugins.threat.access)
    return f"{plugins.request.defense}: {reason}" if reason else None


def _zoo_names(plugins: Plugins) -> tuple[str, str, str]:
    """Name a classifier of the zoo, its data set and the norm that it is wanted for."""
    request = plugins.request
    name = request.classifier.removeprefix(ZOO)
    return name, zoo_dataset(request.dataset), request.norm.value


def _zoo(name: str, dataset: str, norm: str, folder: Path) -> tuple[nn.Module, str]:
    """Load a classifier of the zoo and the digest of its weights."""
    threat = find_threat(name, dataset=dataset, preferred=norm)
    network = load_zoo_classifier(name, dataset=dataset, threat=threat, model_dir=folder)
    content = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        content.update(key.encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return network, content.hexdigest()


@functools.cache  # the cells of a plan have one classifier, and it may be large
def _zoo_digest(name: str, dataset: str, norm: str, folder: Path) -> str:
    return _zoo(name, dataset, norm, folder)[1]


def no_purifier(whose: str, found: object) -> PluginError:
    """Say what an object lacks to be a purifier."""
    wanted = {"purify": "purify(x, *, rng)", "stochastic": "", "differentiable": ""}
    lacks = [said or f"`{name}`" for name, said in wanted.items() if not hasattr(found, name)]
    return PluginError(
        f"{whose} lacks {', '.join(lacks)} (found: {type(found).__name__}). "
        "See 'Add a defense' in docs/plugins.md."
    )
