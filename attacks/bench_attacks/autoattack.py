"""AutoAttack as its authors publish it, with its side effects on global state undone.

AutoAttack, with APGD and the DLR loss: Croce and Hein 2020, "Reliable evaluation of adversarial
robustness with an ensemble of diverse parameter-free attacks", arXiv 2003.01690. FAB: Croce and
Hein 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack",
arXiv 1907.02044. Square: see square.py.
"""

from __future__ import annotations

import logging
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import ClassVar, Literal

import numpy as np
import pyautoattack
import pyautoattack.checks
import torch
from torch import Tensor

from bench.api import Access, AttackWarning, Calls, Norm, Rng, ThreatModel, View, per_image

_LOGGER = logging.getLogger("auto-attack")

Version = Literal["auto", "standard", "rand"]


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack (Croce and Hein 2020, arXiv 2003.01690): the package pyautoattack, unchanged.

    ``version``: ``standard`` (APGD-CE, APGD-T, FAB-T, Square), ``rand`` (APGD-CE and APGD-DLR
    with 20 draws), or ``auto``: rand for a stochastic view, standard otherwise. What is given
    is one batch, since the library's result depends on it. Attacks that the library cannot run
    (DLR with fewer than 4 classes, Square L2 below 5 pixels) are left out. Its warnings, the
    seed and what was left out come as AttackWarning. A failed image comes back clean. Where a
    gradient is NaN a pixel stays, for L2 where it is infinite too, as in the other attacks.
    """

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[tuple[Access, ...]] = (Access.TRANSFER, Access.BPDA, Access.FULL)
    unbounded: ClassVar[bool] = False

    version: Version = "auto"

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        """Return adversarial images (N, C, H, W) where it found some, else the clean ones."""
        version = self.resolved(view.stochastic)
        with torch.no_grad():
            classes = view.classify(x[:1]).shape[1]
        seed = rng.integer()
        flags = [f"pyautoattack {installed('pyautoattack')} {version} seed {seed}"]
        model = _Model(view, rng, threat.norm)
        with undone(), logged() as warned:
            library = pyautoattack.AutoAttack(
                model,
                device=x.device,
                eps=threat.radius,
                norm=threat.norm.value,
                seed=seed,
                version=version,
            )
            targets = min(9, classes - 1)
            library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
            left_out = impossible(classes, x, threat.norm) & set(library.attacks_to_run)
            # Leaving attacks out here keeps the version's own draws and restarts.
            library.attacks_to_run = [a for a in library.attacks_to_run if a not in left_out]
            flags += [
                f"left out {name}: too few classes or pixels" for name in sorted(left_out)
            ]
            x_adv: Tensor = library.run_standard_evaluation(x, y, batch_size=len(x))[0]
        broken = x_adv.isnan().flatten(1).any(1)
        if bool(broken.any()):
            flags.append(f"pyautoattack returned NaN for {int(broken.sum())} images")
            x_adv = torch.where(per_image(broken, x), x, x_adv)
        for text in dict.fromkeys(flags + warned):
            warnings.warn(text, AttackWarning, stacklevel=2)
        return x_adv

    def resolved(self, stochastic: bool) -> Literal["standard", "rand"]:
        """Return the version that runs against a view."""
        if self.version == "auto":
            return "rand" if stochastic else "standard"
        return self.version

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        """Bound the cost of one image that is never broken, counted in the library's source."""
        targets = min(9, classes - 1)
        apgd = 101  # gradients of one run: 100 steps and the start
        ranked = classes >= 4
        if self.resolved(stochastic) == "rand":
            runs = 2 if ranked else 1
            return Calls(forward=3 + 2 * runs, backward=runs * 20 * apgd)
        fab = targets * (1 + 1 + 100 + 1) + 2
        forward = 8 + 2 + (targets + 2 if ranked else 0) + fab + 5004
        return Calls(
            forward=forward, backward=apgd + (targets * apgd if ranked else 0) + targets * 100
        )


def impossible(classes: int, x: Tensor, norm: Norm) -> set[str]:
    """Name the attacks that the library cannot run on such images (N, C, H, W)."""
    names: set[str] = set()
    if classes < 4:  # the targeted DLR loss ranks four classes, the other one three
        names |= {"apgd-t", "apgd-dlr"}
    if norm is Norm.L2 and min(x.shape[2:]) < 5:  # it starts from a grid of 5 x 5 tiles
        names |= {"square"}
    return names


class _Model:
    """The view as the library calls it; noise depends on the number of the call and the row.

    The library attacks subsets of its batch and does not say which, so a row's stream belongs
    to its position and not to its image.
    """

    def __init__(self, view: View, rng: Rng, norm: Norm) -> None:
        self.view = view
        self.rng = rng
        self.calls = 0
        # The library divides an L2 gradient by its length; of a Linf one it takes the sign.
        self.infinite = 0.0 if norm is Norm.L2 else None

    def __call__(self, x: Tensor) -> Tensor:
        rng = self.rng.fork("call", self.calls)[: len(x)]
        self.calls += 1
        if x.requires_grad and torch.is_grad_enabled():
            x = x.view_as(x)  # so that the hook is that of this call
            x.register_hook(self._finite)  # type: ignore[no-untyped-call]  # torch's has no types
        return self.view(x, rng=rng)

    def _finite(self, gradient: Tensor) -> Tensor:
        return gradient.nan_to_num(nan=0.0, posinf=self.infinite, neginf=self.infinite)


@contextmanager
def undone() -> Iterator[None]:
    """Restore every generator, the trace function and the library's counters afterwards."""
    counters = pyautoattack.checks.funcs
    saved = random.getstate(), np.random.get_state(), sys.gettrace(), dict(counters)
    # It seeds all devices, but reading the state of an unused one would start CUDA on it.
    devices = range(torch.cuda.device_count()) if _cuda_started() else ()
    counters.update(dict.fromkeys(counters, 0))  # else one dynamic defense marks all later ones
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        sys.settrace(saved[2])
        counters.update(saved[3])


def _cuda_started() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch's has no types


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the library's warnings, which are log lines, instead of printing them."""
    texts: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    handler = Collect(logging.WARNING)
    propagate = _LOGGER.propagate
    _LOGGER.addHandler(handler)
    _LOGGER.propagate = False
    try:
        yield texts
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.propagate = propagate
