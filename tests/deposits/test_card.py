"""A card for RobustBench's leaderboard: its fields and formats, its rules, its tensor."""

from __future__ import annotations

import dataclasses
import json
import re
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.protocols import Pixels
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.deposits.leaderboard import BOARDS
from bench.evaluation.run import Prepared
from bench.results.cell import Cell, Part, subject_of
from bench.results.files import write_json
from bench.results.store import Store

from ..cells import at, rows
from ..command import Bench, is_one_clear_message

N = 12
# What RobustBench's README and the cards of its model_info/ (commit ae5814d2) have.
FORMATS = {
    "number_forward_passes": r"\d+",
    "dataset": r"cifar10|cifar100",
    "eps": r"8/255|0\.5",
    "clean_acc": r"\d{1,3}\.\d\d",
    "autoattack_acc": r"\d{1,3}\.\d\d",
    "external": r"\d{1,3}\.\d\d",
    "unreliable": r"True|False",
    "architecture": r".+",
    "footnote": r".+\.",
}
BY_HAND = {"link", "name", "authors", "additional_data", "venue", "reported"}


@dataclasses.dataclass(frozen=True)
class Nudge:
    """A purifier that adds what it draws, or nothing."""

    revision: ClassVar[int] = 1
    stochastic: bool = False
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + 0.02 * rng.uniform_like(x) if self.stochastic else x


@dataclasses.dataclass(frozen=True)
class Push:
    """Every second image of a block, or every third, goes straight to another class."""

    sign: int = 1

    def __call__(
        self, view: Any, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        weights = network()[1].weight.detach()
        away = (weights[(y + 1) % 10] - weights[y]).sign().reshape(x.shape)
        chosen = torch.arange(len(x)) % (2 if self.sign > 0 else 3) == 0
        return (x + 0.9 * threat.radius * chosen.reshape(-1, 1, 1, 1) * away).clamp(0, 1)


def pixels() -> Pixels:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (N, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Pixels(x, network()(x / 255).argmax(1), 255, "d" * 64)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10, bias=False)).eval()


def measure(
    root: Path,
    *,
    attack: str,
    sign: int = 1,
    defense: str = "none",
    stochastic: bool = False,
    norm: Norm = Norm.LINF,
    eps: Fraction = Fraction(8, 255),
    n: int = N,
    seed: int = 0,
    bits: int | None = None,
    access: Access = Access.FULL,
    draws: int = 5,
) -> pd.DataFrame:
    """Store a cell on images of the shape of CIFAR-10, with labels from the network."""
    data = pixels()
    version = {"version": "auto"} if attack == "autoattack" else {"sign": sign}
    cell = Cell(
        dataset="cifar10", data=data.digest, n=n, shard=5,
        classifier=Part("small_cnn", {}, 1, "c" * 64), defense=Part(defense, {}, 1),
        attack=Part(attack, version, 1), threat=ThreatModel(norm, eps, access),
        seed=seed, draws=draws, bits=bits,
    )  # fmt: skip
    whole = Defense(Nudge(stochastic), network())
    return rows(Prepared(cell, whole, Push(sign), data), at(root))


