"""Attacks and classifiers with one fault each: the check for it fails, no other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.eot import averaged_gradient
from bench.core.geometry import project, steepest
from bench.core.losses import LOSSES
from bench.core.protocols import Calls, Images, View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.models.trainable import Task
from bench.testing import check_attack, check_classifier
from bench.testing.check import results_of
from bench.testing.material import Material, extremes

X = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
MATERIAL = Material(extremes(X), 3, Images(torch.arange(24), X, torch.arange(24) % 3))
CALLS: list[int] = []


def failing(kind: Any, cls: Any, **options: Any) -> dict[str, str]:
    results = list(results_of(kind, cls, tried_on=MATERIAL, **options))
    return {one.check: one.sentence for one in results if one.state == "fails"}


@dataclass(frozen=True)
class Fgsm:
    """One step of the gradient, with a little noise."""

    factor: float = 1.0

    revision: ClassVar[int] = 1
    norms: ClassVar[Any] = (Norm.LINF, Norm.L2)
    accesses: ClassVar[Any] = (Access.FULL, Access.TRANSFER)
    unbounded: ClassVar[bool] = False

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        seen = averaged_gradient(view, x, y, loss=LOSSES["ce"], draws=2, rng=rng)
        moved = x + self.factor * threat.radius * steepest(seen.gradient, threat.norm)
        moved = moved + 1e-3 * self.noise(x, rng)
        return project(moved, x, threat.norm, threat.radius)

    def noise(self, x: Tensor, rng: Rng) -> Tensor:
        return rng.normal_like(x)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        return Calls(backward=2)


class Texts(Fgsm):
    norms: ClassVar[Any] = ("Linf",)


class Loses(Fgsm):
    def __call__(self, view: View, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        return super().__call__(view, x, y, **options)[1:]


class Far(Fgsm):
    def __call__(self, view: View, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        found = super().__call__(view, x, y, **options)
        return (x + 1.1 * (found - x)).clamp(0, 1)


class Outside(Fgsm):
    def __call__(self, view: View, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        found = super().__call__(view, x, y, **options)
        return torch.where(found >= 1, 1 + 5e-7, found)


class Forgets(Fgsm):
    def __call__(self, view: View, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        found = super().__call__(view, x, y, **options)
        y.zero_()
        return found


class Remembers(Fgsm):
    def noise(self, x: Tensor, rng: Rng) -> Tensor:
        CALLS.append(1)
        return rng.fork(len(CALLS)).normal_like(x)


class Global(Fgsm):
    def noise(self, x: Tensor, rng: Rng) -> Tensor:
        return torch.randn_like(x)


class Crowded(Fgsm):
    independent: ClassVar[bool] = True

    def __call__(self, view: View, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        found = super().__call__(view, x, y, **options)
        return x + (found - x) / len(x)


class Many(Fgsm):
    def __call__(self, view: View, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        view.classify(x).topk(3)
        return super().__call__(view, x, y, **options)


class Cheap(Fgsm):
    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        return Calls(backward=1)


class Descends(Fgsm):
    factor: float = -1.0


Descends = dataclass(frozen=True)(Descends)


class Endless(Fgsm):
    unbounded: ClassVar[bool] = True

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        found = super().__call__(view, x, y, threat=threat, rng=rng)
        return found + 0 * threat.radius


class Warm(Fgsm):
    warm: ClassVar[bool] = True

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, start: Tensor | None = None, **options: Any
    ) -> Tensor:
        if start is not None:
            return start + 1
        return super().__call__(view, x, y, **options)


class Drifting(Fgsm):
    def __deepcopy__(self, memo: Any) -> Drifting:
        return dataclasses.replace(self, factor=self.factor / 2)


ATTACKS: dict[type[Any], tuple[str, str]] = {
    Texts: ("norms, accesses and parameters are written down", "Norm.LINF"),
    Loses: ("images in, images of the same shape out", "one image of the same shape"),
    Far: ("proposals stay in ball and box", "project("),
    Outside: ("proposals stay in ball and box", "pixels in [0, 1]"),
    Forgets: ("what it is given stays as it was", "another y"),
    Remembers: ("the same rng gives the same images", "the second time"),
    Global: ("all chance comes from rng", "rng.uniform_like(x)"),
    Crowded: ("no image depends on another, where it says so", "drop `independent`"),
    Many: ("one image, and two classes", "selected index k out of range"),
    Cheap: ("it costs at most what `calls` says", "at most 1 backward"),
    Descends: ("it beats chance where the optimum is known", "not down"),
    Endless: ("`unbounded` is true", "NaN"),
    Warm: ("it can begin at other images", "a distance of"),
    Drifting: ("a copy does the same", "copy.deepcopy"),
}


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.__name__)
def test_exactly_the_check_for_an_attacks_fault_fails(cls: type[Any]) -> None:
    name, part = ATTACKS[cls]
    wrong = failing("attacks", cls)
    assert list(wrong) == [name], wrong
    assert part in wrong[name]


def test_a_good_attack_passes_and_so_does_a_function() -> None:
    def signs(
        view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, factor: float = 1.0
    ) -> Tensor:
        rng = Rng.seeded(0, range(len(x)))
        found = Fgsm(factor)(view, x, y, threat=threat, rng=rng)
        return project(found + 1e-4 * torch.randn_like(x), x, threat.norm, threat.radius)

    assert [one.state for one in check_attack(Fgsm())].count("ok") == 11
    said = {one.check: one.sentence for one in check_attack(signs) if one.state != "ok"}
    assert "seeded for each block" in said["all chance comes from rng"]
    assert "once it has run" in said["it costs at most what `calls` says"]


@dataclass(frozen=True)
class Recipe:
    """How it is trained."""

    lr: float = 0.1
    seed: int = 0


class Run:
    """Adam on all images; ``saved`` is what its state has."""

    def __init__(self, recipe: Recipe, task: Task, saved: tuple[str, ...]) -> None:
        self.task, self.saved, self.step, self.total = task, saved, 0, 3
        self.adds = 1
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.net = network(task.classes)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=recipe.lr)

    def advance(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.net(self.task.train.x), self.task.train.y).backward()
        self.optimizer.step()
        self.step += self.adds

    def state(self) -> dict[str, Any]:
        kept = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {"step": self.step, **{name: kept[name] for name in self.saved}}

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for name in self.saved:
            getattr(self, name).load_state_dict(state[name])

    def weights(self) -> dict[str, Tensor]:
        return self.net.state_dict()


def network(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))


@dataclass(frozen=True)
class Trained:
    """One linear layer."""

    training: Recipe = field(default_factory=Recipe)
    revision: ClassVar[int] = 1
    needs_classifier: ClassVar[bool] = False
    saved: ClassVar[tuple[str, ...]] = ("net", "optimizer")

    def negatives(self) -> None: ...

    def start(self, task: Task) -> Run:
        return Run(self.training, task, self.saved)

    def load(self, weights: Any, *, shape: tuple[int, ...], classes: int) -> nn.Module:
        net = network(classes)
        net.load_state_dict(weights)
        return net


class HalfSaved(Trained):
    saved: ClassVar[tuple[str, ...]] = ("net",)


class Stuck(Trained):
    def start(self, task: Task) -> Run:
        run = super().start(task)
        run.adds = 0
        return run


class Restarted(Trained):
    def start(self, task: Task) -> Run:
        run = super().start(task)
        run.restore = lambda state: None
        return run


class Head(nn.Module):
    """A linear layer, with a hook for a fault."""

    def __init__(self, classes: int, fault: str = "") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(36, classes, generator=generator))
        self.register_buffer("calls", torch.zeros(()))
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "spread":
            x = x / x.amax((1, 2, 3), keepdim=True)
        if self.fault == "dropout":
            x = F.dropout(x)
        if self.fault == "batch":
            x = x - x.mean()
        if self.fault == "detached":
            x = x.detach()
        if self.fault == "counts":
            self.calls += 1
        logits = x.flatten(1) @ self.weight
        return logits[:, 1:] if self.fault == "short" else logits


@dataclass(frozen=True)
class Made:
    """A network that is trained already."""

    fault: str = ""
    revision: ClassVar[int] = 1

    def network(self, *, shape: tuple[int, ...], classes: int) -> nn.Module:
        if self.fault == "random":
            torch.manual_seed(len(CALLS))
            CALLS.append(1)
            return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
        return Head(classes, self.fault)


CLASSIFIERS: dict[Any, tuple[str, str]] = {
    Made("short"): ("images in, logits out", "each of the 3 classes"),
    Made("spread"): ("logits are finite", "black and white"),
    Made("dropout"): ("the same images give the same logits", "nn.Dropout"),
    Made("batch"): ("an image does not depend on its batch", "batch norm"),
    Made("counts"): ("its weights are identified and stay", "counters"),
    Made("random"): ("its weights are identified and stay", "the second time"),
    Made("detached"): ("a gradient reaches the images", "without detach()"),
    Stuck(): ("its training goes on from a saved state", "Add 1 to self.step"),
    Restarted(): ("its training goes on from a saved state", "Put step into state()"),
    HalfSaved(): ("its training goes on from a saved state", "optimizers"),
}


@pytest.mark.parametrize("made", CLASSIFIERS, ids=str)
def test_exactly_the_check_for_a_classifiers_fault_fails(made: Any) -> None:
    name, part = CLASSIFIERS[made]
    wrong = failing("classifiers", made)
    assert list(wrong) == [name], wrong
    assert part in wrong[name]


def test_good_classifiers_pass() -> None:
    for thing in (Made, Trained(), Head(3)):
        assert failing("classifiers", thing) == {}
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert [one.state for one in check_classifier(net)].count("fails") == 0
    assert net.training
