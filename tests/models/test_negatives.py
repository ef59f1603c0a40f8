"""Whose images a training is given, and that the checkpoints that ship are still found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import bench.models.train
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import BenchError, UsageError
from bench.evaluation.propose import Proposal
from bench.models.train import identity, train
from bench.models.trainable import Negatives, Task
from bench.plugins.catalogue import build, build_dataclass, parameters
from bench.results.cell import Part, digest_of
from bench.results.files import read_json
from bench.results.progress import finish
from bench.results.workspace import Workspace
from bench_defenses._recipe import recipe
from bench_defenses.adv_ebm import AdvEbm
from bench_defenses.classifiers.small_cnn import SmallCnn
from bench_defenses.ebm import Ebm
from bench_defenses.long_run_ebm import LongRunEbm

SHIPPED = Path(__file__).resolve().parents[2] / "results" / "checkpoints" / "mnist"
CNN: SmallCnn = build("classifiers", "small_cnn", {"width": 4, "training": {"epochs": 6}})
BALL = ThreatModel(Norm.LINF, Fraction(2, 5), Access.TRANSFER)


@dataclasses.dataclass(frozen=True)
class Stop:
    """What a training needs to know; it never begins."""

    seed: int = 0


class Begun(BenchError):  # noqa: N818 - it is no error, and is wrapped in none
    pass


@dataclasses.dataclass(frozen=True)
class Asking:
    """A defense that asks for images, and stops once it has them."""

    asked: Negatives
    training: Stop = Stop()

    revision: ClassVar[int] = 1
    needs_classifier: ClassVar[bool] = True

    def negatives(self) -> Negatives:
        return self.asked

    def start(self, task: Task) -> Any:
        raise Begun(task)

    def load(
        self, weights: Mapping[str, Tensor], *, shape: tuple[int, ...], classes: int
    ) -> nn.Module:
        raise NotImplementedError


def defended(workspace: Workspace, seed: int = 0) -> tuple[nn.Module, Part]:
    plugin = dataclasses.replace(CNN, training=dataclasses.replace(CNN.training, seed=seed))
    made = finish(train("small_cnn", plugin, dataset="digits", workspace=workspace))
    network = plugin.load(made.weights, shape=(1, 8, 8), classes=10)
    part = Part("small_cnn", parameters(plugin), plugin.revision, made.digest)
    return network.eval().requires_grad_(False), part


def given(workspace: Workspace, classifier: tuple[nn.Module, Part], asked: Negatives) -> Task:
    """Return the task that a training with these negatives is given."""
    with pytest.raises(Begun) as begun:
        finish(
            train(
                "asking",
                Asking(asked),
                dataset="digits",
                workspace=workspace,
                classifier=classifier,
            )
        )
    task = begun.value.args[0]
    assert isinstance(task, Task)
    return task


def test_images_of_another_classifier_are_those_that_its_own_defense_is_given(
    workspace: Workspace,
) -> None:
    one, other = defended(workspace), defended(workspace, seed=1)
    own = given(workspace, one, Negatives(BALL, 6))
    crossed = given(workspace, one, Negatives(BALL, 6, classifier_seed=1))
    theirs = given(workspace, other, Negatives(BALL, 6))
    for task in (own, crossed, theirs):
        assert task.adversarial is not None
        assert len(task.adversarial) == 6
        assert (task.adversarial - task.train.x[:6]).abs().max() <= 0.4 + 1e-6
    assert crossed.adversarial is not None
    assert own.adversarial is not None
    assert theirs.adversarial is not None
    assert torch.equal(crossed.adversarial, theirs.adversarial)
    assert not torch.equal(crossed.adversarial, own.adversarial)
    assert crossed.classifier is one[0], "what is defended stays the same"


def test_another_classifier_is_trained_where_it_is_not_at_hand_and_attacked_frozen(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked: list[nn.Module] = []

    def fake(attack: Any, view: Any, images: Any, **rest: Any) -> Proposal:
        attacked.append(rest["networks"]["classifier"])
        return Proposal(images.x, (), {}, 0.0)

    monkeypatch.setattr(bench.models.train, "propose", fake)
    one = defended(workspace)
    assert len(list(workspace.store.checkpoints())) == 1
    given(workspace, one, Negatives(BALL, 6, classifier_seed=5))
    assert len(list(workspace.store.checkpoints())) == 2
    (network,) = attacked
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    same = defended(workspace, seed=5)[0].state_dict()
    assert all(torch.equal(value, same[name]) for name, value in network.state_dict().items())
    assert len(list(workspace.store.checkpoints())) == 2


def test_the_classifier_itself_and_one_of_the_zoo_are_no_other_classifier(
    workspace: Workspace,
) -> None:
    network, part = defended(workspace, seed=3)
    asked = Asking(Negatives(BALL, 6, classifier_seed=3))
    with pytest.raises(UsageError, match=r"small_cnn of seed 3.*Choose another seed"):
        finish(
            train("a", asked, dataset="digits", workspace=workspace, classifier=(network, part))
        )
    for one in (
        Part("robustbench:Standard", {}, 1, "digest"),
        Part("torchvision:resnet18", {"mean": []}, 1, "digest"),
        Part("mine.py:Net", {"training": {"seed": 0}}, 1, "digest", "source"),
    ):
        with pytest.raises(UsageError, match=rf"{one.name}.*only one training"):
            finish(
                train(
                    "a", asked, dataset="digits", workspace=workspace, classifier=(network, one)
                )
            )


@pytest.mark.parametrize(("name", "cls"), [("ebm", Ebm), ("adv_ebm", AdvEbm)])
def test_the_shipped_recipes_still_name_the_shipped_checkpoints(
    name: str, cls: type[Ebm]
) -> None:
    """A new field, revision or default would orphan the weights behind docs/results.md."""
    cards = {path.stem: read_json(path) for path in SHIPPED.glob(f"{name}-*.json")}
    card = next(card for card in cards.values() if card["recipe"]["seed"] == 0)
    plugin = build_dataclass(cls, recipe(name, "mnist"), where="defense")
    part = Part.read(card["classifier"]) if card["classifier"] else None
    about = identity(name, plugin, dataset="mnist", data=card["data"], classifier=part)
    assert f"{name}-{digest_of(about)[:8]}" in cards
    # Without a classifier of its own in the card, ebm must not begin to depend on one.
    assert cls.needs_classifier == (part is not None)


def test_the_long_run_energy_has_the_checkpoint_of_the_energy_with_its_chains() -> None:
    card = read_json(SHIPPED.parent / "cifar10" / "ebm-2b26198f.json")
    plugin = build_dataclass(LongRunEbm, LongRunEbm.recipe("cifar10"), where="defense")
    about = identity(
        "long_run_ebm", plugin, dataset="cifar10", data=card["data"], classifier=None
    )
    assert digest_of(about)[:8] == "2b26198f"
    # What a user sets of the training leaves its chains long.
    part = {"training": {"iterations": 7}}
    assert build_dataclass(LongRunEbm, part, where="defense").training.chain_steps == 100
    assert LongRunEbm().steps == 1500
