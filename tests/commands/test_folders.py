"""Folders that are not there: nothing is made by mistake, and what to do is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision

from ..command import Bench, is_one_clear_message

RUN = ("run", "--defense=none", "--attack=noise", "-n", "5", "--draws=2")


def nothing(*_: object, **__: object) -> None:
    raise RuntimeError("no network here")


@pytest.mark.parametrize("dataset", ["mnist", "svhn", "cifar10"])
def test_a_data_folder_that_is_not_there_is_not_made(
    bench: Bench, tmp_path: Path, dataset: str
) -> None:
    said = bench(*RUN, f"--dataset={dataset}", "--data=mistyped", "--dry-run")
    is_one_clear_message(said, "there is no folder mistyped", "mkdir -p mistyped", code=1)
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(("where", "kept"), [("data", False), ("mine", True)])
def test_a_download_that_fails_leaves_no_empty_folders(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, kept: bool
) -> None:
    def fails(root: str, **_: object) -> None:
        Path(root, "MNIST", "raw").mkdir(parents=True)
        nothing()

    monkeypatch.setattr(torchvision.datasets, "MNIST", fails)
    if kept:
        Path(tmp_path, where).mkdir()
        Path(tmp_path, where, "notes.txt").touch()
    said = bench(*RUN, "--dataset=mnist", f"--data={where}", "--dry-run")
    is_one_clear_message(said, "cannot be downloaded", "no network here", code=1)
    assert (tmp_path / where).exists() == kept
    assert not (tmp_path / where / "MNIST").exists()


def test_a_file_is_no_folder_of_data(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = bench(*RUN, "--dataset=mnist", "--data=file", "--dry-run")
    is_one_clear_message(said, "file is a file. Name the folder", code=1)


def test_digits_need_no_data_folder(bench: Bench, tmp_path: Path) -> None:
    assert bench(*RUN, "--data=mistyped", "--dry-run").code == 0
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize(
    "words",
    [("table",), ("report", "--defense=none"), ("figure", "curves"), ("paper", "--rebuild"),
     ("calibrate",)],
    ids=lambda words: words[0],
)  # fmt: skip
def test_the_folder_of_an_output_has_to_be_there(
    bench: Bench, tmp_path: Path, words: tuple[str, ...]
) -> None:
    said = bench(*words, "--output=nowhere/deep/page.md")
    is_one_clear_message(said, "there is no folder nowhere/deep", "mkdir -p", code=2)
    assert list(tmp_path.iterdir()) == []


def test_collect_makes_no_results(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("defenses: none\nattacks: noise\nthreats: {eps: 0.1}\n")
    said = bench("collect", "my.yaml", "--results=mistyped")
    is_one_clear_message(said, "there is no folder mistyped", "--results", code=2)
    assert not (tmp_path / "mistyped").exists()
