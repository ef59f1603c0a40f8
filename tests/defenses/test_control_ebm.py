"""The controls: random signs as large as an attack, and treated as its images are."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.api import Images, Norm, Task
from bench.plugins.catalogue import build_dataclass, parameters
from bench_defenses._recipe import recipe
from bench_defenses.adv_ebm import AdvEbm
from bench_defenses.control_ebm import ControlEbm
from bench_defenses.energies.random_signs import random_signs

TINY = {"iterations": 4, "batch": 8, "bank": 16, "chain_steps": 1, "width": 4, "images": 6,
        "eps": "0.3", "share": 0.5}  # fmt: skip


def control(**training: object) -> ControlEbm:
    made = build_dataclass(ControlEbm, {"training": {**TINY, **training}}, where="defense")
    assert isinstance(made, ControlEbm)
    return made


def task(adversarial: Tensor | None = None) -> Task:
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = Images(torch.arange(24), x, torch.zeros(24, dtype=torch.int64))
    return Task(images, images[:8], 2, torch.device("cpu"), adversarial=adversarial)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(Norm), st.floats(0, 1), st.integers(0, 2**40))
def test_random_signs_move_every_pixel_by_the_amount(
    norm: Norm, radius: float, seed: int
) -> None:
    x = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    moved = random_signs(
        x, norm=norm, radius=radius, generator=torch.Generator().manual_seed(seed)
    )
    amount = radius if norm is Norm.LINF else radius / 72**0.5
    assert moved.dtype == x.dtype
    step = moved - x
    inside = (moved > 0) & (moved < 1)
    assert torch.allclose(step[inside].abs(), torch.full_like(step[inside], amount))
    assert (step.abs() <= amount + 1e-12).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    if norm is Norm.L2:
        assert (step.flatten(1).norm(dim=1) <= radius + 1e-9).all()


def test_random_signs_are_fair_and_independent() -> None:
    x = torch.full((200, 1, 10, 10), 0.5)
    signs = random_signs(
        x, norm=Norm.LINF, radius=0.25, generator=torch.Generator().manual_seed(0)
    )
    signs = ((signs - x) / 0.25).flatten(1)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.03
    assert abs(float((signs[:-1] * signs[1:]).mean())) < 0.03


def test_random_signs_are_those_of_the_first_images_and_of_the_seed() -> None:
    negatives = control().start(task()).negatives
    assert negatives is not None
    step = (negatives - task().train.x[:6]).abs()
    assert step.shape == (6, 1, 8, 8)
    assert float(step.max()) == pytest.approx(0.3)
    assert negatives.min() >= 0
    assert negatives.max() <= 1
    again, other = (control(seed=seed).start(task()).negatives for seed in (0, 1))
    assert again is not None
    assert other is not None
    assert torch.equal(again, negatives)
    assert not torch.equal(other, negatives)


def test_random_signs_are_trained_on_as_an_attack_with_the_same_images() -> None:
    """The same noise, clipping, share and draws: the trainings agree to the bit."""
    run = control().start(task())
    params = dict(parameters(control())["training"])
    del params["negatives"], params["classifier_seed"]
    twin = build_dataclass(AdvEbm, {"training": params}, where="defense").start(
        task(run.negatives)
    )
    plain = build_dataclass(AdvEbm, {"training": params}, where="defense").start(
        task(task().train.x[:6])
    )
    for each in (run, twin, plain):
        while each.step < each.total:
            each.advance()
    for name, value in run.weights().items():
        assert torch.equal(value, twin.weights()[name])
    assert any(not torch.equal(value, plain.weights()[n]) for n, value in run.weights().items())


def test_the_controls_ask_for_what_they_need() -> None:
    assert control().negatives() is None
    asked = control(negatives="other_classifier", classifier_seed=7).negatives()
    own = AdvEbm(training=control().training).negatives()
    assert asked is not None
    assert own is not None
    assert asked.classifier_seed == 7
    assert dataclasses.replace(asked, classifier_seed=None) == own


def test_images_of_another_classifier_are_used_as_they_are_given() -> None:
    images = torch.rand(6, 1, 8, 8)
    run = control(negatives="other_classifier").start(task(images))
    assert run.negatives is images


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_a_control_differs_from_its_subject_in_its_negatives_alone(dataset: str) -> None:
    ours = parameters(build_dataclass(ControlEbm, recipe("control_ebm", dataset), where="x"))
    theirs = parameters(build_dataclass(AdvEbm, recipe("adv_ebm", dataset), where="x"))
    for name in ("negatives", "classifier_seed"):
        del ours["training"][name]
    assert ours == theirs
