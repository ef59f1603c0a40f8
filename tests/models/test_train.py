"""Training: what a checkpoint depends on, when it is made, and on which images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bench.models.train
from bench.data.load import load_test, load_train
from bench.errors import BenchError, PluginError
from bench.evaluation.propose import Proposal
from bench.models.checkpoints import digest, save_checkpoint
from bench.models.train import Trained, checkpoint_path, find_trained, identity, train
from bench.models.trainable import Task
from bench.plugins.catalogue import build, parameters
from bench.results.cell import Part
from bench.results.files import read_json
from bench.results.progress import Progress, finish
from bench.results.store import Store
from bench.results.workspace import Workspace
from bench_attacks.autoattack import AutoAttack
from bench_defenses.adv_ebm import AdvEbm
from bench_defenses.classifiers.small_cnn import SmallCnn
from bench_defenses.ebm import Ebm

ENERGY = {"iterations": 3, "chain_steps": 1, "bank": 64, "batch": 16, "width": 4}
EBM: Ebm = build("defenses", "ebm", {"steps": 2, "training": ENERGY})
ADV: AdvEbm = build(
    "defenses", "adv_ebm", {"training": {**ENERGY, "images": 6, "eps": "0.4", "share": 0.5}}
)
CNN: SmallCnn = build("classifiers", "small_cnn", {"width": 4, "training": {"epochs": 6}})


def trained(name: str, plugin: Any, workspace: Workspace, **more: Any) -> Trained:
    return finish(train(name, plugin, dataset="digits", workspace=workspace, **more))


Defended = tuple[torch.nn.Module, Part]


def defended(workspace: Workspace, seed: int = 0) -> Defended:
    """A classifier with its place in a cell, as prepare_classifier makes them."""
    plugin = dataclasses.replace(CNN, training=dataclasses.replace(CNN.training, seed=seed))
    made = trained("small_cnn", plugin, workspace)
    network = plugin.load(made.weights, shape=(1, 8, 8), classes=10)
    part = Part("small_cnn", parameters(plugin), plugin.revision, made.digest)
    return network.eval().requires_grad_(False), part


def changed(plugin: Any, path: str, value: object) -> Any:
    """Set one parameter, in training where the path says so."""
    inner, _, name = path.rpartition(".")
    if not inner:
        return dataclasses.replace(plugin, **{name: value})
    return dataclasses.replace(
        plugin, training=dataclasses.replace(plugin.training, **{name: value})
    )


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("steps", 77, True),
        ("step_size", 0.5, True),
        ("noise", 0.2, True),
        ("training.iterations", 4, False),
        ("training.lr", 0.5, False),
        ("training.width", 8, False),
        ("training.bank", 65, False),
        ("training.seed", 1, False),
    ],
)
def test_only_parameters_of_training_make_another_checkpoint(
    path: str, value: object, same: bool, workspace: Workspace
) -> None:
    one, other = (
        checkpoint_path("ebm", plugin, dataset="digits", workspace=workspace)
        for plugin in (EBM, changed(EBM, path, value))
    )
    assert (one == other) is same


def test_every_parameter_of_a_classifier_makes_another_checkpoint(workspace: Workspace) -> None:
    def path(plugin: SmallCnn) -> Path:
        return checkpoint_path("small_cnn", plugin, dataset="digits", workspace=workspace)

    assert path(CNN) == path(dataclasses.replace(CNN))
    assert path(CNN) != path(changed(CNN, "width", 5))
    assert path(CNN) != path(changed(CNN, "training.epochs", 7))


def test_a_checkpoint_depends_on_the_classifier_where_training_saw_it() -> None:
    def about(name: str, plugin: Any, checkpoint: str, **more: Any) -> dict[str, Any]:
        given = {"dataset": "digits", "data": "d", **more}
        part = Part("small_cnn", {}, 1, checkpoint)
        return identity(name, plugin, classifier=part, **given)

    assert about("ebm", EBM, "one") == about("ebm", EBM, "other")
    assert about("adv_ebm", ADV, "one") != about("adv_ebm", ADV, "other")
    assert about("ebm", EBM, "one") != about("ebm", EBM, "one", data="changed")
    assert about("ebm", EBM, "one") != about("ebm", EBM, "one", dataset="mnist")
    assert about("ebm", EBM, "one") != about("another", EBM, "one")


def refuse(*args: object) -> None:
    raise AssertionError("trained again")


def test_what_is_trained_is_not_trained_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_trained("ebm", EBM, dataset="digits", workspace=workspace) is None
    first = trained("ebm", EBM, workspace)
    monkeypatch.setattr(Ebm, "start", refuse)
    again = trained("ebm", changed(EBM, "steps", 99), workspace)
    assert again.digest == first.digest
    assert all(torch.equal(again.weights[name], value) for name, value in first.weights.items())
    found = find_trained("ebm", EBM, dataset="digits", workspace=workspace)
    assert found is not None
    assert found.digest == first.digest
    (path,) = workspace.store.checkpoints()
    assert path == checkpoint_path("ebm", EBM, dataset="digits", workspace=workspace)
    with pytest.raises(PluginError, match="trained again"):
        trained("ebm", changed(EBM, "training.seed", 1), workspace)


def test_equal_trainings_end_with_equal_digests(workspace: Workspace, tmp_path: Path) -> None:
    other = dataclasses.replace(workspace, store=Store(tmp_path / "other"))
    torch.manual_seed(99)
    assert trained("ebm", EBM, workspace).digest == trained("ebm", EBM, other).digest


def test_a_checkpoint_without_its_card_is_trained_again(workspace: Workspace) -> None:
    first = trained("ebm", EBM, workspace)
    (path,) = workspace.store.checkpoints()
    path.with_suffix(".json").unlink()
    assert trained("ebm", EBM, workspace).digest == first.digest
    assert path.with_suffix(".json").is_file()


def test_a_damaged_checkpoint_is_an_error_and_not_trained_over(workspace: Workspace) -> None:
    trained("ebm", EBM, workspace)
    (path,) = workspace.store.checkpoints()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BenchError, match="Delete it and its card"):
        trained("ebm", EBM, workspace)


def test_the_card_says_how_the_weights_came_about(workspace: Workspace) -> None:
    trained("ebm", EBM, workspace)
    (path,) = workspace.store.checkpoints()
    card = read_json(path.with_suffix(".json"))
    assert card["name"] == "ebm"
    assert card["dataset"] == "digits"
    assert card["revision"] == 1
    assert card["recipe"] == parameters(EBM)["training"]
    assert card["images"] == 1168
    assert card["sha256"] == digest(path)
    assert card["classifier"] is None
    assert card["data"] == load_train("digits", root=workspace.data)[2]
    assert set(card["metrics"]) == {"energy held out", "energy bank"}
    assert card["seconds"] >= 0
    assert {"commit", "versions", "device", "date", "command"} <= card.keys()
    assert str(workspace.store.root) not in path.with_suffix(".json").read_text()


def spied_tasks(monkeypatch: pytest.MonkeyPatch, *classes: type[Any]) -> list[Task]:
    tasks: list[Task] = []
    for cls in classes:
        start = cls.start

        def spy(self: Any, task: Task, start: Any = start) -> Any:
            tasks.append(task)
            return start(self, task)

        monkeypatch.setattr(cls, "start", spy)
    return tasks


def pixels(x: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in x}


def test_training_sees_training_images_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = spied_tasks(monkeypatch, SmallCnn, AdvEbm)
    trained("adv_ebm", ADV, workspace, classifier=defended(workspace))
    held_back = load_test("digits", root=workspace.data)
    test = pixels(held_back.images(0, len(held_back)).x)
    assert len(tasks) == 2
    for task in tasks:
        assert len(task.train) == 1168
        assert len(task.validation) == 129
        assert not pixels(task.train.x) & test
        assert not pixels(task.validation.x) & test
        assert not pixels(task.train.x) & pixels(task.validation.x)
    assert tasks[0].adversarial is None
    adversarial = tasks[1].adversarial
    assert adversarial is not None
    near = (adversarial - tasks[1].train.x[:6]).abs().flatten(1).amax(1)
    assert (near <= 0.4 + 1e-6).all()
    assert (near > 0.1).any(), "no image was attacked"
    assert tasks[1].classifier is not None


def spied_attack(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect how many images AutoAttack was given at each call."""
    seen: list[int] = []
    attack = AutoAttack.__call__

    def spy(self: AutoAttack, view: Any, x: Tensor, y: Tensor, **rest: Any) -> Tensor:
        seen.append(len(x))
        return attack(self, view, x, y, **rest)

    monkeypatch.setattr(AutoAttack, "__call__", spy)
    return seen


