"""All that a plugin may import: nothing else of ``bench`` is public."""

from bench.core.defense import Defense, read_weights
from bench.core.eot import Averaged, AveragedGradient, averaged_gradient, averaged_loss
from bench.core.geometry import Ball, per_image, project, size, steepest
from bench.core.losses import LOSSES, Loss, LossName, cross_entropy, dlr, margin
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
from bench.models.trainable import (
    Negatives,
    Task,
    Trainable,
    TrainableClassifier,
    TrainablePurifier,
    Training,
)

__all__ = [
    "LOSSES", "Access", "Attack", "AttackWarning", "Averaged", "AveragedGradient",
    "Ball", "BenchError", "Calls", "CheckpointError", "CoarsePurifier", "Defense",
    "EnergyPurifier", "Images", "Loss", "LossName", "Negatives", "NoisyPurifier", "Norm",
    "PluginError", "Purifier", "Rng", "SharingPurifier", "SteppedPurifier", "Task",
    "ThreatModel", "Trainable",
    "TrainableClassifier", "TrainablePurifier", "Training", "View", "WarmAttack",
    "averaged_gradient", "averaged_loss", "cross_entropy", "dlr", "margin", "parse_eps",
    "per_image", "project", "read_weights", "size", "steepest",
]  # fmt: skip
