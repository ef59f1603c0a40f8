"""Every tensor and every line of source that took part in a cell is in its key."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ..command import Bench, is_one_clear_message

SHIFT = "torch.load(Path(__file__).with_name('w.pth'), weights_only=True)"
# A plugin's own class, whose `purify` adds what `shift` finds.
PLUGIN = """
import torch
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from bench.api import Rng
{before}

@dataclass(frozen=True)
class Shifted:
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    {inside}

    def purify(self, x, *, rng: Rng):
        return x + {shift}

def purify(x):
    return Shifted().purify(x, rng=None)
"""
PLACES = {
    "a global": {"before": f"W = {SHIFT}", "inside": "", "shift": "W"},
    "a list of a global": {"before": f"WS = [{SHIFT}]", "inside": "", "shift": "WS[0]"},
    "a class": {"before": "", "inside": f"W = {SHIFT}", "shift": "self.W"},
    "another class": {
        "before": f"class Kept:\n    w = {SHIFT}",
        "inside": "",
        "shift": "Kept.w",
    },
    "a part": {
        "before": f"W = {SHIFT}\nclass Part:\n    def __call__(self):\n        return W",
        "inside": "part = Part()",
        "shift": "self.part()",
    },
    "a module beside": {"before": "import kept_x", "inside": "", "shift": "kept_x.W"},
}
FAST = ("--attack=noise", "--set=attack.tries=1", "-n", "2", "--draws=2", "--eps=0.1")
NET = "from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


def content(key: str, name: str = "cell.json") -> Any:
    return json.loads(Path("results", "cells", key, name).read_text())


@pytest.fixture
def outline(bench: Bench) -> Callable[..., Any]:
    """What a dry run says."""
    Path("net.py").write_text(NET)

    def outline(*words: str, classifier: str = "net.py:net") -> Any:
        run = ("run", *words, f"--classifier={classifier}", *FAST, "--json")
        return json.loads(bench(*run, "--dry-run").out)

    return outline


@pytest.fixture
def key_of(bench: Bench, outline: Callable[..., Any]) -> Callable[..., str]:
    """The key of a run, which a dry run announces."""

    def key_of(*words: str, classifier: str = "net.py:net") -> str:
        run = ("run", *words, f"--classifier={classifier}", *FAST, "--json")
        (row,) = bench(*run).rows
        said = outline(*words, classifier=classifier)
        assert (said["key"], said["done"]) == (row["key"], True)
        return str(row["key"])

    return key_of


@pytest.mark.parametrize("place", PLACES)
def test_tensors_beside_a_plugin_are_in_the_key(
    outline: Callable[..., Any],
    install: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    source = PLUGIN.format(**PLACES[place])
    site = install("shift", "shift_x", source, "[bench.defenses]\nshift = shift_x:Shifted\n")
    (site / "kept_x.py").write_text(f"import torch\nfrom pathlib import Path\nW = {SHIFT}\n")
    for defense in (f"{site}/shift_x.py:Shifted", "shift"):
        found = []
        for number, value in enumerate((0.1, 0.1, 0.2)):
            torch.save(torch.full((1, 8, 8), value), site / "w.pth")
            if number != 1:  # in another process
                sys.modules.pop("shift_x", None)
                sys.modules.pop("kept_x", None)
                monkeypatch.setattr("bench.plugins.files._loaded", {})
            found.append(outline(f"--defense={defense}"))
        one, again, other = (each["cell"]["defense"] for each in found)
        assert one == again
        assert one["beside"] != other["beside"], defense
        assert one["source"] == other["source"]


LATE = """
import torch
W = None
def purify(x):
    global W
    if W is None:
        W = torch.ones(1)
    return x * W
"""


def test_weights_that_are_loaded_at_the_first_call_are_refused(bench: Bench) -> None:
    Path("late.py").write_text(LATE)
    Path("net.py").write_text(NET)
    said = bench("run", "--defense=late.py:purify", "--classifier=net.py:net", *FAST)
    is_one_clear_message(said, "late.py:purify loads 'W' when it is called", code=1)


TRAINED = """
import torch
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from bench.api import Rng
from bench_defenses.classifiers.small_cnn import SmallCnn

BESIDE = Path(__file__).with_name("w.pth")

@dataclass(frozen=True)
class Recipe:
    seed: int = 0

