"""The store: what exists is whole, and what cannot be written or read says what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import StoreError
from bench.evaluation.propose import Proposal, keep
from bench.models.checkpoints import save_checkpoint
from bench.models.train import _advance
from bench.results.cell import Cell, Part
from bench.results.files import read_json, write_json, written
from bench.results.locks import claimed
from bench.results.settings import NOTHING_SET, Settings
from bench.results.store import Store
from bench.results.table import collect

CELL = Cell(
    dataset="digits", data="00", n=4, shard=2, classifier=Part("small_cnn", {}, 1, "c"),
    defense=Part("none", {}, 1), attack=Part("pgd", {}, 1),
    threat=ThreatModel(Norm.LINF, Fraction(1, 10), Access.FULL), seed=0, draws=1,
)  # fmt: skip
TODO = r"(Free some space or name|Name) another folder with --results"


def rows(start: int) -> dict[str, Any]:
    return {"index": np.arange(start, start + 2), "votes": [np.array([0, 1])] * 2}


def files(folder: Path) -> list[str]:
    """Name every file, hidden ones too."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_written_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "file.txt"
    for text in ("old", "new"):
        with written(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent, "a rename must not cross file systems"
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert files(tmp_path) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_writer_that_fails_in_the_middle_leaves_the_old_file(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half() -> None:
        with written(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        half()
    assert path.read_text() == "old"
    assert files(tmp_path) == ["file.txt"]


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["write_text", "replace"])
def test_a_full_disk_is_told_with_what_to_do(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, full)
        with pytest.raises(StoreError, match=rf"a\.json: No space left on device\. {TODO}"):
            write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert files(tmp_path) == ["a.json"]


def test_a_disk_too_full_for_any_new_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.results.files.tempfile.mkstemp", full)
    with pytest.raises(StoreError, match=TODO):
        write_json(tmp_path / "a.json", {})


@contextmanager
def quota(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class Heavy:
    """A training of one iteration with a state that is larger than the quota."""

    step, total = 0, 1

    def advance(self) -> None:
        self.step += 1

    def metrics(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, object]:
        return {"x": torch.rand(20_000)}

    def restore(self, state: dict[str, object]) -> None: ...

    def weights(self) -> dict[str, torch.Tensor]:
        return {}

    def evaluate(self) -> dict[str, float]:
        return {}


WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda path: write_json(path, {"x": "x" * 20_000}),
    "rows": lambda path: Store(path.parent).append(
        CELL, 0, {"x": np.random.default_rng(0).random(20_000)}, {}
    ),
    "checkpoint": lambda path: save_checkpoint(path, {"x": torch.rand(20_000)}, {}),
    "proposal": lambda path: keep(path, Proposal(torch.rand(20_000), (), {}, 0.0)),
    "training state": lambda path: list(_advance("train", Heavy(), path)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_tells_of_a_full_disk(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.models.train._SAVE_EVERY_S", -1.0)
    with quota(16_384), pytest.raises(StoreError, match=TODO):
        WRITERS[kind](tmp_path / "file")
    assert all(name.endswith("000000.json") for name in files(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=f"Permission denied. {TODO}"):
            write_json(tmp_path / "cells" / "a.json", {})
    finally:
        tmp_path.chmod(0o700)


def test_a_results_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("not a folder")
    with pytest.raises(StoreError, match=TODO):
        Store(tmp_path / "results").open(CELL, NOTHING_SET)


@pytest.mark.parametrize("content", ["", '{"defense": ', "<html>", "[1, 2]", "\x00\xff"])
def test_damaged_json_is_told_with_its_path(content: str, tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=r"cell\.json.*Delete its folder"):
        read_json(path)


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    content = {"b": [1, 2.5, None], "a": {"ä": "8/255"}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


def test_shards_become_one_file_in_the_order_of_the_images(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open(CELL, Settings.of({"defense": {"steps": 3}}))
    for start in (2, 0):
        assert not store.done(CELL)
        store.append(CELL, start, rows(start), {"start": start})
    store.finish(CELL, lambda shards: {"starts": [shard["start"] for shard in shards]})
    assert store.done(CELL)
    assert pd.read_parquet(store.outcomes(CELL.key()))["index"].tolist() == [0, 1, 2, 3]
    folder = store.cell(CELL.key())
    assert read_json(folder / "provenance.json")["starts"] == [0, 2]
    assert files(folder) == ["cell.json", "outcomes.parquet", "provenance.json"]
    assert read_json(folder / "cell.json")["settings"] == "defense.steps=3"


def test_a_failure_is_forgotten_and_other_cells_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open(CELL, NOTHING_SET)
    failed, skipped = replace(CELL, seed=1), replace(CELL, seed=2)
    store.fail({**failed.canonical(), **NOTHING_SET.stored()}, failed.key(), "because", "run")
    store.skip({**skipped.canonical(), **NOTHING_SET.stored()}, skipped.key(), "no gradient")
    assert set(collect(store)["state"]) == {"unfinished", "failed", "skipped"}
    for key in (failed.key(), skipped.key(), CELL.key(), "0" * 16):
        store.forget(key)
    assert [path.name for path in store.cells()] == sorted([CELL.key(), skipped.key()])


def test_a_failure_that_is_half_forgotten_is_no_unfinished_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    content = {**CELL.canonical(), **NOTHING_SET.stored()}
    store.fail(content, CELL.key(), "because", "run")
    with monkeypatch.context() as patch:
        patch.setattr("bench.results.store.shutil.rmtree", lambda *args, **rest: None)
        store.forget(CELL.key())
    assert collect(store).empty
    store.forget(CELL.key())
    assert not store.cell(CELL.key()).exists()


def test_files_that_a_killed_writer_left_are_no_results(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for path in (
        store.outcomes(CELL.key()),
        store.cell(CELL.key()) / "cell.json",
        store.shard(CELL.key(), 0),
        store.checkpoint("digits", "ebm", "0123"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f".{path.name}.abcd1234").write_text("half")
    assert store.cells() == []
    assert store.checkpoints() == []
    assert not store.done(CELL)
    assert not store.shard(CELL.key(), 0).exists()
    assert collect(store).empty


def test_two_probes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def beside_another(path: Path) -> Iterator[Path]:
        with written(path) as temporary:
            yield temporary
        path.unlink()  # the other one has ended its probe

    monkeypatch.setattr("bench.results.store.written", beside_another)
    Store(tmp_path).probe()
    assert files(tmp_path) == []


def test_claims_of_dead_processes_are_removed_and_held_ones_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dead, outside = store.claim("train-dead"), tmp_path / "outside"
    dead.parent.mkdir(parents=True)
    dead.touch()
    outside.write_text("mine")
    (dead.parent / "link").symlink_to(outside)
    with claimed(store.claim("alive")) as ours:
        assert ours
        store.probe()
        assert sorted(os.listdir(dead.parent)) == ["alive", "link"]
    assert outside.read_text() == "mine"


def test_what_writers_of_other_files_left_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "figures").mkdir()
    left = [
        tmp_path / ".runs.csv.abcd1234",
        tmp_path / "..probe.abcd1234",
        tmp_path / ".claims-123",
        tmp_path / "figures" / ".a.png.abcd1234",
    ]
    kept = [tmp_path / ".runs.csv", tmp_path / "figures" / ".a.png"]
    for path in (*left, *kept):
        path.touch()
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    store.probe()
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in kept)


def test_what_killed_writers_left_is_removed_once_it_is_a_day_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = [
        store.outcomes(CELL.key()),
        store.shard(CELL.key(), 0),
        store.proposal(CELL.key(), 0, 4),
        store.checkpoint("digits", "ebm", "1"),
        store.training("1"),
    ]
    left, young, kept = [], [], []
    for path in whole:
        for found in (left, young):  # as a killed writer leaves them
            path.parent.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(number)
            found.append(Path(name))
        kept += [path, path.with_name(".gitignore"), path.with_name(f".{path.name}")]
    outside = tmp_path / ".cell.json.abcd1234"  # the folder may hold a user's other things
    for path in (*kept, outside):
        path.touch()
    for path in (*left, *kept, outside):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    for path in young:
        os.utime(path, (time.time() - 23 * 3600,) * 2)
    store.probe()
    assert not [path for path in left if path.exists()]
    assert [path for path in (*young, *kept, outside) if not path.exists()] == []


def test_what_a_dead_writer_left_is_removed_at_once_and_work_in_hand_is_not(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    path = store.cell(CELL.key()) / "cell.json"
    child = os.fork()
    if child == 0:
        with written(path) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = path.parent.iterdir()
    foreign = left.with_name(f".cell.json.{'0' * 8}abcd1234")  # of another machine: a day
    foreign.touch()
    with written(path.with_name("failed.json")) as temporary:
        temporary.write_text("{}")
        store.probe()
        assert temporary.exists()
        assert not left.exists()
    assert sorted(os.listdir(path.parent)) == [foreign.name, "failed.json"]


def test_a_sweep_between_the_making_and_the_locking_of_a_file_takes_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, swept = fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not swept:
            swept.append(file)
            Store(tmp_path).probe()
        flock(file, how)

    path = Store(tmp_path).cell(CELL.key()) / "cell.json"
    monkeypatch.setattr(fcntl, "flock", late)
    with written(path) as temporary:
        assert temporary.exists()
        Store(tmp_path).probe()
        temporary.write_text("{}")
    assert files(tmp_path) == ["cell.json"]


@pytest.mark.parametrize("key", ["", "..", "../outside", "0" * 15, "0" * 16 + "\n", "x" * 300])
def test_what_is_no_key_names_no_folder(tmp_path: Path, key: str) -> None:
    for name in (Store(tmp_path).cell, lambda key: Store(tmp_path).proposal(key, 0, 4)):
        with pytest.raises(StoreError, match="is no key of a cell"):
            name(key)
