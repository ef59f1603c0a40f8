"""Run an attack on one block of images and keep what it proposed, with its cost and flags."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core.access import Gradients
from bench.core.border import blamed, plain_images
from bench.core.device import synchronize
from bench.core.passes import count_passes
from bench.core.protocols import Attack, Images, View, WarmAttack
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.errors import AttackWarning, PluginError, StoreError
from bench.results.files import written


@dataclass(frozen=True)
class Proposal:
    """Images x_adv (N, C, H, W), with flags, passes by network, and seconds."""

    x_adv: Tensor
    flags: tuple[str, ...]
    passes: Mapping[str, int]
    seconds: float


def propose(
    attack: Attack,
    view: View,
    images: Images,
    *,
    threat: ThreatModel,
    seed: int,
    networks: Mapping[str, nn.Module],
    path: Path | None = None,
    start: Tensor | None = None,
) -> Proposal:
    """Attack a block, or read what an earlier run proposed at a path; raises PluginError.

    A ``WarmAttack`` begins at ``start`` (N, C, H, W), where it is given; others refuse it.
    """
    if path is not None and path.is_file():
        return _read(path, images.x)
    if start is not None and not isinstance(attack, WarmAttack):
        raise PluginError(
            f"{type(attack).__name__} cannot begin at another attack's images. Give start to "
            "attacks that have `warm` only."
        )
    rng = Rng.seeded(seed, images.indices).fork("attack")
    # What an attack writes into must not be what the judge compares with.
    x, y = images.x.clone(), images.y.clone()
    synchronize(x.device)
    begun = time.perf_counter()
    name = f"the attack {type(attack).__name__}"
    with (
        warnings.catch_warnings(record=True) as caught,
        count_passes(networks) as passes,
        blamed(name),
    ):
        warnings.simplefilter("always", AttackWarning)
        if start is not None and isinstance(attack, WarmAttack):
            x_adv = attack(view, x, y, threat=threat, rng=rng, start=start)
        else:
            x_adv = attack(view, x, y, threat=threat, rng=rng)
    synchronize(x.device)
    seconds = time.perf_counter() - begun
    for warning in caught:
        if not issubclass(warning.category, AttackWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    # Before it is stored: what is refused must not be found again by the next run.
    x_adv = plain_images(x_adv, images.x, rows=len(images), whose=name)
    flags = [str(w.message) for w in caught if issubclass(w.category, AttackWarning)]
    if lost := getattr(view, "gradients", Gradients()).flag():
        flags.append(lost)
    proposal = Proposal(x_adv, tuple(dict.fromkeys(flags)), dict(passes), seconds)
    if path is not None:
        keep(path, proposal)
    return proposal


def keep(path: Path, proposal: Proposal) -> None:
    """Write a proposal where ``propose`` finds it."""
    from safetensors.torch import save

    x_adv = proposal.x_adv.cpu().contiguous()
    about = {
        "flags": list(proposal.flags),
        "passes": dict(proposal.passes),
        "seconds": proposal.seconds,
        "sha256": _digest(x_adv),
    }
    packed = save({"x_adv": x_adv}, {"about": json.dumps(about)})
    with written(path) as temporary:
        temporary.write_bytes(packed)


def _read(path: Path, x: Tensor) -> Proposal:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            x_adv = file.get_tensor("x_adv")
            about = json.loads(file.metadata()["about"])
        if x_adv.shape != x.shape or about.get("sha256") not in (None, _digest(x_adv)):
            raise ValueError("it is not what was written")
        passes = {str(name): int(count) for name, count in about["passes"].items()}
        flags = tuple(map(str, about["flags"]))
        return Proposal(x_adv.to(x.device), flags, passes, float(about["seconds"]))
    except (AttributeError, LookupError, OSError, SafetensorError, TypeError, ValueError) as e:
        raise StoreError(
            f"cannot read the attack's images {path}: {e}. Delete the file to remake them."
        ) from e


def _digest(x: Tensor) -> str:
    return hashlib.sha256(x.view(torch.uint8).numpy().tobytes()).hexdigest()
