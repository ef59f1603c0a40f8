"""All that a plugin may import: nothing else of ``bench`` is public."""

from bench.defense import Defense
from bench.errors import AttackWarning, BenchError, CheckpointError, PluginError
from bench.geometry import Ball, per_image, project, size, steepest
from bench.gradient import Averaged, AveragedGradient, averaged_gradient, averaged_loss
from bench.losses import LOSSES, Loss, LossName, cross_entropy, dlr, margin
from bench.protocols import (
    Attack,
    Calls,
    CoarsePurifier,
    EnergyPurifier,
    Images,
    Negatives,
    NoisyPurifier,
    Purifier,
    SharingPurifier,
    SteppedPurifier,
    Task,
    Trainable,
    TrainableClassifier,
    TrainablePurifier,
    Training,
    View,
    WarmAttack,
)
from bench.rng import Rng
from bench.threat import Access, Norm, ThreatModel, parse_eps
from bench.weights import read_weights

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
