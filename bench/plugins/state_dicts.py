"""Weights from a file into a network: what people save, read without running code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.errors import CheckpointError, UsageError, near_files

Network = TypeVar("Network", bound=nn.Module)
# Where training scripts put the network's tensors, the usual name first.
_PLACES = ("state_dict", "model_state_dict", "model", "net", "network")
_COUNTER = "num_batches_tracked"  # of batch norms; files from before it was kept lack it
_NAMED = 3  # names of a kind in an error


def load_weights(network: Network, path: Path | str) -> Network:
    """Load a file's tensors into a network and return it.

    The file is a state dict as torch.save wrote it, by itself or in a checkpoint under
    ``state_dict``, ``model`` and the like, or a .safetensors file. One prefix before all names,
    such as ``module.``, may differ. Raises UsageError without a file, CheckpointError where it
    does not fit.
    """
    return fitted(network, read_state(path), whose=type(network).__name__, path=path)


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a file by name; raises UsageError or CheckpointError."""
    place = Path(path).expanduser()
    if not place.is_file():
        raise UsageError(
            f"there is no file of weights {path} (in {Path.cwd()}). {near_files(place)}"
        )
    if place.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(place)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{place.name} is no safetensors file: {error}.") from error
    try:
        content = torch.load(place, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        strange = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = "is no file that torch.save wrote, or it is damaged"
        if strange:
            what = f"holds Python objects ({strange[1]}), and loading them might run code"
        raise CheckpointError(
            f"{place.name} {what}. Save only tensors: torch.save(network.state_dict(), FILE)."
        ) from error
    except (EOFError, OSError, RuntimeError, ValueError, LookupError) as error:
        # Text that is no pickle ends in a KeyError of one byte: the type says more than that.
        first = str(error).partition("\n")[0].rstrip(".")
        raise CheckpointError(
            f"{place.name} cannot be read as weights ({type(error).__name__}: {first}): it is "
            "damaged, or torch.save did not write it. Save them with "
            "torch.save(network.state_dict(), FILE)."
        ) from error
    return _tensors(content, place)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what was saved; raises CheckpointError."""
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path.name} holds a {type(content).__name__}, not a state dict. Save it with "
            "torch.save(network.state_dict(), FILE)."
        )
    inner = {name: value for name, value in content.items() if _has_tensors(value)}
    place = next((name for name in _PLACES if name in inner), None)
    if place is None and len(inner) == 1 and not _has_tensors(content):
        (place,) = inner
    if place is not None:
        content = inner[place]
    elif inner:
        raise CheckpointError(
            f"{path.name} has several networks ({', '.join(map(str, inner))}). Save the one "
            "that is meant by itself: torch.save(network.state_dict(), FILE)."
        )
    if not _has_tensors(content):
        raise CheckpointError(f"{path.name} has no tensors. Save network.state_dict() in it.")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _has_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())


def fitted(
    network: Network, state: Mapping[str, Tensor], *, whose: str, path: Path | str
) -> Network:
    """Load tensors into a network and return it; raises CheckpointError where they differ."""
    wanted = network.state_dict()
    given = renamed(state, wanted)
    missing = [name for name in wanted if name not in given and not name.endswith(_COUNTER)]
    strange = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if missing or strange or shapes:
        said = [
            f"{len(names)} {what} ({_few(names)})"
            for names, what in (
                (missing, "missing"),
                (strange, "unexpected"),
                (shapes, "of another shape"),
            )
            if names
        ]
        raise CheckpointError(
            f"the weights in {Path(path).name} do not fit {whose}, which has {len(wanted)} "
            f"tensors: {', '.join(said)}. {_advice(given, wanted)}"
        )
    network.load_state_dict(given, strict=False)
    return network


def renamed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Exchange the prefixes that all names share, such as 'module.', where no name fits."""
    given, own = dict(state), _prefix(wanted)
    while True:
        for added in ("", own):
            found = {added + name: tensor for name, tensor in given.items()}
            if found.keys() & wanted.keys():
                return found
        if not (shared := _prefix(given)):
            return dict(state)
        given = {name.removeprefix(shared): tensor for name, tensor in given.items()}


def _prefix(names: Iterable[str]) -> str:
    """Return the first part that all names share, with its dot; '' where they share none."""
    firsts = {name.partition(".")[0] for name in names if "." in name}
    return f"{firsts.pop()}." if len(firsts) == 1 and all("." in name for name in names) else ""


def _advice(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Say what may be the reason: a part of the network, or another one."""
    for name in wanted:
        part, dot, _ = name.partition(".")
        inside = {
            inner.removeprefix(f"{part}."): tensor.shape
            for inner, tensor in wanted.items()
            if inner.startswith(f"{part}.")
        }
        if dot and inside == {inner: tensor.shape for inner, tensor in given.items()}:
            return f"They are those of its part '{part}' only: load them there."
    return "Name the network, and the parameters, that they were trained with."


def _few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
