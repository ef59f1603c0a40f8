"""The check of what an energy-based purifier believes: C25."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import Subject
from bench.core.batch_size import in_blocks
from bench.core.protocols import EnergyPurifier, SteppedPurifier, fits


def energy_tells_attacks(subject: Subject) -> Finding:
    """C25: attacked images have more energy than clean ones, and purification lowers it."""
    about = ("C25", "energy tells attacks", Weight.REMARK)
    threshold = "AUC above .5, and the energy of attacked images falls along purification"
    purifier = subject.defense.purifier
    if not fits(purifier, EnergyPurifier):
        reason = "the purifier has no `energy` network"
        return Finding(*about, State.NOT_APPLICABLE, threshold=threshold, reason=reason)
    x, x_adv = subject.images.x, subject.strong().x_adv
    clean, attacked = _energy(purifier, x), _energy(purifier, x_adv)
    labels = [0] * len(clean) + [1] * len(attacked)
    auc = float(roc_auc_score(labels, torch.cat([clean, attacked]).cpu().numpy()))
    hidden = float((attacked <= clean.quantile(0.95)).float().mean())
    values: dict[str, Any] = {"auc": auc, "below the clean 95th percentile": hidden}
    figure = (
        f"AUC {auc:.2f}; {hidden:.0%} of the attacked images below the clean 95th percentile"
    )
    rises = False
    if fits(subject.defense.purifier, SteppedPurifier):
        path = _along(subject, purifier, x_adv)
        rises = path[-1] > path[0]
        values["mean energy along purification"] = path
        figure += f"; mean energy {path[0]:.3g} before and {path[-1]:.3g} after purification"
    said = []
    if auc <= 0.5:
        said.append("the energy of attacked images is no higher than that of clean ones")
    if rises:
        said.append("purification raises the energy of attacked images")
    return Finding(
        *about,
        State.FAIL if said else State.PASS,
        figure=figure,
        threshold=threshold,
        reason=" and ".join(said),
        values=values,
    )


def _energy(purifier: EnergyPurifier, x: Tensor) -> Tensor:
    def of(block: slice) -> Tensor:
        found: Tensor = purifier.energy(x[block])
        return found.float()

    with torch.no_grad():
        return torch.cat(in_blocks(of, len(x), draws=1, device=x.device))


def _along(subject: Subject, purifier: EnergyPurifier, x: Tensor) -> list[float]:
    """Measure the mean energy before, and after each of the purifier's own steps."""
    path = [float(_energy(purifier, x).mean())]
    with torch.no_grad():
        for k in range(getattr(purifier, "steps", 10)):
            x = subject.defense.purification_step(x, rng=subject.rng.fork("energy", k))
            path.append(float(_energy(purifier, x).mean()))
    return path
