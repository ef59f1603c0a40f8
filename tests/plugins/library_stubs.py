"""Small stand-ins for libraries of attacks, with the signatures of the real ones.

Each takes one step of the gradient's sign from a random point of the ball, and does not come
back into the ball: that is left to the adapter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.threat import Access
from bench_defenses.none import Identity

EDITION = "9.9"


def stepped(model: Any, x: Tensor, y: Tensor, eps: float, *, start: Tensor) -> Tensor:
    leaf = start.detach().requires_grad_()
    loss = F.cross_entropy(model(leaf), y, reduction="sum")
    return start + eps * torch.autograd.grad(loss, leaf)[0].sign()


def noisy(x: Tensor, eps: float, on: bool) -> Tensor:
    return x + eps * (2 * torch.rand_like(x) - 1) if on else x


class TorchattacksPgd:
    """PGD in the paper 'Towards'."""

    def __init__(self, model, eps=8 / 255, alpha=2 / 255, steps=10, random_start=True):
        self.model, self.eps, self.on = model, eps, random_start
        self.device = next(model.parameters()).device  # the library asks so

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        start = noisy(images, self.eps, self.on)
        return stepped(self.model, images, labels, self.eps, start=start)


class FoolboxPgd:
    def __init__(
        self, *, rel_stepsize: float = 0.1, abs_stepsize: float | None = None, steps: int = 40,
        random_start: bool = True, distance: Any = None,
    ):  # fmt: skip
        self.on = random_start

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, epsilons: float) -> Any:
        found = stepped(model, x, y, epsilons, start=noisy(x, epsilons, self.on))
        return x, found, None


def pgd_linf(model, inputs, labels, ε: float | Tensor, targeted: bool = False,
             steps: int = 40, random_init: bool = True, restarts: int = 1,
             relative_step_size: float = 1, callback: Any = None) -> Tensor:  # fmt: skip
    assert not targeted
    return stepped(model, inputs, labels, ε, start=noisy(inputs, ε, random_init))


class ArtClassifier:
    def __init__(self, model, loss, *, input_shape, nb_classes, clip_values, device_type):
        self.model, self.loss, self.classes = model, loss, nb_classes
        assert (clip_values, device_type) == ((0.0, 1.0), "cpu")

    def loss_gradient(self, x: Any, y: Any) -> Any:
        leaf = torch.from_numpy(x.astype(np.float64)).requires_grad_()
        loss = self.loss(self.model(leaf), torch.from_numpy(y))
        return torch.autograd.grad(loss, leaf)[0].numpy()


class ArtPgd:
    def __init__(
        self, estimator: Unknown, norm: int | float | str = np.inf,  # noqa: F821 - a name that only the library has
        eps: int | float | np.ndarray = 0.3, eps_step: int | float | np.ndarray = 0.1,
        decay: float | None = None, max_iter: int = 100, targeted: bool = False,
        num_random_init: int = 1, batch_size: int = 32,
        summary_writer: str | bool | SummaryWriter = False, verbose: bool = True,  # noqa: F821 - a name that only the library has
    ):  # fmt: skip
        assert (norm, targeted, verbose) == (np.inf, False, False)
        self.classifier, self.eps, self.on = estimator, eps, num_random_init

    def generate(self, x: Any, y: Any) -> Any:
        noise = np.random.RandomState().uniform(-1, 1, x.shape) if self.on else 0.0
        start = x + self.eps * np.float32(noise)
        return start + self.eps * np.sign(self.classifier.loss_gradient(start, y))


def modules() -> dict[str, Any]:
    torchattacks = SimpleNamespace(PGD=TorchattacksPgd, EADL1=TorchattacksPgd)
    foolbox = SimpleNamespace(
        PyTorchModel=lambda model, bounds, device: model,
        distances=SimpleNamespace(linf="linf", l2="l2"),
    )
    classification = SimpleNamespace(PyTorchClassifier=ArtClassifier)
    return {
        "torchattacks": torchattacks,
        "foolbox": foolbox,
        "foolbox.attacks": SimpleNamespace(LinfPGD=FoolboxPgd),
        "adv_lib": ModuleType("adv_lib"),
        "adv_lib.attacks": SimpleNamespace(pgd_linf=pgd_linf),
        "art": ModuleType("art"),
        "art.attacks.evasion": SimpleNamespace(ProjectedGradientDescent=ArtPgd),
        "art.estimators.classification": classification,
    }


class Linear(nn.Module):
    """Two classes, told apart by a sum with weights of both signs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 16).reshape(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        seen = (x.flatten(1) - 0.5) @ self.weight
        return torch.cat((-seen, seen), dim=1)


def images() -> tuple[Tensor, Tensor]:
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return x, Linear()(x).argmax(1)


def view(purifier: Any = None, access: Access = Access.FULL) -> Any:
    return view_of(Defense(purifier or Identity(), Linear(), seed=0), access)


# The attack of each library, and the settings that leave out its random start.
STEADY = {
    "torchattacks:PGD": {"random_start": False},
    "foolbox:LinfPGD": {"random_start": False},
    "advlib:pgd_linf": {"random_init": False},
    "art:ProjectedGradientDescent": {"num_random_init": 0},
}


def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put the stand-ins in place of the libraries, whether these are installed or not."""
    from bench.plugins.libraries import attack

    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("bench.plugins.libraries.library.version", lambda name: EDITION)
    attack.cache_clear()
    yield attack.cache_clear
    attack.cache_clear()
