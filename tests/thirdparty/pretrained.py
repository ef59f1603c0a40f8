"""A classifier as a stranger writes it: its weights were saved from DataParallel to a .pth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.api import read_weights
from bench_defenses.classifiers.small_cnn import SmallCnn, SmallCnnNet

WEIGHTS = Path(__file__).with_name("pretrained.pth")


@dataclass(frozen=True)
class Pretrained(SmallCnn):
    """Loads weights of its own beside what was trained."""

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...], classes: int
    ) -> nn.Module:
        net = SmallCnnNet(shape, classes=classes, width=4)
        return read_weights(net, torch.load(WEIGHTS, weights_only=True))
