"""Attacks of ART, the Adversarial Robustness Toolbox: objects that work on numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.threat import Norm
from bench.plugins.libraries.library import BOTH, L2, LINF, Job, Known, Library


def run(job: Job) -> Tensor:
    """Attack the block as arrays on the CPU; the network stays on its device."""
    from art.estimators.classification import PyTorchClassifier

    x = job.x
    on_gpu = x.device.type == "cuda"
    with (
        torch.cuda.device(x.device) if on_gpu else nullcontext(),
        torch.random.fork_rng(devices=()),  # its loaders draw from torch and nothing else does
        seeded_states(),
    ):
        classifier = PyTorchClassifier(
            job.model,
            nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=job.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if on_gpu else "cpu",
        )
        norm = math.inf if job.norm is Norm.LINF else 2
        attack = job.make(classifier, **job.arguments(norm))
        for inner in getattr(attack, "attacks", ()):  # of AutoAttack
            inner.verbose = False
        found = attack.generate(x.cpu().numpy(), job.y.cpu().numpy())
    return torch.from_numpy(found)


@contextmanager
def seeded_states() -> Iterator[None]:
    """Seed the generators that ART opens without a seed, so that a block repeats itself."""
    unseeded = np.random.RandomState

    class Seeded(np.random.RandomState):
        def __init__(self, seed: Any = None) -> None:
            super().__init__(np.random.randint(2**31) if seed is None else seed)

    # A class is assigned on purpose: ART asks numpy for it by name.
    np.random.RandomState = Seeded  # type: ignore[misc]
    try:
        yield
    finally:
        np.random.RandomState = unseeded  # type: ignore[misc]


def _pgd(p: Any) -> float:
    return float(2 + max(1, p.num_random_init) * (p.max_iter + 2))


def _auto(p: Any) -> float:
    return float(4 + max(1, p.nb_random_init) * (5 * p.max_iter + 4))


KNOWN = {
    "FastGradientMethod": Known(
        BOTH,
        lambda p: 4 + max(1, p.num_random_init) * 3 + 2 * p.minimal / max(1e-3, p.eps_step),
    ),
    "BasicIterativeMethod": Known(LINF, lambda p: p.max_iter + 4),
    "MomentumIterativeMethod": Known(BOTH, lambda p: p.max_iter + 4),
    "ProjectedGradientDescent": Known(BOTH, _pgd),
    "ProjectedGradientDescentNumpy": Known(BOTH, _pgd),
    "ProjectedGradientDescentPyTorch": Known(BOTH, _pgd),
    "AutoProjectedGradientDescent": Known(BOTH, _auto),
    "AutoConjugateGradient": Known(BOTH, _auto),
    "RescalingAutoConjugateGradient": Known(BOTH, _auto),
    "AutoAttack": Known(BOTH, lambda p: 10 * 510 + 110 * (p.classes + 2) + 76_000),
    "DeepFool": Known(L2, lambda p: 2 + (p.max_iter + 1) * (p.classes + 2), minimal=True),
    "NewtonFool": Known(L2, lambda p: 2 + p.max_iter * (p.classes + 2), minimal=True),
    "CarliniL2Method": Known(
        L2,
        lambda p: (
            2 + p.binary_search_steps * (1 + p.max_iter * (3 + p.max_halving + p.max_doubling))
        ),
        minimal=True,
    ),
    "BoundaryAttack": Known(
        L2,
        lambda p: 4 + p.init_size + p.max_iter * p.num_trial * (p.sample_size + p.sample_size),
        query=True,
        minimal=True,
    ),
    "HopSkipJump": Known(
        BOTH,
        lambda p: 100 + p.init_size + p.max_iter * (p.max_eval + 250),
        query=True,
        minimal=True,
    ),
    "SignOPTAttack": Known(
        L2, lambda p: p.query_limit + 60 * p.num_trial + p.k + 1500, query=True, minimal=True
    ),
    "SquareAttack": Known(BOTH, lambda p: 2 + p.nb_restarts * (3 * p.max_iter + 6), query=True),
    "ZooAttack": Known(
        L2,
        lambda p: 2 + p.binary_search_steps * p.max_iter * (2 * p.nb_parallel + 2),
        query=True,
        minimal=True,
    ),
}
LIBRARY = Library(
    prefix="art",
    distribution="adversarial-robustness-toolbox",
    module="art.attacks.evasion",
    known=KNOWN,
    run=run,
    refused={
        **dict.fromkeys(
            ("CarliniL0Method", "ElasticNet", "PixelAttack", "SaliencyMapMethod"),
            "its norm is L0 or L1, and a ball here is Linf or L2",
        ),
        **dict.fromkeys(
            ("SimBA", "VirtualAdversarialMethod"), "it needs probabilities in place of logits"
        ),
        **dict.fromkeys(
            ("TargetedUniversalPerturbation", "UniversalPerturbation"),
            "it makes one perturbation for all images",
        ),
        "CarliniLInfMethod": "its search has no bound on its cost: see advlib:",
        "GeoDA": "its search has no bound on its cost",
    },
)
