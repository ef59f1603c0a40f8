"""The RobustBench zoo, offline: a real architecture with random weights where the zoo looks."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core.defense import Defense
from bench.errors import BenchError, CheckpointError, UsageError
from bench.models import robustbench as zoo

# The smallest CIFAR-10 Linf architecture: a ResNet-18, 45 MB.
NAME = "Sehwag2021Proxy_R18"

needs_zoo = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("robustbench", "pkg_resources")),
    reason="robustbench (the extra of that name) or pkg_resources is not installed",
)


def load(model_dir: Path, name: str = NAME, **options: str) -> torch.nn.Module:
    options = {"dataset": "cifar10", "threat": "Linf", **options}
    return zoo.load_zoo_classifier(name, model_dir=model_dir, **options)


def place(model_dir: Path, name: str = NAME) -> Path:
    path = model_dir / "cifar10" / "Linf" / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def weights() -> dict[str, Tensor]:
    models = zoo.import_robustbench().model_zoo.model_dicts
    (linf,) = (models[key] for key in models if key.value == "cifar10")
    (entries,) = (linf[key] for key in linf if key.value == "Linf")
    torch.manual_seed(0)
    state: dict[str, Tensor] = entries[NAME]["model"]().state_dict()
    return state


@needs_zoo
def test_a_zoo_classifier_is_loaded_offline_with_the_weights_of_its_file(
    tmp_path: Path, weights: dict[str, Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    # The zoo's files come from DataParallel trainings: their names begin with "module.".
    named = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": named}, place(tmp_path))
    model = load(tmp_path)
    assert not any(module.training for module in model.modules())
    assert torch.equal(model.state_dict()["conv1.weight"], weights["conv1.weight"])
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert capfd.readouterr() == ("", "")


@needs_zoo
def test_clean_accuracy_takes_a_defense_as_it_is(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    from bench_defenses.none import Identity

    torch.save(weights, place(tmp_path))
    defense = Defense(Identity(), load(tmp_path))
    clean_accuracy = zoo.import_robustbench().utils.clean_accuracy
    x = torch.rand(6, 3, 32, 32)
    y = defense(x).argmax(1)
    y[:3] = (y[:3] + 1) % 10
    assert clean_accuracy(defense, x, y, batch_size=4) == pytest.approx(0.5)


@needs_zoo
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>Google Drive - Quota exceeded</html>", "web page"),
        (b"\n <html>", "web page"),
        (b"", "empty"),
        (pickle.dumps({"state_dict": 1}), "not written by torch.save"),
        (b"PK\x03\x04 and then nothing", "cut off"),
        (zoo._LEGACY + b"and then nothing", "damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_moved_aside(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = place(tmp_path)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as raised:
        load(tmp_path)
    assert "https://drive.google.com/file/d/" in str(raised.value)
    assert str(path) in str(raised.value)
    assert not path.exists()
    assert path.with_name(f"{NAME}.pt.bad").read_bytes() == content


@needs_zoo
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_checkpoint_is_moved_aside(tmp_path: Path, legacy: bool) -> None:
    path = place(tmp_path)
    state = {"conv1.weight": torch.zeros(50, 50)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged" if legacy else "cut off"):
        load(tmp_path)
    assert path.with_name(f"{NAME}.pt.bad").exists()


class Foreign:
    """An object that weights-only loading has to refuse."""


@needs_zoo
@pytest.mark.parametrize("legacy", [False, True])
def test_other_objects_are_refused_and_the_file_is_kept(tmp_path: Path, legacy: bool) -> None:
    path = place(tmp_path)
    torch.save({"args": Foreign()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="other objects than tensors"):
        load(tmp_path)
    assert path.exists()


@needs_zoo
def test_another_models_file_is_named_as_such_and_kept(tmp_path: Path) -> None:
    path = place(tmp_path)
    torch.save({"conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=f"does not fit the RobustBench .*{NAME}"):
        load(tmp_path)
    assert path.exists()


@needs_zoo
def test_a_missing_file_without_network_gives_the_manual_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(key: str, path: Path) -> None:
        path.write_bytes(b"half")
        raise ConnectionError("no route to drive.google.com")

    monkeypatch.setattr(zoo.import_robustbench().utils, "download_gdrive_new", refused)
    with pytest.raises(CheckpointError, match="no route") as raised:
        load(tmp_path)
    assert f"save the file as {place(tmp_path)}" in str(raised.value)
    assert list(place(tmp_path).parent.iterdir()) == []


@needs_zoo
def test_a_downloaded_web_page_never_becomes_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(key: str, path: Path) -> None:
        path.write_text("<html>Too many users have viewed this file</html>")

    monkeypatch.setattr(zoo.import_robustbench().utils, "download_gdrive_new", page)
    with pytest.raises(CheckpointError, match="web page"):
        load(tmp_path)
    assert not place(tmp_path).exists()


@needs_zoo
def test_timm_models_and_ensembles_name_their_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def files(name: str) -> list[Any]:
        return zoo._files(name, "cifar10", "Linf", tmp_path)

    (single,) = files("Debenedetti2022Light_XCiT-S12")
    assert single.url.startswith("https://github.com/RobustBench/")
    assert single.path.parent == tmp_path / "checkpoints"
    members = files("Chen2020Adversarial")
    assert [file.path.name for file in members] == [
        f"Chen2020Adversarial.pt_m{i}.pt" for i in range(3)
    ]


@needs_zoo
def test_an_unknown_name_gets_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'Carmon2019Unlabeled'"):
        load(tmp_path, "Carmon2019Unlabelled")
    with pytest.raises(UsageError, match="threat on cifar100 is called 'L2'"):
        load(tmp_path, dataset="cifar100", threat="L2")
    assert list(tmp_path.iterdir()) == []


@needs_zoo
def test_the_names_of_one_threat_are_among_those_of_all() -> None:
    assert NAME in zoo.zoo_names("cifar10", "Linf")
    assert set(zoo.zoo_names("cifar10", "L2")) < set(zoo.zoo_names("cifar10"))


@needs_zoo
def test_the_preferred_threat_is_taken_where_the_zoo_has_the_name_twice() -> None:
    def find(name: str, preferred: str) -> str:
        return zoo.find_threat(name, dataset="cifar10", preferred=preferred)

    assert find("Rice2020Overfitting", "L2") == "L2"
    assert find("Rice2020Overfitting", "Linf") == "Linf"
    assert find(NAME, "corruptions") == "Linf"
    with pytest.raises(UsageError, match="Did you mean 'Rice2020Overfitting'"):
        find("Rice2020Overfit", "L2")


def test_a_data_set_that_the_zoo_lacks_is_refused_before_the_slow_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "import_robustbench", lambda: pytest.fail("imported"))
    with pytest.raises(UsageError, match="Known: cifar10, cifar100"):
        load(tmp_path, dataset="mnist")


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("robustbench", "pip install 'purifybench[robustbench]'"),
        ("pkg_resources", 'pip install "setuptools<82"'),
    ],
)
def test_a_missing_package_gives_the_install_line(
    missing: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else object()
    )
    with pytest.raises(BenchError) as raised:
        zoo.import_robustbench()
    assert line in str(raised.value)
