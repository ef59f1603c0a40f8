"""Full disks, missing data and damaged files: one message, and nothing is replaced."""

from __future__ import annotations

import errno
import gzip
import importlib
import importlib.util
import os
import resource
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from ..command import RUN, TINY, Bench, is_one_clear_message


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: object) -> None:
        pytest.fail("a training began that could not be kept")

    monkeypatch.setattr("bench_defenses.classifiers.small_cnn.SmallCnn.start", start)


def test_a_results_folder_that_is_a_file_is_found_before_the_training(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").write_text("mine")
    no_training(monkeypatch)
    is_one_clear_message(bench(*RUN), "results", "--results", code=1)
    assert (tmp_path / "results").read_text() == "mine"


def test_a_results_folder_that_cannot_be_written_is_found_before_the_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_training(monkeypatch)
    # Not by permissions, which do not bind root.
    is_one_clear_message(bench(*RUN, "--results=/proc/none/of"), "/proc", "--results", code=1)


def test_a_table_goes_to_no_folder(bench: Bench, tmp_path: Path) -> None:
    bench(*RUN)
    is_one_clear_message(bench("table", "-o", "."), "cannot write .", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_table_of_another_data_set_says_that_the_filter_left_nothing(bench: Bench) -> None:
    bench(*RUN)
    is_one_clear_message(bench("table", "--dataset=mnist"), "mnist", "digits", code=2)
    is_one_clear_message(bench("table", "--dataset=digit"), "'digits'", code=2)


def test_a_full_disk_as_the_system_says_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bench(*RUN)
    monkeypatch.setattr(tempfile, "mkstemp", full)
    said = bench(*RUN, "--seed=1")
    is_one_clear_message(said, "No space left", "Free some space", "--results", code=1)


@pytest.mark.parametrize("trained", [False, True], ids=["checkpoint", "images"])
def test_a_full_disk_in_the_middle_of_a_file(
    bench: Bench, tmp_path: Path, trained: bool
) -> None:
    """safetensors has an error of its own for a write that fails."""
    if trained:
        bench(*RUN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        said = bench(*RUN, "--seed=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    is_one_clear_message(said, "cannot write", "Free some space", code=1)
    assert [path for path in tmp_path.rglob(".*") if path.is_file()] == []
    assert bench(*RUN, "--seed=1").code == 0, "the same command goes on"


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*args: object, **options: object) -> None:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_a_data_set_that_is_not_there_and_no_network(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    offline(monkeypatch)
    said = bench(*RUN, "--json", f"--dataset={dataset}")
    is_one_clear_message(said, "--data", "BENCH_DATA", "raw", "--dataset digits", code=1)
    assert said.out == ""


@pytest.mark.parametrize(
    "content", [b"", b"<html>quota exceeded</html>", gzip.compress(bytes(100))],
    ids=["empty", "a page", "another file"],
)  # fmt: skip
def test_a_damaged_mnist_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    offline(monkeypatch)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(content)
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(content)
    said = bench(*RUN, "--dataset=mnist")
    is_one_clear_message(said, "ubyte.gz is damaged", "md5", "Delete it", code=1)


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("robustbench", "pip install 'purifybench[robustbench]'"),
        ("pkg_resources", "setuptools"),
    ],
)
def test_robustbench_is_not_installed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, missing: str, line: str
) -> None:
    find, here = importlib.util.find_spec, ModuleSpec("here", None)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == missing else find(name) or here,
    )
    said = bench("run", "--defense=none", "--attack=noise", "--dataset=cifar10",
                 "--classifier=robustbench:Standard")  # fmt: skip
    is_one_clear_message(said, missing, line, code=2)


DAMAGES = {
    "cut off": (lambda whole: whole[:100], "100 bytes"),
    "empty": (lambda whole: b"", "empty"),
    "a web page": (lambda whole: b"<!DOCTYPE html><html>", "HTML page"),
    "a pickle": (lambda whole: b"\x80\x02}q\x00.", "pickle"),
    "a zip of torch.save": (lambda whole: b"PK\x03\x04", "pickle"),
    "one bit": (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "SHA-256"),
}


@pytest.mark.parametrize(("damage", "part"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_checkpoint_is_neither_used_nor_replaced(
    bench: Bench, tmp_path: Path, damage: Callable[[bytes], bytes], part: str
) -> None:
    assert bench("train", "small_cnn", TINY[0]).code == 0
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    kept = path.read_bytes()
    is_one_clear_message(bench(*RUN), path.name, "damaged", part, "Delete it", code=1)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0"}'])
def test_a_damaged_card_of_a_checkpoint(bench: Bench, tmp_path: Path, text: str) -> None:
    assert bench("train", "small_cnn", TINY[0]).code == 0
    (card,) = tmp_path.rglob("small_cnn*.json")
    card.write_text(text)
    for said in (bench(*RUN), bench("show", "small_cnn")):
        is_one_clear_message(said, card.stem, code=1)
        assert "Delete its folder" not in said.err, "that would delete all other checkpoints"


@pytest.mark.parametrize(
    ("name", "content"),
    [("cell.json", "{"), ("cell.json", "{}"), ("cell.json", ""), ("provenance.json", "{}"),
     ("provenance.json", None), ("outcomes.parquet", "PAR1"), ("outcomes.parquet", "")],
)  # fmt: skip
def test_a_damaged_cell(bench: Bench, tmp_path: Path, name: str, content: str | None) -> None:
    assert bench(*RUN).code == 0
    (path,) = tmp_path.glob(f"results/cells/*/{name}")
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    key = path.parent.name
    for words in (("table",), ("table", "--worst-case")):
        said = bench(*words)
        is_one_clear_message(said, key, "Delete", code=1)
        assert "damaged" in said.out
    assert bench(*RUN, "--seed=1").code == 0
    said = bench("table", "--format=csv")
    assert (said.code, said.out.count(",damaged,"), said.out.count(",done,")) == (1, 1, 1)
    said = bench(*RUN)
    is_damaged = (
        f"damaged: cell {key} is damaged: " in said.err or "another version" in said.err
    )
    assert (said.code, is_damaged) == (1, True), "what is there is not measured over"


@pytest.mark.parametrize("text", ["", "\0\xff", "key,state\n1", "a\n" * 3, '"', "key,key\n1,2"])
def test_a_broken_runs_csv_is_made_anew(bench: Bench, tmp_path: Path, text: str) -> None:
    assert bench(*RUN).code == 0
    path = tmp_path / "results" / "runs.csv"
    whole = path.read_bytes()
    path.write_bytes(text.encode("latin-1"))
    said = bench("verify")
    assert (said.code, "Traceback" in said.err) == (1, False)
    assert "runs.csv cannot be read" in said.out
    assert bench(*RUN).code == 0
    assert path.read_bytes() == whole
    assert bench("verify").code == 0


def test_two_checkpoints_that_were_exchanged_with_their_cards_are_refused(
    bench: Bench, tmp_path: Path
) -> None:
    seeds = (RUN, (*RUN, "--set=classifier.training.seed=1"))
    for words in seeds:
        assert bench(*words).code == 0
    one, two = sorted(tmp_path.rglob("small_cnn-*.safetensors"))
    for first, second in ((one, two), (one.with_suffix(".json"), two.with_suffix(".json"))):
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    for words in seeds:
        said = bench(*words, "--draws=4")
        is_one_clear_message(said, "small_cnn-", "another training", "exchanged", code=1)
    said = bench("verify")
    assert said.code == 1
    for path in (one, two):
        assert f"WRONG {path.name} is not what its card says" in said.out