@pytest.fixture
def results(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder; CIFAR-10 is what the cells here were measured on."""
    monkeypatch.setattr("bench.deposits.card_images.load_test", lambda *a, **k: pixels())
    return tmp_path / "results"


def card_of(bench: Bench, *words: str) -> tuple[dict[str, Any], str]:
    said = bench("export", "robustbench", "--defense=none", *words)
    assert said.code == 0, said.err
    found: dict[str, Any] = json.loads(Path("results/robustbench/none.json").read_text())
    return found, said.out


def test_the_fields_are_those_of_the_cards(bench: Bench, results: Path) -> None:
    measure(results, attack="autoattack")
    measure(results, attack="push", sign=-1)
    found, said = card_of(bench)
    assert found.keys() == FORMATS.keys() | BY_HAND
    for name, wanted in FORMATS.items():
        assert re.fullmatch(wanted, str(found[name])), (name, found[name])
    assert all(found[name] is None for name in BY_HAND)
    assert "fill in link, name, authors" in said
    assert found["number_forward_passes"] == 1
    assert found["unreliable"] is True, "nobody has audited it"
    assert "On the first 12 of 10000 test images." in found["footnote"]
    assert "rule" not in found["footnote"]
    assert "12 of 10000 test images were measured" in said


def example() -> dict[str, Any]:
    """The card in the README of the robustbench that is installed."""
    try:
        page = str(metadata("robustbench").get_payload())
    except PackageNotFoundError:
        pytest.skip("robustbench is not installed")
    (shown,) = re.findall(r'```json\n(\{\s+"link".*?\})\n```', page, flags=re.DOTALL)
    found: dict[str, Any] = json.loads(shown)
    return found


def test_the_formats_are_those_of_the_card_in_its_readme() -> None:
    """Of fields that it has, types and patterns are the same."""
    shown = example()
    assert shown.keys() <= FORMATS.keys() | BY_HAND
    for name in shown.keys() - BY_HAND:
        assert re.fullmatch(FORMATS[name], str(shown[name])), (name, shown[name])
    assert isinstance(shown["clean_acc"], str)
    assert isinstance(shown["number_forward_passes"], int)


def test_its_own_code_reads_the_card(bench: Bench, results: Path) -> None:
    if find_spec("robustbench") is None:
        pytest.skip("robustbench is not installed")
    from bench.models.robustbench import import_robustbench

    utils = import_robustbench().utils
    known = {field.name for field in dataclasses.fields(utils.ModelInfo)}
    measure(results, attack="autoattack")
    measure(results, attack="push", sign=-1)
    found, _ = card_of(bench, "--without-images")
    assert found.keys() <= known | {"external", "unreliable"}
    threat = utils.ThreatModel("Linf")
    assert utils.ACC_FIELDS[threat] == ("external", "autoattack_acc")
    path = Path("model_info/cifar10/Linf/Mine2026Purify.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**found, "venue": "arXiv 2026", "additional_data": False}))
    table = utils.get_leaderboard_latex("cifar10", threat)
    for value in (found["clean_acc"], found["external"], "small\\_cnn", "arXiv 2026"):
        assert value.replace("\\", "") in table.replace("\\", "")
    boards = {("cifar10", "Linf"), ("cifar10", "L2"), ("cifar100", "Linf")}
    assert boards == BOARDS.keys()
    for dataset, norm in boards:
        assert utils.BenchmarkDataset(dataset)
        assert utils.ThreatModel(norm)


def test_the_tensor_gives_the_number_of_the_card(bench: Bench, results: Path) -> None:
    """One image per test image, in the ball; of it the network is right as often as said."""
    frames = [measure(results, attack="autoattack"), measure(results, attack="push", sign=-1)]
    found, said = card_of(bench)
    assert f"adversarial images ({N}, 3, 32, 32)" in said
    x_adv = torch.load("results/robustbench/none.pt", weights_only=True)
    data = pixels()
    assert (x_adv.dtype, x_adv.shape) == (torch.float32, (N, 3, 32, 32))
    x = data.images(0, N).x
    assert float((x_adv.double() - x.double()).abs().max()) <= 8 / 255 + 1e-6
    right = (network()(x_adv).argmax(1) == data.y).numpy()
    assert (right == (frames[0]["robust"] & frames[1]["robust"]).to_numpy()).all()
    assert 0 < right.sum() < min(frame["robust"].sum() for frame in frames)
    assert found["external"] == f"{100 * right.mean():.2f}"
    assert found["autoattack_acc"] == f"{100 * frames[0]['robust'].mean():.2f}"
    untouched = (x_adv == x).flatten(1).all(1).numpy()
    assert (untouched == right).all()


def test_rounded_images_are_what_the_judge_saw(bench: Bench, results: Path) -> None:
    measure(results, attack="push", bits=8)
    card_of(bench)
    x_adv, x = torch.load("results/robustbench/none.pt"), pixels().images(0, N).x
    assert not torch.equal(x_adv, x)
    assert torch.equal(x_adv, (x_adv.double() * 255).round().div(255).float())


def test_autoattack_is_the_standard_one_on_the_whole(bench: Bench, results: Path) -> None:
    measure(results, attack="autoattack", defense="gaussian", access=Access.TRANSFER)
    said = bench("export", "robustbench", "--defense=gaussian")
    found = json.loads(Path("results/robustbench/gaussian.json").read_text())
    assert found["autoattack_acc"] is None
    assert "external" in found
    assert "the standard AutoAttack on the whole defense was not run" in said.out


def test_rules_that_a_defense_breaks_are_named(bench: Bench, results: Path) -> None:
    measure(results, attack="push", defense="gaussian", stochastic=True)
    said = bench("export", "robustbench", "--defense=gaussian")
    found = json.loads(Path("results/robustbench/gaussian.json").read_text())
    assert "breaks a rule of the leaderboard: (2) its forward pass is random" in said.out
    assert "Against the rules: (2)" in found["footnote"]
    assert "by the vote of 5 random draws" in found["footnote"]
    assert found["number_forward_passes"] == 5
    assert found["architecture"] == "small_cnn behind gaussian"
    assert "(1)" not in said.out
    measure(results, attack="push", defense="jpeg")
    said = bench("export", "robustbench", "--defense=jpeg")
    assert "(1) it has no gradient" in said.out
    assert "the standard AutoAttack needs a gradient of the defense" in said.out
    path = next(
        path for path in Store(results).cells()
        if json.loads((path / "cell.json").read_text())["defense"]["name"] == "jpeg"
    )  # fmt: skip
    about = json.loads((path / "provenance.json").read_text())
    del about["sha256"]
    about["judge passes"]["energy backward"] = 7
    (path / "provenance.json").write_text(json.dumps(about))
    assert "check by hand" in said.out
    said = bench("export", "robustbench", "--defense=jpeg")
    assert "(3) it optimizes" in said.out
    assert "check by hand" not in said.out


@pytest.mark.parametrize(("high", "state"), [(99.0, "stands"), (1.0, "upper bound")])
def test_only_a_number_that_stands_is_reliable(
    bench: Bench, results: Path, high: float, state: str
) -> None:
    """Above what the audit's own attacks left it is an upper bound, as in every table."""
    measure(results, attack="push")
    (cell,) = Store(results).cells()
    subject = subject_of(json.loads((cell / "cell.json").read_text()))
    report = {
        "state": "stands", "verdict": "stands", "findings": [], "subject": {"n": N},
        "accuracy": {"robust_high": high},
    }  # fmt: skip
    write_json(Store(results).audit(subject), report)
    found, _ = card_of(bench, "--without-images")
    assert found["unreliable"] is (state != "stands")
    assert f"audit: {state}." in found["footnote"]


def test_the_most_images_are_taken_or_as_many_as_are_asked(bench: Bench, results: Path) -> None:
    measure(results, attack="push")
    measure(results, attack="push", n=6)
    assert "first 12 of" in card_of(bench, "--without-images")[0]["footnote"]
    assert "first 6 of" in card_of(bench, "-n", "6", "--without-images")[0]["footnote"]
    measure(results, attack="push", draws=6)
    said = bench("export", "robustbench", "--defense=none")
    is_one_clear_message(said, "2 defenses of that name", "--cell KEY", code=2)
    (key,) = re.findall(r"(\w{16}) \(small_cnn, 6 draws", said.err)
    assert card_of(bench, "--cell", key[:8], "--without-images")[0]["clean_acc"]
    lost = bench("export", "robustbench", "--defense=none", "--cell=ffff")
    is_one_clear_message(lost, "no cell's key starts with 'ffff'", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dataset=mnist",), "has no leaderboard for mnist in Linf"),
        (("--dataset=cifar100", "--norm=L2"), "has no leaderboard for cifar100 in L2"),
        (("--seed=3",), "no finished cell of none on all of the first images of cifar10"),
        (("-n", "7"), "Measure it: bench run --defense none --dataset cifar10"),
        (("--norm=L2",), "cifar10 in L2 0.5"),
        (("-o", "no/folder"), "there is no folder no"),
    ],
)
def test_what_is_not_there_is_told(
    bench: Bench, results: Path, words: tuple[str, ...], message: str
) -> None:
    measure(results, attack="push")
    said = bench("export", "robustbench", "--defense=none", *words)
    is_one_clear_message(said, message, code=2)


def test_a_void_cell_is_none_and_missing_images_are_told(bench: Bench, results: Path) -> None:
    import shutil

    measure(results, attack="push")
    shutil.rmtree(results / "images")
    said = bench("export", "robustbench", "--defense=none")
    is_one_clear_message(said, "git does not track", "--without-images", code=1)
    assert not Path("results/robustbench").exists()
