"""Attacks of adversarial-library (adv-lib): functions of a network, images and labels."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from bench.core.threat import Norm
from bench.plugins.libraries.library import BOTH, L2, LINF, Job, Known, Library


def run(job: Job) -> Tensor:
    """Attack the block."""
    norm = math.inf if job.norm is Norm.LINF else 2.0
    found: Tensor = job.make(job.model, job.x, job.y, **job.arguments(norm))
    return found


def _apgd(p: Any) -> float:
    return float(p.n_restarts * (p.n_iter + 1) * p.eot_iter)


def _fab(p: Any) -> float:
    runs = p.restarts or (p.classes if p.targeted_restarts else 1)
    return float(3 + runs * (2 + p.n_iter * (p.classes + 1)))


def _carlini_linf(p: Any) -> float:
    """Count the rounds: each shrinks the radius by a factor or raises the constant by one."""
    shrunk = math.log(255) / -math.log(p.decrease_factor)
    raised = math.log(p.largest_const / p.initial_const) / math.log(p.const_factor)
    return float((2 * shrunk + raised + 3) * (p.max_iterations + 1))


KNOWN = {
    "alma": Known(L2, lambda p: p.num_steps, minimal=True),
    "apgd": Known(BOTH, _apgd),
    "apgd_targeted": Known(BOTH, lambda p: 1 + _apgd(p) * (p.num_targets or p.classes - 1)),
    "carlini_wagner_l2": Known(
        L2, lambda p: p.binary_search_steps * p.max_iterations, minimal=True
    ),
    "carlini_wagner_linf": Known(LINF, _carlini_linf, minimal=True),
    "ddn": Known(L2, lambda p: p.steps, minimal=True),
    "df": Known(BOTH, lambda p: p.steps * p.classes, minimal=True),
    "fab": Known(BOTH, _fab),
    "fmn": Known(BOTH, lambda p: p.steps, minimal=True),
    "pdgd": Known(L2, lambda p: p.num_steps, minimal=True),
    "pdpgd": Known(BOTH, lambda p: p.num_steps, minimal=True),
    "pgd_linf": Known(LINF, lambda p: p.restarts * (p.steps + 1)),
    "sdf": Known(
        L2,
        lambda p: p.steps * (p.df_steps * p.classes + 3 + p.search_iter),
        minimal=True,
    ),
    "tr": Known(
        BOTH,
        lambda p: p.iter * (p.classes + 4),
        minimal=True,
        own=("eps",),  # the size of its steps
    ),
}

_OTHER_NORM = "it bounds no pixels, and a ball here is Linf or L2"
LIBRARY = Library(
    prefix="advlib",
    distribution="adv-lib",
    module="adv_lib.attacks",
    known=KNOWN,
    run=run,
    refused=dict.fromkeys(("fga", "perc_al", "sigma_zero", "str_attack", "vfga"), _OTHER_NORM),
    hint=(
        " (its visdom builds with setuptools < 82: pip install 'setuptools<82', then "
        "pip install --no-build-isolation visdom)"
    ),
)
