"""Images of one's own through the commands: measured, found again, and refused in time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from bench.core.protocols import Pixels
from bench.data.load import load_test
from bench.data.names import cell_name, found_again, found_at, sized
from bench.errors import UsageError
from bench.evaluation.run import Prepared
from bench.experiments.compatible import check_classes, zoo_dataset
from bench.experiments.plan import Plan
from bench.results.cell import Cell
from bench.results.workspace import Workspace
from bench.verification.recompute import verify

from .. import cells
from ..command import Bench, is_one_clear_message, never
from .own import digits, save, save_folder

X, Y = digits()
TRAIN = {"x_train": digits(200, start=0)[0], "y_train": digits(200, start=0)[1]}
SMALL = ("--set=classifier.training.epochs=2", "--set=classifier.width=4", "--draws=3")
RUN = ("run", "--defense=gaussian", "--attack=pgd", "--set=attack.steps=2", *SMALL, "-n", "8")


def prepared(pixels: Pixels, name: str, **more: Any) -> Prepared:
    made = cells.prepared(name="langevin", n=12, shard=4, **more)
    named = {"dataset": cell_name(name), "sources": {"dataset": found_at(name)}}
    return replace(made, pixels=pixels, cell=replace(made.cell, data=pixels.digest, **named))


def test_the_same_images_in_every_form_have_the_same_outcomes(
    tmp_path: Path, workspace: Workspace
) -> None:
    names = [
        str(save(tmp_path / "bytes.npz", x=X[..., None], y=Y)),
        str(save(tmp_path / "floats.npz", x=(X[:, None] / 255).astype(np.float32), y=Y)),
        f"folder:{save_folder(tmp_path / 'photos', X, Y)}",
    ]
    found = [
        cells.rows(
            prepared(load_test(name, root=tmp_path), name, eps=Fraction(4, 100)), workspace
        )
        for name in names
    ]
    assert found[0]["clean"].sum() >= 6, "the classifier knows digits"
    assert 0 < found[0]["robust"].sum() < found[0]["clean"].sum(), "the attack is at work"
    for other in found[1:]:
        cells.assert_equal(found[0], other)


def test_a_folder_that_was_stopped_goes_on_and_is_verified(
    tmp_path: Path, workspace: Workspace
) -> None:
    name = f"folder:{save_folder(tmp_path / 'photos', X, Y)}"
    whole = cells.rows(prepared(load_test(name, root=tmp_path), name), cells.at(tmp_path / "w"))
    cells.stop_after(prepared(load_test(name, root=tmp_path), name), workspace, 1)
    left = workspace.store.missing(prepared(load_test(name, root=tmp_path), name).cell)
    assert 0 < len(left) < 3
    again = cells.rows(prepared(load_test(name, root=tmp_path), name), workspace)
    cells.assert_equal(whole, again)
    report = cells.finish(verify(workspace.store, data=tmp_path))
    assert [cell.wrong for cell in report.cells] == [[]]
    assert report.cells[0].images
    # Verified against the images themselves: another one in its place is seen.
    shutil.rmtree(tmp_path / "photos" / "03")
    save_folder(tmp_path / "photos", 255 - X[Y == 3], Y[Y == 3])
    report = cells.finish(verify(workspace.store, data=tmp_path))
    assert any("has changed since" in text for text in report.cells[0].unchecked)
    assert report.cells[0].wrong == []


@pytest.fixture
def mine(bench: Bench) -> str:
    """Measure the images of here/mine.npz and return the key of the cell."""
    Path("here").mkdir()
    save(Path("here/mine.npz"), **TRAIN)
    said = bench(*RUN, "--dataset=here/mine.npz", "--json")
    assert said.code == 0, said
    (row,) = said.rows
    assert (row["dataset"], row["state"]) == ("mine.npz", "done")
    return str(row["key"])


def test_all_commands_find_the_file_again(
    bench: Bench, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = json.loads(Path(f"results/cells/{mine}/cell.json").read_text())
    assert cell["sources"] == {"dataset": str(Path("here/mine.npz").absolute())}
    assert [path.name for path in Path("results/checkpoints").iterdir()] == ["mine.npz"]
    never(monkeypatch, "bench_defenses.classifiers.small_cnn.SmallCnn.start")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    at = "--results=../results"
    for words in (
        ("report", "--defense=gaussian", "--dataset=../here/mine.npz", at),
        ("judge", mine, "--draws=5", at),
        ("verify", "../results", "--votes"),
        ("table", "--dataset=../here/mine.npz", at),
        ("figure", "curves", "--dataset=mine.npz", at),
    ):
        said = bench(*words)
        assert said.code == 0, (words, said)
        assert "NOT CHECKED" not in said.out
    for path in Path("../results/cells").glob("*/cell.json"):
        assert json.loads(path.read_text())["sources"] == cell["sources"], (
            "judged again as well"
        )
    said = bench(*RUN, "--dataset=../here/mine.npz", at, "--json")
    assert said.rows[0]["key"] == mine, "the same file by another path is the same cell"


def test_a_file_that_moved_or_changed_is_named(bench: Bench, mine: str, tmp_path: Path) -> None:
    Path("here/mine.npz").rename("mine.npz")
    said = bench("verify")
    assert said.code == 0, said
    assert f"{mine} gaussian under pgd: ok" in said.out, "the current folder has it"
    assert bench("judge", mine, "--draws=4").code == 0
    Path("mine.npz").rename("yours.npz")
    said = bench("verify")
    assert said.code == 0
    assert "NOT CHECKED labels and images of" in said.out
    assert f"there is no file {tmp_path}/here/mine.npz" in said.out
    is_one_clear_message(
        bench("judge", mine, "--draws=6"), f"there is no file {tmp_path}/here/mine.npz", code=1
    )
    save(Path("mine.npz"), x=255 - X, y=Y, **TRAIN)
    said = bench("verify")
    assert said.code == 0, "that the file changed contradicts no result"
    assert f"NOT CHECKED labels and images: {tmp_path}" not in said.out
    assert "NOT CHECKED labels and images: mine.npz has changed since" in said.out
    is_one_clear_message(
        bench("judge", mine, "--draws=6"), "mine.npz is not the one that was measured",
        f"Restore {tmp_path}/here/mine.npz", code=1,
    )  # fmt: skip
    (row,) = bench(*RUN, "--dataset=mine.npz", "--json").rows
    assert row["key"] != mine


def test_no_user_is_named_where_results_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "mine.npz")
    (tmp_path / "val@16").mkdir()
    for typed, kept in (
        ("mine.npz", "~/mine.npz"), ("./mine.npz:validation", "~/mine.npz:validation"),
        ("folder:val@16", "folder:~/val@16"), ("folder:val@16/", "folder:~/val@16/"),
    ):  # fmt: skip
        assert found_at(typed) == kept
        assert found_at(kept) == kept
        assert cell_name(kept) == cell_name(typed)
    assert found_at("folder:/data/val") == "folder:/data/val"
    assert found_at("digits") is None
    assert found_again("mine.npz", {"dataset": "/gone/mine.npz"}) == "mine.npz"
    assert found_again("your.npz", {"dataset": "/gone/your.npz"}) == "/gone/your.npz"
    assert found_again("mnist", {}) == "mnist"


@pytest.mark.parametrize(
    "name",
    ["../mine.npz", "a/mine.npz", ".npz", "..", "mine\n.npz", "folder:..", "folder:a/b", "",
     "mine.npz:../x", "a\\b.npz", None, 3],
)  # fmt: skip
def test_a_stored_name_leaves_no_folder(name: Any) -> None:
    content = cells.prepared().cell.canonical()
    with pytest.raises(UsageError, match="is no name for a data set"):
        Cell.read({**content, "dataset": name})
    for good in ("mine.npz", "my images-2.npz", "folder:val@224", "mnist:validation",
                 "cifar10c:fog:3", "Bilder_ä.npz"):  # fmt: skip
        assert Cell.read({**content, "dataset": good}).dataset == good


def test_errors_come_before_anything_is_trained(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch, "bench_defenses.classifiers.small_cnn.SmallCnn.start")
    bad = (X / 100).astype(np.float32)
    save(Path("bad.npz"), x=bad, y=Y, **TRAIN)
    save(Path("bare.npz"))
    save(Path("mine.npz"), **TRAIN)
    save_folder(Path("photos"), X, Y)
    for words, parts in (
        (("--dataset=bad.npz",), ["'x' of", "bad.npz has floats from 0 to 2.54"]),
        (("--dataset=bare.npz",), ["small_cnn needs images to train on", "bare.npz has none"]),
        (("--dataset=folder:photos",), ["small_cnn needs images", "folder:photos has none"]),
        (("--dataset=mine.npz", "-n", "21"), ["n is 21, but mine.npz has 20", "Give -n 20"]),
        (("--dataset=mine.npz", "--image-size=8"), ["--image-size", "not those of 'mine.npz'"]),
        (("--dataset=folder:gone",), ["there is no folder", "gone. Check the path"]),
        (("--dataset=photos",), ["'photos' is a folder", "folder:photos"]),
        (("--dataset=mine.npy",), ["no data set is called 'mine.npy'", "file.npz"]),
    ):  # fmt: skip
        said = bench(*RUN, *words)
        is_one_clear_message(said, *parts, code=said.code)
        assert said.code in (1, 2), said
    assert not Path("results").exists() or not list(Path("results").rglob("*.parquet"))


def test_a_size_belongs_to_a_folder() -> None:
    assert sized("folder:val/", 224) == "folder:val/@224"
    assert cell_name("folder:val/@224") == "folder:val@224"
    assert sized("mnist", None) == "mnist"
    for name in ("mnist", "mine.npz", "folder:val@32"):
        with pytest.raises(UsageError, match="--image-size resizes the images of folder:PATH"):
            sized(name, 224)


def test_labels_beyond_the_logits(tmp_path: Path) -> None:
    pixels = load_test(str(save(tmp_path / "mine.npz")), root=tmp_path)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
    about: Any = {"classifier": "nine", "dataset": "mine.npz", "device": torch.device("cpu")}
    with pytest.raises(UsageError) as caught:
        check_classes(net, pixels, **about)
    for part in ("mine.npz has labels up to 9", "classifier nine has only 9 classes, 0 to 8"):
        assert part in str(caught.value)
    check_classes(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), pixels, **about)


def test_classifiers_of_the_zoo_are_found_by_the_classes(tmp_path: Path) -> None:
    ten, hundred = save(tmp_path / "ten.npz"), save(tmp_path / "hundred.npz", x=X, y=5 * Y)
    for dataset, zoo in (
        (str(ten), "cifar10"), (str(hundred), "cifar100"), ("cifar10c:fog:3", "cifar10"),
        ("cifar100:validation", "cifar100"), ("mnist", "mnist"),
    ):  # fmt: skip
        assert zoo_dataset(dataset) == zoo


def test_the_faults_of_a_plan_are_told_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        save(Path(folder, "mine.npz"))
    save(Path("short.npz"), y=Y[:3])
    names = ["a/mine.npz", "./a/mine.npz", "b/mine.npz", "short.npz", "gone.npz", "folder:c"]
    plan = Plan.model_validate(
        {"defenses": "none", "attacks": "noise", "threats": {"eps": "0.1"}, "datasets": names}
    )
    faults = plan.faults()
    assert len(faults) == 4
    assert "b/mine.npz have one name in results, mine.npz: rename one" in faults[0]
    for part, fault in zip(("(3,)", "no file", "no folder"), faults[1:], strict=True):
        assert part in fault


MINE = """
import torch
from torch import nn

