"""Checkpoints: safetensors and a JSON card, verified by digest, never unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import CheckpointError, StoreError
from bench.results.cell import digest_of
from bench.results.files import read_json, write_json, written

# What a checkpoint depends on: these fields of its card name its file.
IDENTITY = ("name", "revision", "recipe", "dataset", "data", "classifier")
SOMETIMES = ("source",)  # of a plugin in a file


def digest(path: Path) -> str:
    """Hash a checkpoint's bytes with SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_checkpoint(path: Path, weights: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    """Write weights, then the card that vouches for them; return the digest."""
    from safetensors.torch import save

    packed = save({k: v.detach().cpu().contiguous() for k, v in weights.items()})
    with written(path) as temporary:
        temporary.write_bytes(packed)  # not the library's writer: a full disk has one error
    found = hashlib.sha256(packed).hexdigest()
    write_json(path.with_suffix(".json"), {**card, "sha256": found})
    return found


def complete(path: Path) -> bool:
    """Whether a checkpoint and its card are there."""
    return path.is_file() and path.with_suffix(".json").is_file()


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read weights and their digest; raises CheckpointError for anything but our own file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    again = f"Delete it and its card and run the command again, or restore {path.name}."
    try:
        found = digest(path)
        card = read_card(path)
        vouched = card.get("sha256")
        if found != vouched:
            raise CheckpointError(
                f"{path} is damaged or not the file its card describes: {_kind(path)}, SHA-256 "
                f"{found[:16]} instead of {str(vouched)[:16]}. {again}"
            )
        weights = load_file(path)
        if not is_card_of(card, path):
            raise CheckpointError(
                f"the card of {path} describes another training than the one that its name "
                f"stands for: files were exchanged or renamed. {again}"
            )
        return weights, found
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}. {again}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no safetensors file ({_kind(path)}): {error}. {again}"
        ) from error


def is_card_of(card: Mapping[str, Any], path: Path) -> bool:
    """Whether a card's training is the one whose digest ends the name of the file."""
    try:
        about = {name: card[name] for name in IDENTITY}
        about |= {name: card[name] for name in SOMETIMES if name in card}
        return digest_of(about).startswith(path.stem.rpartition("-")[2])
    except (KeyError, TypeError, ValueError):
        return False


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of a checkpoint; raises CheckpointError where it cannot vouch."""
    try:
        card = read_json(path.with_suffix(".json"))
        return card | {"sha256": card["sha256"], "metrics": card.get("metrics", {})}
    except (StoreError, KeyError) as error:
        raise CheckpointError(
            f"the card of {path} is missing or damaged. Delete it and its card and run the "
            "command again, or restore both."
        ) from error


def _kind(path: Path) -> str:
    start = path.read_bytes()[:512].lstrip()
    if not start:
        return "it is empty"
    if start[:1] == b"<":
        return "it is an HTML page"
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return "it is a pickle"
    return f"{path.stat().st_size} bytes"
