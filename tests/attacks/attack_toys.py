"""Small defenses for attacks: known answers, and nets in float64 where rows cannot interact."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import entry_points
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.api import (
    Access,
    Attack,
    AttackWarning,
    Defense,
    Norm,
    Rng,
    ThreatModel,
    View,
    margin,
)

ATTACKS: dict[str, type[Attack]] = {
    entry.name: entry.load() for entry in entry_points(group="bench.attacks")
}
FAST = {
    "adaptive": {"steps": 12, "eot": 2},
    "apgd": {"steps": 12, "eot": 2},
    "apgd_t": {"steps": 12, "eot": 2, "targets": 2},
    "bpda_eot": {"steps": 12, "eot": 2},
    "noise": {"tries": 12, "eot": 2},
    "pgd": {"steps": 12, "eot": 2},
    "rays": {"queries": 60, "eot": 2},
    "square": {"queries": 60, "eot": 2},
}


@dataclass
class Identity:
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x


@dataclass
class Negative(Identity):
    """An invertible purifier: distances to boundaries stay what they are."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return 1 - x


@dataclass
class Pull:
    """Steps towards plain gray, with noise."""

    noise: float = 0.02
    steps: int = 3
    differentiable: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        return self.noise > 0

    def step(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + 0.1 * (0.5 - x) + self.noise * rng.normal_like(x)

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        for k in range(self.steps):
            x = self.step(x, rng=rng.fork("step", k))
        return x


@dataclass(frozen=True)
class Recorder:
    """A view that writes down every batch which the attack shows it, images draw by draw."""

    inner: View
    seen: list[Tensor] = field(default_factory=list)

    @property
    def access(self) -> Access:
        return self.inner.access

    @property
    def stochastic(self) -> bool:
        return self.inner.stochastic

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        self.seen.append(x.detach().repeat_interleave(len(rng) // len(x), dim=0))
        return self.inner(x, rng=rng)

    def classify(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.inner.classify(x)

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        return self.inner.purification_step(x, rng=rng)


def small_net(
    classes: int = 5, pixels: int = 16, dtype: torch.dtype = torch.float64
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = nn.Linear(pixels, 24), nn.Linear(24, classes)
        with torch.no_grad():
            first.weight.mul_(6)  # else one class fills the whole box
            first.bias.copy_(-0.5 * first.weight.sum(1))
        return nn.Sequential(nn.Flatten(), first, nn.SiLU(), last).to(dtype)


def small_problem(
    purifier: object, *, images: int = 8, side: int = 4, classes: int = 5, dtype=torch.float64
) -> tuple[Defense, Tensor, Tensor]:
    """Build a defense with a small net, and images that the net classifies right."""
    net = small_net(classes, side * side, dtype)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(images, 1, side, side, generator=generator, dtype=dtype)
    return Defense(purifier, net), x, net(x).argmax(1)


def misses(defense: Defense, x: Tensor, y: Tensor) -> Tensor:
    """Say which images the defense mistakes, (N,)."""
    return defense.classify(defense.purify(x, rng=streams(len(x)))).argmax(1) != y


def firm_problem(purifier: object, images: int) -> tuple[Defense, Tensor, Tensor]:
    """Keep images far from every boundary, which small balls do not break."""
    defense, x, _ = small_problem(purifier, images=200)
    logits = defense.classify(defense.purify(x, rng=streams(200)))
    kept = margin(logits, logits.argmax(1)).argsort()[:images]
    return defense, x[kept], logits.argmax(1)[kept]


def linear_problem(
    purifier: Identity, norm: Norm, *, classes: int, side: int, distance: float, images: int = 8
) -> tuple[Defense, Tensor, Tensor]:
    """Build a linear defense, with images at one known distance of its nearest boundary.

    Logits are W (x - .5), so that margins grow in proportion to x - .5 and any image can be
    moved to the distance that is asked for: margin / |w_y - w_j|, in the dual norm. Kept are
    images whose nearest class is also the runner-up by far: there the gradient of the
    cross-entropy leads to it, elsewhere no local attack has to find the nearest boundary.
    """
    generator = torch.Generator().manual_seed(0)
    weight = 60 * torch.randn(classes, side * side, generator=generator, dtype=torch.float64)
    u = torch.randn(40_000, side * side, generator=generator, dtype=torch.float64)
    logits = u @ weight.T
    y = logits.argmax(1)
    true = F.one_hot(y, classes).bool()
    margins = (logits.amax(1, keepdim=True) - logits).masked_fill(true, torch.inf)
    dual = (weight[y][:, None] - weight).norm(p=1 if norm is Norm.LINF else 2, dim=2)
    by_distance, nearest = (margins / dual).sort(1)
    by_margin, runner_up = margins.sort(1)
    x = 0.5 + u * (distance / by_distance[:, :1])
    keep = ((x - 0.5).abs() < 0.3).all(1) & (nearest[:, 0] == runner_up[:, 0])
    keep &= (by_margin[:, 1] > 2 * by_margin[:, 0]) & (
        by_distance[:, 1] > 2 * by_distance[:, 0]
    )
    x, y = x[keep][:images].float().reshape(-1, 1, side, side), y[keep][:images]
    assert len(x) == images
    net = nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes))
    net[1].weight.data = weight.float()
    net[1].bias.data = -0.5 * weight.sum(1).float()
    return Defense(purifier, net), purifier.purify(x, rng=streams(images)), y


def streams(images: int, seed: int = 0) -> Rng:
    return Rng.seeded(seed, range(images))


def ball(norm: Norm, eps: float | str | None, access: Access) -> ThreatModel:
    return ThreatModel(norm, None if eps is None else Fraction(str(eps)), access)


def fast(name: str) -> Attack:
    """Configure an attack with small budgets."""
    return ATTACKS[name](**FAST.get(name, {}))


def run(
    attack: Attack, view: View, x: Tensor, y: Tensor, threat: ThreatModel, rng: Rng
) -> Tensor:
    """Attack without listening to flags."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        return attack(view, x, y, threat=threat, rng=rng)


def variants(*names: str) -> list[tuple[str, Norm, Access]]:
    """List norms and accesses of some registered attacks, or of all."""
    return [
        (name, norm, access)
        for name in names or sorted(ATTACKS)
        for norm in ATTACKS[name].norms
        for access in ATTACKS[name].accesses
    ]
