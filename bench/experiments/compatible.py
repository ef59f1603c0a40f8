"""Whether a data set, a classifier and a defense belong together, told before any work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from bench.core.border import logits_of
from bench.core.isolation import isolated
from bench.core.protocols import Pixels
from bench.data.datasets import dataset_info
from bench.data.load import require_training_images
from bench.data.names import found_at, trained_on
from bench.errors import UsageError
from bench.experiments.sizes import told_by_size
from bench.models.trainable import Trainable
from bench.plugins.names import kept


def check_trainable(dataset: str, plugins: Mapping[str, object]) -> None:
    """Refuse plugins (by name) that are trained, on a data set without training images."""
    for name, plugin in plugins.items():
        if isinstance(plugin, Trainable):
            require_training_images(trained_on(dataset), what=name)


def zoo_dataset(dataset: str) -> str:
    """Name the data set whose RobustBench classifiers are meant, by the number of classes."""
    base = trained_on(dataset)
    if found_at(base) is None:
        return base
    return "cifar10" if dataset_info(base).classes <= 10 else "cifar100"


def check_classes(
    network: nn.Module, pixels: Pixels, *, classifier: str, dataset: str, device: torch.device
) -> None:
    """Refuse labels that a classifier (1, C, H, W) -> (1, K) has no logits for."""
    x = pixels.images(0, 1).x.to(device)
    told = told_by_size(
        f"the classifier {kept(classifier)}", x, dataset, partial(logits_of, network)
    )
    with told, torch.no_grad(), isolated(0):
        classes = logits_of(network, x).shape[1]
    largest = int(pixels.y.max())
    if largest >= classes:
        raise UsageError(
            f"{dataset} has labels up to {largest}, but the classifier {classifier} has only "
            f"{classes} classes, 0 to {classes - 1}. Choose a classifier that belongs to the "
            "data set, or the other way round."
        )
