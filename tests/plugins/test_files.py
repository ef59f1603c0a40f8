"""Plugins in a file: what can be named, what a cell is then, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ..cells import assert_equal
from ..command import Bench, is_one_clear_message, never

MINE = '''
import beside
import torch
from dataclasses import dataclass
from torch import nn

class AE(nn.Module):
    """A small autoencoder."""
    def __init__(self, width=2):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.back = nn.Conv2d(width, 1, 3, padding=1)
    def forward(self, x):
        return x + 0.1 * self.back(self.conv(x))

ae = AE()

def by_net(x):
    return ae(x)

def plain(x, *, shift=0.1):
    return (x + shift).clamp(0, 1)

def by_itself(x, sigma: float = 0.2):
    return x + sigma * torch.randn_like(x)

def with_rng(x, rng, sigma: float = 0.2):
    return x + sigma * rng.normal_like(x)

def with_generator(x, *, generator, sigma: float = 0.2):
    return x + sigma * torch.randn(x.shape, generator=generator)

def no_gradient(x):
    return (8 * x).round() / 8

class Plain:
    def __init__(self, sigma: float = 0.1, steps: int = 1):
        self.sigma, self.steps = sigma, steps
    def purify(self, x, *, rng):
        for step in range(self.steps):
            x = x + self.sigma * rng.fork(step).normal_like(x)
        return x

class Own(nn.Module):
    """Has a method of its own, which calls its parts and never itself."""
    def __init__(self):
        super().__init__()
        self.part = nn.Conv2d(1, 1, 1)
    def purify(self, x):
        return x + 0.1 * self.part(x)

def by_module(x):
    return x + 0.1 * beside.net(x)

class Pipeline:
    """As an image-to-image pipeline of diffusers: the prompt first, pictures out."""
    def __init__(self):
        self.unet = AE()
    def __call__(self, prompt=None, image=None, strength: float = 0.1, generator=None,
                 output_type: str = "pil"):
        assert output_type == "pt"
        noise = torch.randn(image.shape, generator=generator)
        found = type("Output", (), {})()
        found.images = self.unet(image + strength * noise)
        return found

pipe = Pipeline()

def classifier(shape, classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))
    return net

net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def logits(x):
    return 2 * net(x)

def attack(view, x, y, *, threat, rng, steps: int = 1):
    return (x + threat.radius * rng.sign_like(x)).clamp(0, 1)

class Signs:
    def __init__(self, factor: float = 1.0):
        self.factor = factor
    def __call__(self, view, x, y, *, eps, generator):
        noise = torch.randn(x.shape, generator=generator)
        return (x + self.factor * eps * noise.sign()).clamp(0, 1)
'''
BESIDE = "from torch import nn\nnet = nn.Conv2d(1, 1, 1)\n"
FEW = ("-n", "6", "--draws=3", "--shard=3", "--eps=0.1", "--json")


@pytest.fixture
def mine(bench: Bench, tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    (tmp_path / "beside.py").write_text(BESIDE)
    return path


def run(bench: Bench, **words: str) -> Any:
    chosen = {"defense": "mine.py:plain", "classifier": "mine.py:net", "attack": "noise"}
    more = words.pop("more", "").split()
    said = bench("run", *(f"--{k}={v}" for k, v in {**chosen, **words}.items()), *FEW, *more)
    assert said.code == 0, said.err
    return said.rows[0]


def cell(row: Any, name: str = "cell.json", results: str = "results") -> Any:
    return json.loads(Path(results, "cells", row["key"], name).read_text())


def outcomes(row: Any, results: str = "results") -> pd.DataFrame:
    return pd.read_parquet(Path(results, "cells", row["key"], "outcomes.parquet"))


OUTSIDE = (
    "the purifier returned values outside [0, 1], where images are: clamp or rescale them "
    "unless that is meant"
)


@pytest.mark.parametrize(
    ("name", "networks", "flags", "draws"),
    [
        ("AE", {"AE"}, [OUTSIDE], 1),
        ("ae", {"AE"}, [OUTSIDE], 1),
        ("by_net", {"ae"}, [OUTSIDE], 1),
        ("by_module", {"net"}, [OUTSIDE], 1),
        ("Own", {"part"}, [OUTSIDE], 1),
        ("plain", set(), [], 1),
        ("by_itself", set(), ["noise by block"], 3),
        ("with_rng", set(), [], 3),
        ("with_generator", set(), ["noise by block"], 3),
        ("Plain", set(), [], 3),
        ("pipe", {"Pipeline.unet"}, ["noise by block"], 3),
    ],
)
def test_what_can_be_a_defense(
    bench: Bench, mine: Path, name: str, networks: set[str], flags: list[str], draws: int
) -> None:
    row = run(bench, defense=f"mine.py:{name}", attack="pgd", more="--access=full "
              "--set=attack.steps=2 --set=attack.eot=1")  # fmt: skip
    assert (row["defense"], row["state"]) == (f"mine.py:{name}", "done")
    about = cell(row, "provenance.json")
    assert about["flags"] == flags
    assert row["note"] == "; ".join(flags)
    judged = about["judge passes"]
    assert judged["classifier forward"] == 2 * 6 * draws
    counted = {one.rpartition(" ")[0] for one in judged} - {"classifier"}
    assert counted == networks
    for one in networks:
        assert judged[f"{one} forward"] == 2 * 6 * draws
        assert about["attack passes"][f"{one} backward"] > 0
    assert (cell(row)["defense"]["checkpoint"] is not None) == bool(networks)


@pytest.mark.parametrize("name", ["classifier", "net", "logits"])
def test_what_can_be_a_classifier(bench: Bench, mine: Path, name: str) -> None:
    row = run(bench, classifier=f"mine.py:{name}")
    part = cell(row)["classifier"]
    assert part["name"] == f"mine.py:{name}"
    assert len(part["checkpoint"]) == len(part["source"]) == 64
    assert cell(row, "provenance.json")["judge passes"]["classifier forward"] == 2 * 6


@pytest.mark.parametrize("name", ["attack", "Signs"])
def test_what_can_be_an_attack(bench: Bench, mine: Path, name: str) -> None:
    row = run(bench, attack=f"mine.py:{name}")
    assert (row["attack"], row["access"], row["state"]) == (f"mine.py:{name}", "full", "done")
    assert outcomes(row)["distance"].max() == pytest.approx(0.1)
    assert run(bench, attack=f"mine.py:{name}", more="--access=query")["access"] == "query"


def test_an_asked_for_stream_is_drawn_from_even_where_it_does_nothing(
    bench: Bench, mine: Path
) -> None:
    row = run(bench, defense="mine.py:with_rng", more="--set=defense.sigma=0")
    judged = cell(row, "provenance.json")["judge passes"]
    assert judged["classifier forward"] == 2 * 6 * 3


def test_parameters_are_those_of_the_function(bench: Bench, mine: Path) -> None:
    row = run(bench, more="--set=defense.shift=0.3")
    assert cell(row)["defense"]["params"] == {"shift": 0.3}
    for setting, part in (
        ("shift=far", "write a number"),
        ("shft=1", "Did you mean 'defense.shift'?"),
    ):
        said = bench("run", "--defense=mine.py:plain", "--attack=noise", *FEW,
                     f"--set=defense.{setting}")  # fmt: skip
        is_one_clear_message(said, part, code=2)


def test_the_same_file_elsewhere_is_the_same_cell_and_another_one_is_not(
    bench: Bench, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = run(bench)
    other = tmp_path / "deep" / "mine.py"
    other.parent.mkdir()
    other.write_text(MINE)
    (other.parent / "beside.py").write_text(BESIDE)
    with monkeypatch.context() as patched:
        never(patched, "bench.evaluation.run.judge")
        again = run(bench, defense="deep/mine.py:plain", classifier="deep/mine.py:net")
    assert again["key"] == row["key"]
    other.write_text(MINE + "\n# another line\n")
    assert run(bench, defense="deep/mine.py:plain")["key"] != row["key"]


def test_a_file_and_a_package_give_the_same_verdicts(
    bench: Bench, mine: Path, install: Callable[..., Path]
) -> None:
    package = (
        MINE.replace("import beside", "")
        + '''
from typing import ClassVar
@dataclass(frozen=True)
class Packaged:
    """The same by hand."""
    sigma: float = 0.2
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    def purify(self, x, *, rng):
        return with_rng(x, rng, self.sigma)
'''
    )
    install("packaged", "packaged", package, "[bench.defenses]\npackaged = packaged:Packaged\n")
    pgd = "--access=full --set=attack.steps=2 --set=attack.eot=2"
    rows = [
        run(bench, defense=name, attack="pgd", more=pgd)
        for name in ("mine.py:with_rng", "packaged")
    ]
    assert rows[0]["key"] != rows[1]["key"]
    assert_equal(*map(outcomes, rows))


def test_a_training_in_a_file_belongs_to_its_source(bench: Bench) -> None:
    source = (
        "from dataclasses import dataclass\n"
        "from bench_defenses.classifiers.small_cnn import SmallCnn\n"
        "@dataclass(frozen=True)\nclass Mine(SmallCnn):\n    width: int = 2\n"
    )
    train = ("train", "mine.py:Mine", "--set=classifier.training.epochs=1")
    Path("mine.py").write_text(source)
    for _ in range(2):
        assert bench(*train).code == 0
    cards = Path("results", "checkpoints", "digits")
    (card,) = cards.glob("mine.py:Mine-*.json")
    row = run(
        bench,
        defense="none",
        classifier="mine.py:Mine",
        more="--set=classifier.training.epochs=1",
    )
    assert cell(row)["classifier"]["checkpoint"] == json.loads(card.read_text())["sha256"]
    assert "mine.py:Mine-" in bench("show", "mine.py:Mine").out
    assert bench("verify").code == 0
    Path("mine.py").write_text(source + "# other\n")
    assert bench(*train).code == 0
    assert len(list(cards.glob("mine.py:Mine-*.json"))) == 2
    Path("mine.py").write_text(MINE.replace("import beside", ""))
    said = bench("train", "mine.py:AE")
    assert (said.code, "nothing to train" in said.err) == (2, True)
