"""All that a plugin or a script may import: nothing else of ``bench`` is public.

A plugin gets contracts and building blocks. A script or a notebook gets ``evaluate``, ``audit``
and ``judge``, which are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.core.batch_size import in_blocks
from bench.core.defense import Defense, read_weights
from bench.core.eot import Averaged, AveragedGradient, averaged_gradient, averaged_loss
from bench.core.geometry import Ball, per_image, project, size, steepest
from bench.core.losses import LOSSES, Loss, LossName, Towards, cross_entropy, dlr, margin
from bench.core.passes import counted_as
from bench.core.protocols import (
    Attack,
    Calls,
    CoarsePurifier,
    EnergyPurifier,
    Images,
    NoisyPurifier,
    Purifier,
    SharingPurifier,
    SteppedPurifier,
    View,
    WarmAttack,
)
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel, parse_eps
from bench.errors import AttackWarning, BenchError, CheckpointError, PluginError
from bench.models.published import PackagedFile, PublishedFile
from bench.models.trainable import (
    Negatives,
    Task,
    Trainable,
    TrainableClassifier,
    TrainablePurifier,
    Training,
)
from bench.plugins.added import added
from bench.plugins.certified import CertifiedPurifier
from bench.plugins.state_dicts import load_weights

if TYPE_CHECKING:
    from bench.scripting.audit import audit
    from bench.scripting.evaluate import evaluate
    from bench.scripting.judge import judge

_LATER = ("audit", "evaluate", "judge")  # modules of bench.scripting and their functions

__all__ = [
    "LOSSES", "Access", "Attack", "AttackWarning", "Averaged", "AveragedGradient", "Ball",
    "BenchError", "Calls", "CertifiedPurifier", "CheckpointError", "CoarsePurifier", "Defense",
    "EnergyPurifier", "Images", "Loss", "LossName", "Negatives", "NoisyPurifier", "Norm",
    "PackagedFile", "PluginError", "PublishedFile", "Purifier", "Rng", "SharingPurifier",
    "SteppedPurifier", "Task", "ThreatModel", "Towards", "Trainable", "TrainableClassifier",
    "TrainablePurifier", "Training", "View", "WarmAttack", "added", "audit",
    "averaged_gradient", "averaged_loss", "counted_as", "cross_entropy", "dlr", "evaluate",
    "in_blocks", "judge", "load_weights", "margin", "parse_eps", "per_image", "project",
    "read_weights", "size", "steepest",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"bench.scripting.{name}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