class Run:
    def __init__(self, task):
        self.step, self.total = 0, 1
    def advance(self):
        self.step += 1
    def metrics(self):
        return {}
    evaluate = metrics
    def state(self):
        return {"step": self.step}
    def restore(self, state):
        self.step = state["step"]
    def weights(self):
        return {"shift": torch.zeros(1)}

class Purifier:
    stochastic, differentiable = False, True
    def __init__(self, shift):
        self.shift, self.more = shift, torch.load(BESIDE, weights_only=True)
    def purify(self, x, *, rng: Rng):
        return x + self.shift + self.more

@dataclass(frozen=True)
class Shifted:
    training: Recipe = field(default_factory=Recipe)
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = False
    def negatives(self):
        return None
    def start(self, task):
        return Run(task)
    def load(self, weights, *, shape):
        return Purifier(weights["shift"])

@dataclass(frozen=True)
class Net(SmallCnn):
    def load(self, weights, *, shape, classes):
        net = super().load(weights, shape=shape, classes=classes)
        net.register_buffer("more", torch.load(BESIDE, weights_only=True))
        return net
"""
POINTS = (
    "[bench.defenses]\nt_shift = trained_x:Shifted\n[bench.classifiers]\nt_net = trained_x:Net"
)


def test_weights_that_are_loaded_beside_a_checkpoint_are_in_the_key(
    key_of: Callable[..., str], install: Callable[..., Path]
) -> None:
    site = install("trained", "trained_x", TRAINED, POINTS)
    epoch = "--set=classifier.training.epochs=1"
    keys: dict[str, list[str]] = {"defense": [], "classifier": []}
    for value in (0.1, 0.1, 0.2):
        torch.save(torch.full((1, 8, 8), value), site / "w.pth")
        keys["defense"].append(key_of("--defense=t_shift"))
        keys["classifier"].append(key_of("--defense=none", epoch, classifier="t_net"))
    for part, (one, again, other) in keys.items():
        assert one == again != other
        mine, theirs = content(one)[part], content(other)[part]
        assert mine["checkpoint"] == theirs["checkpoint"], "it was trained again"
        assert mine["beside"] != theirs["beside"]


PACKAGE = {
    "__init__.py": "",
    "shift.py": PLUGIN.format(
        before="from . import other_side\nfrom .parts import one", inside="", shift="one()"
    ),
    "parts.py": "def one():\n    return 0.1\n",
    "other_side.py": "",
    "unused.py": "",
}


@pytest.mark.parametrize(
    ("file", "changes"),
    [("shift.py", True), ("parts.py", True), ("__init__.py", True), ("unused.py", False)],
)
def test_the_source_of_an_installed_plugin_is_in_the_key(
    outline: Callable[..., Any],
    install: Callable[..., Path],
    file: str,
    changes: bool,
) -> None:
    points = (
        "[bench.defenses]\npacked = packed_x.shift:Shifted\npacked_f = packed_x.shift:purify\n"
    )
    site = install("packed", "unused", "", points)
    (site / "packed_x").mkdir()
    for name, text in PACKAGE.items():
        (site / "packed_x" / name).write_text(text)
    found = []
    for text in ("", "# changed\n"):
        with (site / "packed_x" / file).open("a") as opened:
            opened.write(text)
        for name in [name for name in sys.modules if name.startswith("packed_x")]:
            del sys.modules[name]  # in another process
        names = ("packed", "packed_f")
        found.append([outline(f"--defense={name}")["cell"]["defense"] for name in names])
    for one, other in zip(*found, strict=True):
        assert (one["source"] != other["source"]) == changes
        assert {**one, "source": 0} == {**other, "source": 0}


def test_provenance_names_the_source_of_a_stranger_and_what_ships_has_none(
    key_of: Callable[..., str], install: Callable[..., Path]
) -> None:
    source = PLUGIN.format(before="", inside="", shift="0.1")
    install("shift", "plain_x", source, "[bench.defenses]\nplain = plain_x:Shifted\n")
    key = key_of("--defense=plain")
    about = content(key, "provenance.json")
    assert about["sources"]["plain of shift 1.0"] == content(key)["defense"]["source"]
    assert about["versions"]["shift"] == "1.0"
    ships = content(key_of("--defense=bit_depth"))
    for part in ("defense", "attack"):
        assert set(ships[part]) == {"name", "params", "revision", "checkpoint"}
