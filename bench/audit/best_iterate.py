"""Check that the main attack returns the best image it saw: C7."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bench.audit.attacks import (
    NO_GRADIENT,
    Outcome,
    attackable,
    indices_of,
    right,
    settings_of,
)
from bench.audit.findings import Finding, State, Weight
from bench.audit.subject import LEVEL, Subject
from bench.core.losses import LOSSES, Loss
from bench.core.protocols import Attack, Images, View
from bench.core.rng import Rng
from bench.core.threat import Access, ThreatModel
from bench.evaluation.judge import judge
from bench.plugins.catalogue import build
from bench.results.stats import exceeds

_MOST = 64  # images that are attacked a second time


@dataclass(frozen=True)
class Sight:
    """An image x (C, H, W), the share of its draws that were ``wrong``, their mean ``loss``."""

    wrong: float
    loss: float
    x: Tensor


@dataclass
class Watched:
    """A view that keeps, per image index, the x whose draws were wrong most often.

    ``labels`` by image index. Only what most draws of one call mistook is kept; among equals
    the one of more ``loss``, as attacks choose. A surrogate is handed on unwatched: success
    against it is none against the defense.
    """

    view: View
    labels: dict[int, int]
    loss: Loss
    sights: dict[int, Sight] = field(default_factory=dict)

    @property
    def access(self) -> Access:
        """The access of the view behind."""
        return self.view.access

    @property
    def stochastic(self) -> bool:
        """Whether the view behind draws noise."""
        return self.view.stochastic

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return the logits (N * draws, K) of the view behind for x (N, C, H, W)."""
        logits = self.view(x, rng=rng)
        shown = x.detach().repeat_interleave(len(rng) // len(x), dim=0)
        self._watch(shown, logits.detach(), rng._images)
        return logits

    def classify(self, x: Tensor) -> Tensor:
        """Return the bare classifier's logits (N, K)."""
        return self.view.classify(x)

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Take one step of the purifier."""
        return self.view.purification_step(x, rng=rng)

    def surrogate(self, factor: int) -> View:
        """Open the view behind on a coarser purifier; raises PluginError where none is."""
        return self.view.surrogate(factor)

    def _watch(self, x: Tensor, logits: Tensor, images: Tensor) -> None:
        """Take rows of equal image and x, side by side, for the draws of one point."""
        fresh = torch.ones_like(images, dtype=torch.bool)
        fresh[1:] = (images[1:] != images[:-1]) | (x[1:] != x[:-1]).flatten(1).any(1)
        first, point = fresh.nonzero()[:, 0], fresh.cumsum(0) - 1
        names = images[first].tolist()
        y = torch.tensor([self.labels[name] for name in names], device=x.device)[point]
        draws = torch.bincount(point)
        wrong = torch.bincount(point, (logits.argmax(1) != y).double()) / draws
        loss = torch.bincount(point, self.loss(logits, y).double()) / draws
        for name, row, *rank in zip(
            names, first.tolist(), wrong.tolist(), loss.tolist(), strict=True
        ):
            seen = self.sights.get(name)
            if rank[0] > 0.5 and (seen is None or tuple(rank) > (seen.wrong, seen.loss)):
                self.sights[name] = Sight(rank[0], rank[1], x[row].clone())


def no_silent_success(subject: Subject) -> Finding:
    """C7: no image that the main attack passed on its way is adversarial and not returned."""
    blank = Finding(
        "C7", "no silent success", Weight.BOUND, State.NOT_APPLICABLE,
        threshold="none (fails above 1 % of the images)", reason=NO_GRADIENT,
    )  # fmt: skip
    if not attackable(subject):
        return blank
    images = subject.images[:_MOST]
    silent = right(subject.strong())[:_MOST].copy()
    # What it broke and returned is no silent success: only the others are looked at again.
    rows = torch.from_numpy(silent.nonzero()[0]).to(images.x.device)
    silent[silent] = _passed(subject, images[rows])
    count = int(silent.sum())
    p = exceeds(count, len(images), 0.01)
    state = State.PASS
    if count:
        state = State.FAIL if count > 0.01 * len(images) and p <= LEVEL else State.WARN
    return replace(
        blank,
        state=state,
        figure=f"{count} of {len(images)} images",
        reason=f"the main attack passed an adversarial image of {count} images and returned "
        "another: they count as broken"
        if count
        else "",
        values={"indices": indices_of(subject, silent), "p": p},
    )


def _passed(subject: Subject, images: Images) -> Outcome:
    """Attack again, watched, and return which images (N,) break at another point than ended."""
    if len(images) == 0:
        return np.zeros(0, dtype=bool)
    threat = ThreatModel(subject.threat.norm, subject.threat.eps, subject.access)
    attack: Attack = build("attacks", "apgd", subject.settings)
    watched = Watched(
        subject.view(subject.access),
        dict(zip(images.indices.tolist(), images.y.tolist(), strict=True)),
        LOSSES[settings_of(subject)["loss"]],
    )
    seed = subject.base.cell.seed
    rng = Rng.seeded(seed, images.indices).fork("attack")  # the streams of the main run
    x_adv = attack(watched, images.x, images.y, threat=threat, rng=rng)
    x_best = x_adv.clone()
    for row, name in enumerate(images.indices.tolist()):
        if name in watched.sights:
            x_best[row] = watched.sights[name].x
    outcomes = judge(
        subject.defense,
        images.x,
        images.y,
        x_best,
        threat=threat,
        draws=subject.base.cell.draws,
        sequential=True,
        rng=Rng.seeded(seed, images.indices).fork("watched"),
    )
    # The point that was returned is no silent one, whatever fresh noise makes of it.
    other = (x_best != x_adv).flatten(1).any(1)
    broken: Outcome = (other & ~outcomes.robust).cpu().numpy()
    return broken
