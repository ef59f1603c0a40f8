"""Streams that are full or closed, names that are no text, paths from home or too long."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.commands import doctor

from ..command import (
    NOISE,
    RUN,
    TINY,
    Bench,
    exit_code,
    imported_well,
    is_one_clear_message,
    runs,
)

PLAN = (
    "defenses: none\nattacks: {name: noise, set: {tries: 1}}\nthreats: {eps: 0.1}\nn: 4\n"
    "draws: 3\nclassifiers: {name: small_cnn, set: {training.epochs: 1}}\n"
)
LONG = "x" * 300
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


def shell(line: str, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m bench`` by a shell; ``line`` has "$@" where the command stands."""
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", *command],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the classifier of the plan."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        words = ("train", "small_cnn", TINY[0], f"--results={folder / 'results'}")
        assert exit_code(patch, *words) == 0
    return folder


@pytest.mark.parametrize(
    "streams",
    [pytest.param("> /dev/full", marks=full), pytest.param("2> /dev/full", marks=full),
     *(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-")), ">&- 2>&-"],
)  # fmt: skip
def test_a_plan_is_measured_whatever_becomes_of_its_streams(
    trained: Path, tmp_path: Path, streams: str
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "plan.yaml").write_text(PLAN)
    done = shell(f'"$@" {streams}', tmp_path, "matrix", "plan.yaml")
    assert [row["state"] for row in runs(tmp_path)] == ["done"]
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if streams == "> /dev/full":
        assert done.returncode == 1
        assert "No space left" in done.stderr
    else:
        assert done.returncode in (0, 120)  # 120: Python itself could not write stderr


@full
def test_a_listing_that_is_lost_is_an_error(tmp_path: Path) -> None:
    for words in (("list",), ("show", "none"), ("--version",)):
        done = shell('"$@" > /dev/full', tmp_path, *words)
        assert done.returncode == 1
        assert done.stderr.count("No space left") == 1
        assert "Traceback" not in done.stderr


def test_python_m_bench_is_bench(tmp_path: Path) -> None:
    done = shell('"$@"', tmp_path, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("purifybench ")


@pytest.mark.parametrize(
    "words",
    [("run", "--defense=\udcff", *NOISE), ("list", "\ud800"), ("table", "-o", "\udcfe")],
    ids=ascii,
)  # fmt: skip
def test_a_word_that_is_no_text_is_refused_at_the_door(
    bench: Bench, tmp_path: Path, words: tuple[str, ...]
) -> None:
    is_one_clear_message(bench(*words), "not text in UTF-8", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_is_no_text_is_refused_at_the_door(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_RESULTS", "\udcff")
    is_one_clear_message(bench("table"), "not text in UTF-8", code=2)


@pytest.mark.parametrize(
    "words",
    [("table", f"--results={LONG}"), (*RUN, f"--results={LONG}"), ("matrix", LONG),
     (*RUN, f"--data={LONG}", "--dataset=mnist"), ("verify", LONG),
     ("run", f"--defense={LONG}", *NOISE)],
    ids=lambda words: " ".join(words).replace(LONG, "LONG")[:60],
)  # fmt: skip
def test_a_name_of_300_characters_is_one_message(bench: Bench, words: tuple[str, ...]) -> None:
    said = bench(*words)
    assert said.code in (1, 2)
    is_one_clear_message(said, "x" * 100, code=said.code)


def test_home_is_meant_by_a_tilde_in_every_folder(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("BENCH_DATA", "~/data")
    monkeypatch.setenv("BENCH_RESULTS", "~/results")
    monkeypatch.setattr(doctor, "import_apart", imported_well)  # it is about folders alone
    (home / "plan.yaml").write_text(PLAN)
    assert bench("matrix", "~/plan.yaml").code == 0
    assert (home / "results" / "runs.csv").is_file()
    for words in (("table", "--output=~/t.md"), ("table", "--results=~/results"), ("verify",),
                  ("verify", "~/results"), ("status", "~/plan.yaml"), ("doctor",),
                  ("report", "--defense=none", "--eps=0.1", "-o~/r.md")):  # fmt: skip
        said = bench(*words)
        assert said.code == 0, said
    assert (home / "t.md").is_file()
    assert (home / "r.md").is_file()
    said = bench("run", "--defense=none", "--dataset=mnist", *NOISE)
    assert str(home / "data") in said.err
    assert not (tmp_path / "~").exists()
    assert json.loads(bench(*RUN, *TINY, "--json", "--dry-run").out)["key"]


def test_a_home_that_nobody_has_is_refused(bench: Bench) -> None:
    said = bench("table", "--results=~nobody-of-this-name/x")
    is_one_clear_message(said, "~nobody-of-this-name", "home", code=2)


def test_output_goes_through_a_link(bench: Bench, tmp_path: Path) -> None:
    assert bench(*RUN).code == 0
    link = tmp_path / "link.md"
    link.symlink_to(tmp_path / "page.md")
    assert bench("table", "--output=link.md").code == 0
    assert link.is_symlink()
    assert (tmp_path / "page.md").read_text() == bench("table").out
