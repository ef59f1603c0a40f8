"""Attacks of torchattacks: classes that get a network, then images and labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.errors import PluginError
from bench.plugins.libraries.library import BOTH, L2, LINF, Job, Known, Library

_COLOUR = ("TIFGSM", "PIFGSM", "PIFGSMPP")  # their kernels have three channels


def run(job: Job) -> Tensor:
    """Attack the block; all that it draws but the start of some attacks is torch's."""
    if job.make.__name__ in _COLOUR and job.x.shape[1] != 3:
        raise PluginError(
            f"{job.make.__name__} of torchattacks needs images of three channels, and these "
            f"have {job.x.shape[1]}. Choose another attack."
        )
    attack = job.make(job.model, **job.arguments(job.norm.value))
    found: Tensor = attack(job.x, job.y)
    return found


def _autoattack(p: Any) -> float:
    targets = min(9, p.classes - 1)
    apgd, fab = 11, 1 + 10 * (2 + targets)
    if p.version == "rand":
        return 2 * (20 * apgd + 4)
    restarts = 5 if p.version == "plus" else 1
    rows: float = (
        (2 * restarts + targets) * (apgd + 4) + (targets + restarts) * (fab + 4) + 5010
    )
    return rows


KNOWN = {
    "FGSM": Known(LINF, 1),
    "FFGSM": Known(LINF, 1),
    "BIM": Known(LINF, lambda p: p.steps),
    "RFGSM": Known(LINF, lambda p: p.steps),
    "PGD": Known(LINF, lambda p: p.steps),
    "EOTPGD": Known(LINF, lambda p: p.steps * p.eot_iter),
    "TPGD": Known(LINF, lambda p: p.steps + 1),
    "MIFGSM": Known(LINF, lambda p: p.steps),
    "UPGD": Known(LINF, lambda p: p.steps * p.eot_iter),
    "APGD": Known(BOTH, lambda p: 2 + p.n_restarts * ((p.steps + 1) * p.eot_iter + 1)),
    "APGDT": Known(
        BOTH,
        lambda p: 2 + (p.classes - 1) * p.n_restarts * ((p.steps + 1) * p.eot_iter + 2),
    ),
    "DIFGSM": Known(LINF, lambda p: p.steps),
    "TIFGSM": Known(LINF, lambda p: p.steps),
    "Jitter": Known(LINF, lambda p: p.steps),
    "NIFGSM": Known(LINF, lambda p: p.steps),
    "PGDRS": Known(LINF, lambda p: p.steps * p.noise_batch_size),
    "SINIFGSM": Known(LINF, lambda p: p.steps * p.m),
    "VMIFGSM": Known(LINF, lambda p: p.steps * (p.N + 1)),
    "VNIFGSM": Known(LINF, lambda p: p.steps * (p.N + 1)),
    "SPSA": Known(LINF, lambda p: 2 * p.nb_iter * (p.nb_sample + p.max_batch_size), query=True),
    "PIFGSM": Known(LINF, lambda p: p.num_iter_set),
    "PIFGSMPP": Known(LINF, lambda p: p.num_iter_set),
    "CW": Known(L2, lambda p: p.steps, minimal=True),
    "PGDL2": Known(L2, lambda p: p.steps),
    "PGDRSL2": Known(L2, lambda p: p.steps * p.noise_batch_size),
    "DeepFool": Known(L2, lambda p: p.steps * p.classes, minimal=True),
    "EADEN": Known(
        L2, lambda p: 1 + 2 * p.binary_search_steps * p.max_iterations, minimal=True
    ),
    "FAB": Known(
        BOTH,
        lambda p: 2 + p.n_restarts * p.classes * (3 + p.steps * (p.classes + 1)),
    ),
    "AutoAttack": Known(BOTH, _autoattack),
    "Square": Known(BOTH, lambda p: 2 + p.n_restarts * (p.n_queries + 2), query=True),
}

_OTHER_NORM = "it changes few pixels, or sums their changes, and a ball here is Linf or L2"
LIBRARY = Library(
    prefix="torchattacks",
    distribution="torchattacks",
    module="torchattacks",
    known=KNOWN,
    run=run,
    refused={
        **dict.fromkeys(("EADL1", "JSMA", "OnePixel", "Pixle", "SparseFool"), _OTHER_NORM),
        "GN": "its noise has no radius: use --attack noise",
        "VANILA": "it returns the clean images",
        "LGV": "it needs the training images",
        "MultiAttack": "it needs other attacks: measure each, and join them by --worst-case",
    },
    hint=(
        " (in an environment of its own: its wheel overwrites parts of robustbench, and it "
        "asks for an old requests)"
    ),
)
