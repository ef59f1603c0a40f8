"""What plugins print breaks no JSON, and where they end the process a cell fails, no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.executors import slurm
from bench.executors.task import WorkerTask

from ..command import TINY, Bench, Said, exit_code
from ..workers import MAIN

# One plugin of each kind that does what the environment asks for, at the place it names.
SOURCE = '''
import os, subprocess, sys
from dataclasses import dataclass
from typing import ClassVar
from bench.api import Access, Calls, Norm
from bench_defenses.classifiers.small_cnn import SmallCnn

def here(place):
    if place not in os.environ["STRANGE_PLACES"].split():
        return
    if os.environ["STRANGE_DOES"] == "print":
        print(f"print in {place}")
        os.write(1, f"write in {place}\\n".encode())
        subprocess.run(["echo", f"echo in {place}"], check=True)
    elif os.environ["STRANGE_DOES"] == "sys.exit":
        sys.exit(0)
    elif os.environ["STRANGE_DOES"] == "os._exit":
        os._exit(0)
    else:
        raise RuntimeError("strange")

here("import")

@dataclass(frozen=True)
class StrangeDefense:
    """A defense."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    def __post_init__(self):
        here("construction")
    def purify(self, x, *, rng):
        here("purifier")
        return x

@dataclass(frozen=True)
class StrangeAttack:
    """An attack."""
    revision: ClassVar[int] = 1
    norms: ClassVar = (Norm.LINF,)
    accesses: ClassVar = (Access.FULL, Access.TRANSFER)
    unbounded: ClassVar[bool] = False
    def __call__(self, view, x, y, *, threat, rng):
        here("attack")
        return x
    def calls(self, *, stochastic, classes):
        here("cost")
        return Calls()

@dataclass(frozen=True)
class StrangeClassifier(SmallCnn):
    """A classifier."""
    def start(self, task):
        here("training")
        return super().start(task)
    def load(self, weights, *, shape, classes):
        here("load")
        net = super().load(weights, shape=shape, classes=classes)
        net.register_forward_pre_hook(lambda *_: here("classifier"))
        return net
