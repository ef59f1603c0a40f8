"""Attacks of foolbox: objects that get a model, images, labels and a radius."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from bench.core.geometry import per_image
from bench.core.threat import Norm
from bench.plugins.libraries.library import BOTH, L2, LINF, Job, Known, Library

_START = 1000 + 51 + 1  # rows of the search for a wrong start: directions, a line, a check


def run(job: Job) -> Tensor:
    """Attack the block; foolbox clips what leaves the ball, as we do."""
    import foolbox

    model = foolbox.PyTorchModel(job.model, bounds=(0, 1), device=job.x.device)
    asked = inspect.signature(job.make).parameters
    linf = job.norm is Norm.LINF
    norm: dict[str, Any] = {}
    if "distance" in asked:
        norm["distance"] = foolbox.distances.linf if linf else foolbox.distances.l2
    if "constraint" in asked:
        norm["constraint"] = "linf" if linf else "l2"
    attack = job.make(**norm, **job.params)
    radius = job.radius if math.isfinite(job.radius) else None
    if job.known.steady:
        return _from_a_wrong_start(attack, model, job, radius)
    found: Tensor = attack(model, job.x, job.y, epsilons=radius)[1]
    return found


def _from_a_wrong_start(attack: Any, model: Any, job: Job, radius: float | None) -> Tensor:
    """Run an attack that fails for a whole block if one image has no misclassified start.

    The start is foolbox's own default. Images without one are given a label for which they
    have one, and come back clean.
    """
    import foolbox

    search = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
    start = search.run(model, job.x, foolbox.criteria.Misclassification(job.y))
    with torch.no_grad():
        seen = job.model(start).argmax(1)
    wrong = seen != job.y
    labels = torch.where(wrong, job.y, (seen + 1) % job.classes)
    found: Tensor = attack(model, job.x, labels, epsilons=radius, starting_points=start)[1]
    return torch.where(per_image(wrong, job.x), found, job.x)


def _steps(p: Any) -> float:
    return float(p.steps + 1)


def _noise(p: Any) -> float:
    return float(2 + getattr(p, "repeats", 1))


def _hop_skip_jump(p: Any) -> float:
    """Count the directions tried, and the searches for a step and for the boundary."""
    first, most = p.initial_gradient_eval_steps, p.max_gradient_eval_steps
    tried = sum(min(first * math.sqrt(step + 1), most) for step in range(p.steps))
    searches = 1000 if p.stepsize_search == "grid_search" else 250
    return float(_START + 60 + tried + p.steps * searches)


KNOWN: dict[str, Known] = {
    **{
        f"{norm}{name}": Known(LINF if norm == "Linf" else L2, _steps)
        for norm in ("L2", "Linf")
        for name in (
            "AdamBasicIterativeAttack",
            "AdamPGD",
            "AdamProjectedGradientDescentAttack",
            "BasicIterativeAttack",
            "MomentumIterativeFastGradientMethod",
            "PGD",
            "ProjectedGradientDescentAttack",
        )
    },
    **{name: Known(LINF, _steps) for name in ("AdamPGD", "MIFGSM", "PGD")},
    **{name: Known(LINF, 2) for name in ("FGSM", "LinfFastGradientAttack")},
    **{name: Known(L2, 2) for name in ("FGM", "L2FastGradientAttack")},
    "DDNAttack": Known(L2, _steps, minimal=True),
    "L2CarliniWagnerAttack": Known(
        L2, lambda p: 1 + p.binary_search_steps * (p.steps + 1), minimal=True
    ),
    "NewtonFoolAttack": Known(L2, _steps, minimal=True),
    "VirtualAdversarialAttack": Known(L2, lambda p: p.steps + 2),
    **{
        f"{norm}DeepFoolAttack": Known(
            known, lambda p: 2 + (p.steps + 1) * (p.candidates or p.classes), minimal=True
        )
        for norm, known in (("L2", L2), ("Linf", LINF))
    },
    **{
        f"{norm}FMNAttack": Known(known, _steps, minimal=True)
        for norm, known in (("L2", L2), ("LInf", LINF))
    },
    **{
        f"{norm}BrendelBethgeAttack": Known(
            known,
            lambda p: _START + 2 * p.steps + p.binary_search_steps + 4,
            minimal=True,
            steady=True,
        )
        for norm, known in (("L2", L2), ("Linfinity", LINF))
    },
    "BoundaryAttack": Known(
        L2, lambda p: 2 + _START + 2 * p.steps, query=True, minimal=True, steady=True
    ),
    "HopSkipJumpAttack": Known(BOTH, _hop_skip_jump, query=True, minimal=True, steady=True),
    "SaltAndPepperNoiseAttack": Known(L2, lambda p: p.steps + 2, query=True, minimal=True),
    "L2ContrastReductionAttack": Known(L2, 2, query=True),
    "BinarySearchContrastReductionAttack": Known(
        BOTH, lambda p: p.binary_search_steps + 2, query=True, minimal=True
    ),
    "LinearSearchContrastReductionAttack": Known(BOTH, _steps, query=True, minimal=True),
    "LinearSearchBlendedUniformNoiseAttack": Known(
        BOTH, lambda p: p.directions + p.steps + 2, query=True, minimal=True
    ),
    "GaussianBlurAttack": Known(BOTH, lambda p: p.steps + 2, query=True, minimal=True),
    "InversionAttack": Known(BOTH, 2, query=True, minimal=True),
    **{
        f"L2{aware}{repeated}Additive{kind}NoiseAttack": Known(L2, _noise, query=True)
        for aware in ("", "ClippingAware")
        for repeated in ("", "Repeated")
        for kind in ("Gaussian", "Uniform")
    },
    "LinfAdditiveUniformNoiseAttack": Known(LINF, _noise, query=True),
    "LinfRepeatedAdditiveUniformNoiseAttack": Known(LINF, _noise, query=True),
}

LIBRARY = Library(
    prefix="foolbox",
    distribution="foolbox",
    module="foolbox.attacks",
    known=KNOWN,
    run=run,
    refused={
        "BinarizationRefinementAttack": "it starts from the images of another attack",
        "GenAttack": "it needs a class to aim at",
        "DatasetAttack": "it starts from other images, which have to be fed to it",
        "PointwiseAttack": "it shrinks the images of another attack pixel by pixel",
        "SpatialAttack": "it turns and shifts images, and no ball bounds that",
        **dict.fromkeys(
            (
                "EADAttack",
                "L0BrendelBethgeAttack",
                "L0FMNAttack",
                "L1AdamBasicIterativeAttack",
                "L1AdamPGD",
                "L1AdamProjectedGradientDescentAttack",
                "L1BasicIterativeAttack",
                "L1BrendelBethgeAttack",
                "L1FMNAttack",
                "L1FastGradientAttack",
                "L1MomentumIterativeFastGradientMethod",
                "L1PGD",
                "L1ProjectedGradientDescentAttack",
                "SparseL1DescentAttack",
            ),
            "its norm is L0 or L1, and a ball here is Linf or L2",
        ),
    },
)