def test_negatives_are_made_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied_attack(monkeypatch)
    monkeypatch.setattr(bench.models.train, "_SHARD", 4)
    classifier = defended(workspace)
    first = trained("adv_ebm", ADV, workspace, classifier=classifier)
    assert seen == [4, 2]
    path = checkpoint_path(
        "adv_ebm", ADV, dataset="digits", workspace=workspace, classifier=classifier[1]
    )
    path.unlink()
    again = trained("adv_ebm", ADV, workspace, classifier=classifier)
    assert again.digest == first.digest
    trained("adv_ebm", changed(ADV, "training.share", 0.25), workspace, classifier=classifier)
    assert seen == [4, 2], "negatives were made again"
    trained("ebm", EBM, workspace, classifier=classifier)
    assert seen == [4, 2], "negatives were made for a training that asks for none"


def test_other_negatives_are_made_for_another_classifier_or_ball(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def fake(attack: Any, view: Any, images: Any, *, path: Path, **rest: Any) -> Proposal:
        made.append(path)
        assert rest["seed"] == 0
        return Proposal(images.x, (), {}, 0.0)

    monkeypatch.setattr(bench.models.train, "propose", fake)
    one, other = defended(workspace), defended(workspace, seed=1)
    trained("adv_ebm", ADV, workspace, classifier=one)
    trained("adv_ebm", ADV, workspace, classifier=other)
    trained("adv_ebm", changed(ADV, "training.eps", "0.1"), workspace, classifier=one)
    trained("adv_ebm", changed(ADV, "training.seed", 5), workspace, classifier=one)
    assert len(made) == 4
    assert len(set(made)) == 3
    assert made[0] == made[3]


def test_progress_is_told_from_the_first_to_the_last_iteration(workspace: Workspace) -> None:
    told: list[Progress] = list(train("ebm", EBM, dataset="digits", workspace=workspace))
    assert (told[0].done, told[0].total) == (0, 3)
    assert [one.done for one in told].count(3) == 1, "the end is logged once: with its metrics"
    assert told[-1].done == 3
    assert set(told[-1].figures) == {"loss", "gap"}
    assert told[-1].note.startswith("energy held out ")
    assert not list(train("ebm", EBM, dataset="digits", workspace=workspace))


def test_a_divergence_makes_no_checkpoint(workspace: Workspace) -> None:
    wild = changed(changed(EBM, "training.lr", 1e6), "training.iterations", 10)
    with pytest.raises(PluginError, match="diverged"):
        trained("ebm", wild, workspace)
    assert not workspace.store.checkpoints()


def test_weights_on_disk_are_those_that_are_used(workspace: Workspace) -> None:
    """A stranger's file under our name and with its own card is what the cell's key names."""
    trained("ebm", EBM, workspace)
    (path,) = workspace.store.checkpoints()
    weights = {
        name: value + 1 for name, value in trained("ebm", EBM, workspace).weights.items()
    }
    other = save_checkpoint(path, weights, read_json(path.with_suffix(".json")))
    assert trained("ebm", EBM, workspace).digest == other
    found = find_trained("ebm", EBM, dataset="digits", workspace=workspace)
    assert found is not None
    assert found.digest == other


@pytest.mark.parametrize("plugin", [CNN, EBM], ids=["small_cnn", "ebm"])
def test_a_training_leaves_the_generators_of_gpus_alone(
    plugin: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shared with whoever calls, and torch.manual_seed seeds them too."""

    def seeded(seed: int) -> None:
        pytest.fail(f"the generators of all GPUs were seeded with {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    before = torch.get_rng_state()
    images = load_train("digits", root=Path())[0]
    plugin.start(Task(images, images, 10, torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)