'''
POINTS = """
[bench.attacks]
strange = strange_plugins:StrangeAttack
[bench.defenses]
strange = strange_plugins:StrangeDefense
[bench.classifiers]
strange = strange_plugins:StrangeClassifier
"""
PLACES = ("import", "construction", "training", "load", "classifier", "purifier", "attack")
ALL = ("--defense=strange", "--classifier=strange", *TINY)
EXITS = ("sys.exit", "os._exit")


@pytest.fixture
def site(install: Callable[..., Path]) -> Path:
    return install("strange-plugins", "strange_plugins", SOURCE, POINTS)


@pytest.fixture
def apart(site: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line in a process of its own, in which plugins do something at places."""

    def run(*words: str, does: str, places: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "STRANGE_DOES": does, "STRANGE_PLACES": places}
        env["PYTHONPATH"] = os.pathsep.join([*sys.path, str(site)])
        return subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            capture_output=True, text=True, cwd=tmp_path, env=env, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def here(
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., Said]:
    """The same in this process, down to its descriptors."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, does: str, places: str) -> Said:
        monkeypatch.setenv("STRANGE_DOES", does)
        monkeypatch.setenv("STRANGE_PLACES", places)
        sys.modules.pop("strange_plugins", None)  # its import is a place, too
        with open(1, "w", closefd=False) as out, open(2, "w", 1, closefd=False) as err:
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            code = exit_code(monkeypatch, *words)
        return Said(code, *capfd.readouterr())

    return run


def plan(folder: Path, **changes: Any) -> str:
    """Write a plan of the strange plugins beside shipped ones."""
    content = {
        "classifiers": [
            {"name": "strange", "set": {"training": {"epochs": 1}}},
            {"name": "small_cnn", "set": {"training": {"epochs": 1}}},
        ],
        "defenses": ["strange", "none"],
        "attacks": ["strange", "noise"],
        "threats": [{"eps": "8/255"}],
        "n": 4,
        "draws": 3,
        **changes,
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "plan.yaml")


def test_what_plugins_print_breaks_no_json_and_is_not_lost(
    here: Callable[..., Said], tmp_path: Path
) -> None:
    places = " ".join((*PLACES, "cost"))
    run = ("run", *ALL, "--attack=strange")
    seen = []
    for words in (
        (*run, "--dry-run", "--json"),
        (*run, "--json"),
        ("matrix", plan(tmp_path), "--json"),
        ("matrix", plan(tmp_path), "--dry-run", "--json"),
    ):
        said = here(*words, does="print", places=places)
        assert said.code == 0, said
        assert json.loads(said.out), said.out
        assert "print in import" in said.err
        seen.append(said.err)
    for place in PLACES:
        for way in ("print", "write", "echo"):
            assert f"{way} in {place}\n" in seen[1]
    (key,) = {row["key"] for row in here(*run, "--json", does="", places="").rows}
    said = here("judge", key, "--draws=5", "--json", does="print", places=places)
    assert said.code == 0, said
    assert len(json.loads(said.out)["rows"]) == 2


def test_what_plugins_print_in_a_worker_breaks_no_json_and_is_not_lost(
    apart: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """With processes of their own for the command, too: the one that others stand for."""
    small = plan(tmp_path, defenses="strange", attacks="strange")
    worker = ("--executor=local", "--jobs=1", "--device=cpu")
    said = apart("matrix", small, "--json", *worker, does="print", places=" ".join(PLACES))
    assert said.returncode == 0, said
    assert len(json.loads(said.stdout)) == 2
    for place in PLACES:
        for way in ("print", "write", "echo"):
            assert f"{way} in {place}\n" in said.stderr, "a worker has its parent's descriptors"


@pytest.mark.parametrize(
    ("place", "does"),
    [
        *((place, "os._exit") for place in PLACES),
        ("training", "sys.exit"),
        ("load", "sys.exit"),
    ],
)
def test_an_exit_in_a_run_is_an_error_with_a_status(
    bench: Bench, site: Path, monkeypatch: pytest.MonkeyPatch, place: str, does: str
) -> None:
    monkeypatch.setenv("STRANGE_DOES", does)
    monkeypatch.setenv("STRANGE_PLACES", place)
    said = bench("run", *ALL, "--attack=strange")
    assert said.code == 1, said
    assert said.err.count("error: ") == 1
    assert "Traceback" not in said.err
    assert "SystemExit: 0" in said.err
    assert "trange" in said.err


@pytest.mark.parametrize(
    ("place", "does", "executor"),
    [
        ("training", "os._exit", ("--executor=local", "--jobs=1", "--device=cpu")),
        ("attack", "os._exit", ()),
        ("purifier", "sys.exit", ()),
        ("classifier", "raise", ()),
    ],
)
def test_an_exit_in_a_plan_is_a_failure_of_its_own_cells(
    here: Callable[..., Said], tmp_path: Path, place: str, does: str, executor: tuple[str, ...]
) -> None:
    said = here("matrix", plan(tmp_path), "--json", *executor, does=does, places=place)
    assert said.code == 1, said
    assert "Traceback" not in said.err
    rows = said.rows
    assert len(rows) == 8
    part = {"training": "classifier", "purifier": "defense"}.get(place, place)
    for row in rows:
        strange = row[part] == "strange"
        # Noise by itself is transferred: it never meets the purifier, but its judge does.
        assert row["state"] == ("failed" if strange else "done"), row
        assert ("strange" in (row["note"] or "").lower()) == strange, row


def test_an_exit_at_construction_is_a_fault_of_the_plan(
    here: Callable[..., Said], tmp_path: Path
) -> None:
    said = here("matrix", plan(tmp_path), does="os._exit", places="construction")
    assert said.code != 0
    assert "StrangeDefense cannot be made" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("does", EXITS)
def test_an_exit_in_an_audit_is_a_finding(
    bench: Bench, site: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setenv("STRANGE_DOES", does)
    monkeypatch.setenv("STRANGE_PLACES", "purifier")
    said = bench("audit", "--defense=strange", *TINY, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert report["state"] == "void"
    assert any("SystemExit: 0" in found["reason"] for found in report["findings"])


def test_a_job_that_slurm_takes_away_is_no_failure_of_the_plugin_it_is_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The handler that submitit installs ends the process by sys.exit, wherever it is."""
    met: list[str] = []

    def work(task: WorkerTask, **_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
        except (Exception, SystemExit) as error:
            met.append(type(error).__name__)

    handlers = {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2)}
    monkeypatch.setattr(slurm, "work", work)
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit(-1))
    try:
        with pytest.raises(SystemExit) as stop:
            slurm._Worker()(WorkerTask((), "", "", "", "", "", ()).text())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert (stop.value.code, met) == (-1, [])