def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def nine():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
"""


@pytest.fixture
def photos(bench: Bench) -> tuple[str, ...]:
    """Lay twenty images and a classifier into the current folder; return their options."""
    Path("mine.py").write_text(MINE)
    save_folder(Path("photos"), X, Y)
    return ("--dataset=folder:photos/", "--classifier=mine.py:classifier", "--draws=3")


def test_a_folder_needs_nothing_but_a_classifier(bench: Bench, photos: tuple[str, ...]) -> None:
    words = ("run", "--defense=gaussian", "--attack=noise", "-n", "20", "--json", *photos)
    (row,) = bench(*words).rows
    assert [row[name] for name in ("dataset", "state")] == ["folder:photos", "done"]
    assert bench("judge", row["key"], "--draws=4").code == 0
    said = bench("verify", "--votes")
    assert said.code == 0
    assert "2 finished cells" in said.out
    assert "labels and images" not in said.out
    assert "votes" not in said.out
    (smaller,) = bench(*words, "--image-size=8").rows
    assert smaller["dataset"] == "folder:photos@8"
    assert smaller["clean"] == row["clean"], "they have 8 pixels already"
    assert smaller["key"] != row["key"]
    is_one_clear_message(
        bench(*words, "--classifier=mine.py:nine"),
        "folder:photos has labels up to 9", "only 9 classes, 0 to 8", code=2,
    )  # fmt: skip


def test_workers_find_a_relative_path(bench: Bench, photos: tuple[str, ...]) -> None:
    plan = {
        "datasets": "folder:photos", "classifiers": "mine.py:classifier", "defenses": "none",
        "attacks": "noise", "threats": {"eps": "0.1"}, "n": 8, "draws": 1, "shard": 4,
    }  # fmt: skip
    Path("plan.yaml").write_text(yaml.safe_dump(plan))
    said = bench("matrix", "plan.yaml", "--executor=local", "--jobs=1", "--json")
    assert said.code == 0, said
    assert [(row["dataset"], row["state"]) for row in said.rows] == [("folder:photos", "done")]
