"""Weights from files: what is understood, and what a wrong file is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.core.networks import digest_of_weights
from bench.errors import BenchError, CheckpointError, UsageError
from bench.plugins.catalogue import build
from bench.plugins.state_dicts import load_weights

from ..command import Bench, is_one_clear_message


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten())


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = network()


class Beside(Inside):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)


def prefixed(state: Any, prefix: str) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture
def state() -> dict[str, Any]:
    torch.manual_seed(5)
    return network().state_dict()


def assert_loaded(path: Path, state: dict[str, Any], into: nn.Module | None = None) -> None:
    found = load_weights(into or network(), path).state_dict()
    for (_, one), (_, other) in zip(found.items(), state.items(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "best": torch.tensor(0.9)},
        lambda s: {"model": prefixed(s, "module."), "optimizer": {"state": {}, "groups": []}},
        lambda s: {"convAE_state_dict": s},
        lambda s: {"state_dict": s, "ema_state_dict": prefixed(s, "other.")},
        lambda s: prefixed(s, "module._orig_mod."),
        lambda s: {name: v for name, v in s.items() if "num_batches" not in name},
    ],
    ids=["plain", "nested", "parallel", "one place", "ema", "compiled", "no counters"],
)
def test_what_training_scripts_save(tmp_path: Path, state: dict[str, Any], wrap: Any) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    assert_loaded(tmp_path / "w.pth", state)


def test_safetensors_and_a_network_that_holds_another(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert_loaded(tmp_path / "w.safetensors", state)
    assert_loaded(tmp_path / "w.safetensors", state, Inside())


@pytest.mark.parametrize(
    ("content", "into", "parts"),
    [
        ({"0.weight": torch.zeros(3, 1, 3, 3)}, network(),
         ["5 missing (0.bias", "which has 7 tensors"]),
        (network(2).state_dict(), network(),
         ["of another shape", "0.weight (2, 1, 3, 3) instead of (3, 1, 3, 3)"]),
        ({**network().state_dict(), "9.bias": torch.zeros(1)}, network(),
         ["1 unexpected (9.bias)"]),
        (network().state_dict(), Beside(), ["its part 'model' only"]),
        # The names of a part, but not its shapes: nothing is known of where they belong.
        (nn.Linear(3, 3).state_dict(), Beside(), ["Name the network, and the parameters"]),
        ({"a": network().state_dict(), "b": network().state_dict()}, network(),
         ["several networks (a, b)"]),
        ([torch.zeros(1)], network(), ["holds a list"]),
        ({"epoch": 3}, network(), ["has no tensors"]),
        (network(), network(), ["Python objects (torch.nn.modules.container.Sequential)"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(
    tmp_path: Path, content: Any, into: nn.Module, parts: list[str]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    before = {name: one.clone() for name, one in into.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(into, path)
    for part in ["w.pth", *parts]:
        assert part in str(caught.value)
    assert "Train again" not in str(caught.value)
    for name, one in into.state_dict().items():
        assert torch.equal(one, before[name]), "half a network was loaded"


def test_what_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file of weights"):
        load_weights(network(), tmp_path / "none.pth")
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_text("<html>")
        with pytest.raises(CheckpointError, match="is no "):
            load_weights(network(), tmp_path / name)
    (tmp_path / "w.pth").write_text("hello")  # a KeyError of torch's, which says 101
    with pytest.raises(
        CheckpointError, match=r"w\.pth cannot .*\(KeyError: 101\): it is damaged"
    ):
        load_weights(network(), tmp_path / "w.pth")


NAME = "squeezenet1_1"  # the smallest one


def architecture(path: Path, classes: int = 10, **params: Any) -> nn.Module:
    found: nn.Module = build("classifiers", f"torchvision:{NAME}={path}", params).network(
        shape=(3, 32, 32), classes=classes
    )
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import get_model

    path = tmp_path_factory.mktemp("weights") / "w.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = get_model(NAME, weights=None, num_classes=12).state_dict()
    torch.save(prefixed(state, "module."), path)
    save_file(state, path.with_suffix(".safetensors"))
    return path


def test_an_architecture_knows_the_classes_of_its_weights(weights: Path) -> None:
    one = architecture(weights)
    other = architecture(weights.with_suffix(".safetensors"))
    x = torch.rand(2, 3, 32, 32)
    assert one.eval()(x).shape == (2, 12)
    assert digest_of_weights(one) == digest_of_weights(other)
    with pytest.raises(CheckpointError, match="know 12 classes, but the data set has 100"):
        architecture(weights, classes=100)


def test_an_architecture_normalizes_as_it_was_trained(weights: Path) -> None:
    x, mean, std = torch.rand(2, 3, 32, 32), [0.1, 0.2, 0.3], [0.5]
    plain, scaled = architecture(weights).eval(), architecture(weights, mean=mean, std=std)
    expected = plain((x - torch.tensor(mean).reshape(1, 3, 1, 1)) / 0.5)
    assert torch.equal(scaled.eval()(x), expected)
    for wrong in ({"mean": [0.1, 0.2], "std": [1, 1]}, {"mean": [0.1]}, {"std": [0.1]}):
        with pytest.raises(UsageError, match=r"classifier\.\w+ has \d numbers"):
            architecture(weights, **wrong)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("torchvision:squeezenet", "Did you mean 'squeezenet1_"),
        ("torchvision:squeezenet1_1", "write torchvision:squeezenet1_1=FILE"),
        ("torchvision:squeezenet1_1=none.pth", "there is no file of weights none.pth"),
        ("foolbox:PGD", "no name of one of the classifiers"),
    ],
)
def test_an_architecture_that_is_not_there_is_told(bench: Bench, name: str, part: str) -> None:
    said = bench("run", "--defense=none", f"--classifier={name}", "--attack=noise", "-n", "2")
    is_one_clear_message(said, part, code=2)


def test_timm_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install timm"):
        build("classifiers", "timm:resnet18=w.pth", {})


def test_a_network_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", exc_type=ImportError)
    state = timm.create_model("lcnet_035", num_classes=10, in_chans=1).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    made = build("classifiers", f"timm:lcnet_035={tmp_path / 'w.safetensors'}", {})
    network = made.network(shape=(1, 32, 32), classes=10)
    assert network.eval()(torch.rand(2, 1, 32, 32)).shape == (2, 10)


def test_other_weights_in_the_same_place_are_another_cell(bench: Bench) -> None:
    Path("mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
        "class Purify(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(1, 1, 1))\n"
    )
    run = ("run", "--defense=mine.py:Purify=p.pth", "--classifier=mine.py:Net=n.pth",
           "--attack=noise", "-n", "2", "--draws=2", "--set=attack.tries=1",
           "--json")  # fmt: skip
    keys = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        torch.save({"state_dict": {"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}},
                   "n.pth")  # fmt: skip
        torch.save({"0.weight": torch.ones(1, 1, 1, 1), "0.bias": torch.zeros(1)}, "p.pth")
        (row,) = bench(*run).rows
        keys.append(row["key"])
    assert keys[0] == keys[1] != keys[2]
    content = json.loads(Path("results", "cells", keys[0], "cell.json").read_text())
    assert content["defense"]["name"] == "mine.py:Purify"
    torch.save({"0.weight": torch.ones(2, 1, 1, 1), "0.bias": torch.zeros(2)}, "p.pth")
    is_one_clear_message(bench(*run), "do not fit Purify", code=1)


def test_weights_are_for_networks_only(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def purify(x):\n    return x\n")
    torch.save(network().state_dict(), tmp_path / "w.pth")
    made = build("defenses", f"{tmp_path / 'mine.py'}:purify={tmp_path / 'w.pth'}", {})
    with pytest.raises(BenchError, match="no place for weights"):
        made.purifier(shape=(1, 8, 8))
