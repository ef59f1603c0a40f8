"""Networks and purifiers of resolved plugins, with the digests of all their weights."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from bench.core.border import blamed
from bench.core.isolation import isolated
from bench.core.networks import digest_of_weights
from bench.data.datasets import dataset_info
from bench.experiments.compatible import zoo_dataset
from bench.models.robustbench import find_threat, load_zoo_classifier
from bench.models.train import Trained
from bench.models.trainable import (
    MakesPurifier,
    TrainableClassifier,
    TrainablePurifier,
    UntrainedClassifier,
)
from bench.plugins.held_contract import with_its_networks
from bench.plugins.names import kept
from bench.results.cell import ZOO

if TYPE_CHECKING:
    from bench.experiments.prepare import Plugins


Digests = tuple[str | None, str | None]  # of the weights or their checkpoint, and beside them


def untrained_network(plugins: Plugins) -> tuple[nn.Module, Digests]:
    """Make a classifier that has its weights."""
    assert isinstance(plugins.classifier, UntrainedClassifier)
    info, name = dataset_info(plugins.request.dataset), kept(plugins.request.classifier)
    with blamed(f"the classifier {name}"):
        made = plugins.classifier.network(shape=info.shape, classes=info.classes)
    network, beside = with_its_networks(plugins.classifier, made)
    return network, (digest_of_weights(network), beside)


def untrained_purifier(plugins: Plugins) -> tuple[object, Digests]:
    """Make a purifier that nothing is trained for; most are their plugin itself."""
    made: object = plugins.defense
    if isinstance(plugins.defense, MakesPurifier):
        with blamed(f"the defense {kept(plugins.request.defense)}"):
            made = plugins.defense.purifier(shape=dataset_info(plugins.request.dataset).shape)
    purifier, beside = with_its_networks(plugins.defense, made)
    return purifier, (digest_of_weights(purifier), beside)


def loaded_network(plugins: Plugins, trained: Trained) -> tuple[nn.Module, Digests]:
    """Build a classifier from its checkpoint."""
    assert isinstance(plugins.classifier, TrainableClassifier)
    info, name = dataset_info(plugins.request.dataset), kept(plugins.request.classifier)
    with isolated(0), blamed(f"the classifier {name}"):
        made = plugins.classifier.load(trained.weights, shape=info.shape, classes=info.classes)
    network, beside = with_its_networks(plugins.classifier, made, trained.weights)
    return network, (trained.digest, beside)


def loaded_purifier(plugins: Plugins, trained: Trained) -> tuple[object, Digests]:
    """Build a purifier from its checkpoint."""
    assert isinstance(plugins.defense, TrainablePurifier)
    info, name = dataset_info(plugins.request.dataset), kept(plugins.request.defense)
    with isolated(0), blamed(f"the defense {name}"):
        made = plugins.defense.load(trained.weights, shape=info.shape)
    purifier, beside = with_its_networks(plugins.defense, made, trained.weights)
    return purifier, (trained.digest, beside)


def zoo_names(plugins: Plugins) -> tuple[str, str, str]:
    """Name a classifier of the zoo, its data set and the norm that it is wanted for."""
    request = plugins.request
    name = request.classifier.removeprefix(ZOO)
    return name, zoo_dataset(request.dataset), request.norm.value


def zoo_network(name: str, dataset: str, norm: str, folder: Path) -> tuple[nn.Module, str]:
    """Load a classifier of the zoo and the digest of its weights."""
    threat = find_threat(name, dataset=dataset, preferred=norm)
    network = load_zoo_classifier(name, dataset=dataset, threat=threat, model_dir=folder)
    content = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        content.update(key.encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return network, content.hexdigest()


@functools.cache  # the cells of a plan have one classifier, and it may be large
def zoo_digest(name: str, dataset: str, norm: str, folder: Path) -> str:
    """Return the digest of the weights of a classifier of the zoo."""
    return zoo_network(name, dataset, norm, folder)[1]
