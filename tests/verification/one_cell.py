"""The cell that this room's tests verify and judge again, and where its files are."""

from __future__ import annotations

from pathlib import Path

from bench.results.store import Store

TINY = ("--set=classifier.training.epochs=1", "-n", "6", "--draws=3", "--shard=4")
NOISE = ("--attack=noise", "--set=attack.tries=2", "--eps=0.21")
RUN = ("run", "--defense=gaussian", *NOISE, *TINY)


def only(folder: Path) -> Path:
    """Find the folder of the only cell."""
    (cell,) = Store(folder).cells()
    return cell


def images(folder: Path) -> Path:
    """Find the first file of proposed images."""
    return sorted((folder / "images").rglob("*.safetensors"))[0]
