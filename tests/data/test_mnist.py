"""The shipped MNIST classifier: good on clean images, worthless under AutoAttack."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.core.access import TransferView
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.data.datasets import DATASETS
from bench.data.load import load_test, load_train
from bench.evaluation.judge import judge
from bench.evaluation.propose import propose
from bench.models.checkpoints import digest, load_checkpoint
from bench.models.train import identity
from bench.plugins.catalogue import build, build_dataclass, catalogue, plugin
from bench.results.cell import digest_of
from bench.results.files import read_json

ROOT = Path(os.environ.get("BENCH_DATA", "no such folder"))
SHIPPED = Path(__file__).resolve().parents[2] / "results" / "checkpoints"
CHECKPOINTS = sorted(SHIPPED.glob("*/*.safetensors"))
CLASSIFIERS = sorted(SHIPPED.glob("mnist/small_cnn-*.safetensors"))

needs_classifier = pytest.mark.skipif(
    not CLASSIFIERS, reason=f"no MNIST classifier in {SHIPPED}: bench train small_cnn"
)
needs_data = pytest.mark.skipif(
    not (ROOT / "MNIST" / "raw").is_dir(), reason=f"MNIST is not in BENCH_DATA ({ROOT})"
)
each_checkpoint = pytest.mark.parametrize(
    "path", CHECKPOINTS, ids=[f"{path.parent.name}-{path.stem}" for path in CHECKPOINTS]
)


def made(path: Path) -> tuple[str, Any, dict[str, Any]]:
    """Build the plugin of a checkpoint from its card: name, plugin, card."""
    card = read_json(path.with_suffix(".json"))
    kind: Any = "classifiers" if card["name"] in catalogue("classifiers") else "defenses"
    params = card["recipe"] if kind == "classifiers" else {"training": card["recipe"]}
    made = build_dataclass(plugin(kind, card["name"]), params, where=kind)
    return card["name"], made, card


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    (path,) = (path for path in CLASSIFIERS if made(path)[2]["recipe"]["training"]["seed"] == 0)
    _, small_cnn, _ = made(path)
    weights, _ = load_checkpoint(path)
    network: nn.Module = small_cnn.load(weights, shape=(1, 28, 28), classes=10)
    return network.eval().requires_grad_(False)


@each_checkpoint
def test_a_shipped_checkpoint_verifies_its_digest_and_fits_its_plugin(path: Path) -> None:
    weights, found = load_checkpoint(path)
    name, plugin, card = made(path)
    assert found == digest(path) == card["sha256"]
    info = DATASETS[card["dataset"]]
    options = {"classes": info.classes} if name in catalogue("classifiers") else {}
    assert plugin.load(weights, shape=info.shape, **options) is not None
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    assert path.parent.name == card["dataset"]


@each_checkpoint
def test_a_shipped_card_holds_no_path_and_no_user_and_says_how_it_came_about(
    path: Path,
) -> None:
    text = path.with_suffix(".json").read_text()
    card = read_json(path.with_suffix(".json"))
    for private in ("/home", "/root", "/work", "/tmp", str(Path.home())):
        assert private not in text
    for name in ("commit", "versions", "device", "seconds", "metrics", "date", "command"):
        assert card[name] not in (None, ""), name


@needs_data
@each_checkpoint
def test_a_shipped_checkpoint_is_found_under_its_name(path: Path) -> None:
    """Were the revision or the data another, a run would train it again."""
    name, now, card = made(path)
    about = known(card)
    assert path.stem == f"{name}-{digest_of(about)[:8]}"
    if card["dataset"] != "mnist":
        return
    data = load_train("mnist", root=ROOT)[2]
    found = identity(name, now, dataset="mnist", data=data, classifier=None)
    assert found | {"classifier": card["classifier"]} == about


@needs_data
@pytest.mark.parametrize("name", ["small_cnn", "robust_cnn", "ebm", "adv_ebm", "adv_ebm_plus"])
def test_what_ships_has_its_checkpoint(name: str) -> None:
    """Were the recipe another, a run would train; plans have checkpoints of other recipes."""
    shipped = plugin("classifiers" if name in catalogue("classifiers") else "defenses", name)
    now = build_dataclass(shipped, shipped.recipe("mnist"), where="shipped")
    data = load_train("mnist", root=ROOT)[2]
    about = identity(name, now, dataset="mnist", data=data, classifier=None)
    cards = [read_json(path) for path in SHIPPED.glob(f"mnist/{name}-*.json")]
    assert [about | {"classifier": card["classifier"]} == known(card) for card in cards].count(
        True
    ) == 1


def known(card: dict[str, Any]) -> dict[str, Any]:
    """Keep what the name of a checkpoint is made of."""
    names = ("name", "revision", "recipe", "dataset", "data", "classifier")
    return {name: card[name] for name in names}


@needs_data
@needs_classifier
def test_the_classifier_is_right_on_99_percent_of_the_test_images(
    classifier: nn.Module,
) -> None:
    test = load_test("mnist", root=ROOT)
    with torch.no_grad():
        right = sum(
            int((classifier(block.x).argmax(1) == block.y).sum())
            for block in (test.images(i, i + 500) for i in range(0, 10_000, 500))
        )
    assert right >= 9_900
    assert right < 10_000, "nobody is right on all of them"


@needs_data
@needs_classifier
def test_autoattack_takes_the_classifier_to_nothing(
    classifier: nn.Module, tmp_path: Path
) -> None:
    from bench.core.defense import Defense

    images = load_test("mnist", root=ROOT).images(0, 100)
    threat = ThreatModel(Norm.LINF, Fraction(3, 10), Access.TRANSFER)
    proposal = propose(
        build("attacks", "autoattack", {}), TransferView(classifier), images, threat=threat,
        seed=0, networks={"classifier": classifier}, path=tmp_path / "x.safetensors",
    )  # fmt: skip
    bare = Defense(build("defenses", "none", {}), classifier)
    outcomes = judge(
        bare, images.x, images.y, proposal.x_adv, threat=threat, draws=1,
        rng=Rng.seeded(0, images.indices),
    )  # fmt: skip
    assert bool(outcomes.legal.all())
    assert int(outcomes.clean.sum()) >= 97
    assert int(outcomes.robust.sum()) <= 1
