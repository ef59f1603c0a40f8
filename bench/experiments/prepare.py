"""From a request to all that a run needs: plugins built, weights at hand, the cell named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bench.core.access import unsupported
from bench.core.border import purified
from bench.core.defense import Defense
from bench.core.networks import freeze, frozen, modules_in
from bench.core.protocols import Attack, CoarsePurifier, DefensePlugin, Purifier, fits
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.data.datasets import dataset_info
from bench.data.load import load_test
from bench.data.names import cell_name, found_at, trained_on
from bench.errors import PluginError, UsageError
from bench.evaluation.run import Prepared
from bench.experiments.compatible import check_classes, check_trainable, zoo_dataset
from bench.experiments.loaded import (
    Digests,
    loaded_network,
    loaded_purifier,
    untrained_network,
    untrained_purifier,
    zoo_digest,
    zoo_names,
    zoo_network,
)
from bench.experiments.sizes import told_by_size
from bench.models.robustbench import find_threat
from bench.models.train import find_trained, train
from bench.models.trainable import (
    Trainable,
    TrainableClassifier,
    TrainablePurifier,
    UntrainedClassifier,
)
from bench.plugins.brought import digests, is_shipped, nothing_late
from bench.plugins.catalogue import SINGULAR, Kind, build_dataclass, parameters, plugin
from bench.plugins.measured import measure
from bench.plugins.names import kept, parsed
from bench.plugins.sources import source_of
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
        classifier: Part | None = None,
        defense: Part | None = None,
        after: tuple[str, ...] = (),
    ) -> Cell:
        """Build the cell of the request from the digest of its data and the parts with theirs.

        ``after``: keys of finished cells whose broken images are not attacked again.
        """
        request = self.request
        return Cell(
            dataset=cell_name(request.dataset),
            data=data,
            n=request.n,
            shard=request.shard,
            classifier=classifier or self.classifier_part(),
            defense=defense or self.defense_part(),
            attack=_part(request.attack, self.attack, *digests(self.attack)),
            threat=self.threat,
            seed=request.seed,
            draws=request.draws,
            sequential=request.sequential,
            search=request.search,
            after=after,
            sources={"dataset": source} if (source := found_at(request.dataset)) else {},
        )

    def classifier_part(self, digest: str | None = None, beside: str | None = None) -> Part:
        """Describe the classifier, by the digests of its checkpoint and of what is beside."""
        if self.classifier is None:
            return Part(self.request.classifier, {}, 1, digest)
        return _part(self.request.classifier, self.classifier, digest, beside)

    def defense_part(self, digest: str | None = None, beside: str | None = None) -> Part:
        """Describe the defense, by the digests of its checkpoint and of what is beside."""
        return _part(self.request.defense, self.defense, digest, beside)

    def asked(self) -> dict[str, Any]:
        """Write what identifies the cell before its key is known."""
        return asked_of(self.cell().canonical())


def _part(name: str, plugin: Any, digest: str | None, beside: str | None) -> Part:
    source = source_of(plugin)
    return Part(kept(name), parameters(plugin), plugin.revision, digest, source, beside)


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
        names = zoo_names(plugins)
        classifier = plugins.classifier_part(zoo_digest(*names, workspace.zoo))
    elif isinstance(plugins.classifier, UntrainedClassifier):
        classifier = plugins.classifier_part(*untrained_network(plugins)[1])
    else:
        found = find_trained(
            kept(request.classifier),
            plugins.classifier,
            dataset=dataset,
            workspace=workspace,
        )
        if found is None:
            untrained.append(request.classifier)
            classifier = plugins.classifier_part()
        else:
            classifier = plugins.classifier_part(*loaded_network(plugins, found)[1])
    defense = plugins.defense_part()
    if isinstance(plugins.defense, Trainable):
        known = None
        if not (plugins.defense.needs_classifier and untrained):
            known = find_trained(
                kept(request.defense),
                plugins.defense,
                dataset=dataset,
                workspace=workspace,
                classifier=classifier,
            )
        if known is None:
            untrained.append(request.defense)
        else:
            defense = plugins.defense_part(*loaded_purifier(plugins, known)[1])
    else:
        defense = plugins.defense_part(*untrained_purifier(plugins)[1])
    data = load_test(request.dataset, root=workspace.data).digest
    cell = plugins.cell(data=data, classifier=classifier, defense=defense, after=after)
    return cell, untrained


def prepare(
    plugins: Plugins,
    *,
    workspace: Workspace,
    after: tuple[str, ...] = (),
    ready: Ready | None = None,
) -> Work[Prepared]:
    """Load or train what a request needs; raises BenchError.

    ``after``: keys of finished cells whose broken images are not attacked again. ``ready`` is
    the purifier, where it was tried already.
    """
    request = plugins.request
    pixels = load_test(request.dataset, root=workspace.data, first=request.n)
    ready = ready or tried(plugins, workspace=workspace, must_run=False)
    network, classifier = yield from prepare_classifier(plugins, workspace=workspace)
    label = f"the classifier {kept(request.classifier)}"
    with nothing_late(plugins.classifier, network, label):
        check_classes(
            network, pixels, classifier=request.classifier, dataset=cell_name(request.dataset),
            device=workspace.device,
        )  # fmt: skip
    if ready is None:
        assert isinstance(plugins.defense, TrainablePurifier)
        trained = yield from train(
            kept(request.defense),
            plugins.defense,
            dataset=trained_on(request.dataset),
            workspace=workspace,
            classifier=(network, classifier),
        )
        purifier, known = loaded_purifier(plugins, trained)
        ready = _ready(plugins, purifier, known, workspace, must_run=False)
    cell = plugins.cell(
        data=pixels.digest, classifier=classifier, defense=ready.part, after=after
    )
    for own in modules_in(plugins.attack):
        own.to(workspace.device)
    whole = Defense(ready.purifier, network, seed=request.seed).to(workspace.device)
    return Prepared(cell, whole, plugins.attack, pixels)


@dataclass(frozen=True)
class Ready:
    """A purifier that was tried, and its part of the cell."""

    purifier: Purifier
    part: Part


def tried(plugins: Plugins, *, workspace: Workspace, must_run: bool = True) -> Ready | None:
    """Make a purifier and try it before anything is trained; None where it is trained itself.

    Raises BenchError where it cannot run; of a package's class an audit says what it does:
    without ``must_run`` only what has to be measured is called.
    """
    if isinstance(plugins.defense, TrainablePurifier):
        return None
    purifier, known = untrained_purifier(plugins)
    return _ready(plugins, purifier, known, workspace, must_run=must_run)


def _ready(
    plugins: Plugins,
    purifier: object,
    known: Digests,
    workspace: Workspace,
    *,
    must_run: bool,
) -> Ready:
    request, defense = plugins.request, plugins.defense
    freeze(purifier)
    if not fits(purifier, Purifier):
        raise no_purifier(f"the defense '{request.defense}'", purifier)
    to_measure = bool(parsed(request.defense) or hasattr(defense, "thing"))
    if to_measure or (must_run and not is_shipped(defense)):
        for own in modules_in(purifier):
            own.to(workspace.device)
        pixels = load_test(request.dataset, root=workspace.data, first=request.n)
        few = pixels.images(0, _FEW).x.to(workspace.device)
        label = f"the defense {kept(request.defense)}"

        def call(other: Tensor) -> Tensor:
            streams = Rng.seeded(0, range(len(other)), device=other.device)
            return purified(purifier, other, rng=streams)

        dataset = cell_name(request.dataset)
        with nothing_late(defense, purifier, label), told_by_size(label, few, dataset, call):
            measure(purifier, few, label=label, held=to_measure)
    return Ready(purifier, plugins.defense_part(*known))


def prepare_classifier(
    plugins: Plugins, *, workspace: Workspace
) -> Work[tuple[nn.Module, Part]]:
    """Load or train the classifier of a request, frozen and in evaluation mode."""
    known: Digests
    if plugins.classifier is None:
        network, digest = zoo_network(*zoo_names(plugins), workspace.zoo)
        known = digest, None
    elif isinstance(plugins.classifier, UntrainedClassifier):
        network, known = untrained_network(plugins)
    else:
        trained = yield from train(
            kept(plugins.request.classifier),
            plugins.classifier,
            dataset=trained_on(plugins.request.dataset),
            workspace=workspace,
        )
        network, known = loaded_network(plugins, trained)
    network = frozen(network).to(workspace.device)
    return network, plugins.classifier_part(*known)


def refused(plugins: Plugins, purifier: Purifier) -> str | None:
    """Say why a combination is not supported after all; None where it is.

    A purifier that does not say whether it has a gradient is asked once it is there, and so is
    one that an attack wants a cheaper process of.
    """
    reason = unsupported(differentiable=purifier.differentiable, access=plugins.threat.access)
    if getattr(plugins.attack, "surrogate", None) and not fits(purifier, CoarsePurifier):
        reason = "it has no cheaper process, which attack.surrogate asks for"
    return f"{plugins.request.defense}: {reason}" if reason else None


def no_purifier(whose: str, found: object) -> PluginError:
    """Say what an object lacks to be a purifier."""
    wanted = {"purify": "purify(x, *, rng)", "stochastic": "", "differentiable": ""}
    lacks = [said or f"`{name}`" for name, said in wanted.items() if not hasattr(found, name)]
    return PluginError(
        f"{whose} lacks {', '.join(lacks)} (found: {type(found).__name__}). "
        "See 'Add a defense' in docs/plugins.md."
    )
