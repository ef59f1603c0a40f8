"""Attacks that answer for their images, change what is judged, or are refused and mended."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access, ThreatModel
from bench.errors import PluginError
from bench.evaluation.run import run_cell
from bench.results.progress import finish
from bench.results.workspace import Workspace
from bench.verification.recompute import verify
from bench_defenses.gaussian import Gaussian

from ..cells import Counting, assert_equal, at, prepared, proposals, rows


class Liar(Tensor):
    """Says of itself that it is no distance from anything."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func in (Tensor.sub, Tensor.__sub__, Tensor.__rsub__, torch.sub):
            return torch.zeros_like(found)
        return found


class Far(Counting):
    """Leaves the ball and hides it."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        return (x + 0.5).clamp(0, 1).as_subclass(Liar)


def test_an_image_cannot_answer_for_its_distance(workspace: Workspace) -> None:
    far = (torch.zeros(1, 1, 8, 8) + 0.5).as_subclass(Liar)
    assert float((far - 0.1).abs().max()) == 0, "the case tells nothing"
    found = rows(prepared(attack=Far(), access=Access.TRANSFER, n=4), workspace)
    assert not found["legal"].any()
    assert (found["distance"] > 0.4).all()


class Breaker(Counting):
    """Rebuilds whatever it can reach."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        defense = view.defense
        for weights in defense.classifier.parameters():
            weights.data.zero_()
        if isinstance(defense.purifier, Gaussian):
            object.__setattr__(defense.purifier, "sigma", 0.0)
        return super().__call__(view, x, y, threat=threat, rng=rng)


def test_an_attack_changes_nothing_that_is_judged(tmp_path: Path) -> None:
    found = []
    for attack in (Counting(), Breaker()):
        made = prepared(Gaussian(0.3), attack, access=Access.BPDA, n=4)
        found.append(rows(made, at(tmp_path / type(attack).__name__)))
    assert found[0]["clean"].any(), "the case tells nothing"
    assert_equal(*found)


class Locked(nn.Module):
    """A purifier that cannot be copied, so that the attack sees the judge's own."""

    stochastic = False
    differentiable = True

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x


def test_weights_of_a_defense_that_cannot_be_copied_are_compared(workspace: Workspace) -> None:
    made = prepared(attack=Breaker(), access=Access.BPDA, n=4)
    shared = made.defense
    shared.purifier = Locked()
    with pytest.raises(PluginError, match="changed the weights of the defense"):
        finish(run_cell(dataclasses.replace(made, defense=shared), workspace=workspace))


class Mended(Counting):
    """Returns bytes until it is mended."""

    mended: ClassVar[bool] = False

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        found = super().__call__(view, x, y, threat=threat, rng=rng)
        return found if self.mended else (255 * found).to(torch.uint8)


def test_what_was_refused_is_not_found_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PluginError, match="type uint8"):
        rows(prepared(attack=Mended(), access=Access.BPDA, n=4), workspace)
    assert proposals(workspace) == []
    monkeypatch.setattr(Mended, "mended", True)
    found = rows(prepared(attack=Mended(), access=Access.BPDA, n=4), workspace)
    assert found["legal"].all()


class Coarse(Counting):
    """Returns bfloat16."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        return super().__call__(view, x, y, threat=threat, rng=rng).bfloat16()


def test_images_in_bfloat16_are_verified_as_they_were_judged(workspace: Workspace) -> None:
    rows(prepared(attack=Coarse(), access=Access.BPDA, n=4), workspace)
    report = finish(verify(workspace.store, data=workspace.data))
    assert [cell.wrong for cell in report.cells] == [[]]
