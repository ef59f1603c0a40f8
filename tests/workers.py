"""Matrices over several processes: a plan of logged plugins, and what they wrote."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.results.store import Store

from .command import exit_code

POINTS = (
    "[bench.attacks]\nlogged = logged:Logged\n"
    "[bench.defenses]\nlogged_noise = logged:LoggedNoise\n"
    "[bench.classifiers]\nlogged_cnn = logged:LoggedCnn\n"
)
SOURCE = Path(__file__).with_name("logged.py")
SITE = "logged-plugins"
# A shell that runs the tests in the background lets its children ignore Ctrl-C.
MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from bench.cli import main
sys.argv[0] = 'bench'
main()
"""


def install_logged(folder: Path) -> None:
    """Install the logged plugins, the way pip does, for the commands that `bench` starts."""
    info = folder / SITE / "logged_plugins-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: logged-plugins\nVersion: 1\n")
    (info / "entry_points.txt").write_text(POINTS)
    (folder / SITE / "logged.py").write_text(SOURCE.read_text())


def write_plan(path: Path, **more: object) -> Path:
    """Write a plan of 16 blocks under an attack on each defense and one that they share."""
    plan = {
        "classifiers": [
            {"name": "logged_cnn", "set": {"width": 4, "training": {"epochs": 10}}}
        ],
        "defenses": ["none", "logged_noise"],
        "attacks": [{"name": "logged"}, {"name": "logged", "access": "transfer"}],
        "threats": [{"eps": "0.2"}],
        "n": 16,
        "shard": 4,
        "draws": 3,
        **more,
    }
    path.write_text(yaml.safe_dump(plan))
    return path


def bench(*words: str | Path, site: Path, log: Path, by: int = 1) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, attacking once ``by`` processes do."""
    log.touch()
    env = {**os.environ, "LOGGED": str(log), "LOGGED_BY": str(by)}
    env["PYTHONPATH"] = os.pathsep.join([*sys.path, str(site / SITE)])
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, words)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_here(
    *words: str | Path, site: Path, log: Path, by: int = 1, code: int = 0
) -> tuple[str, str]:
    """Run the command line in this process, which starts sooner; return stdout and stderr."""
    log.touch()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        patch.setenv("LOGGED", str(log))
        patch.setenv("LOGGED_BY", str(by))
        patch.syspath_prepend(site / SITE)
        ending = exit_code(patch, *map(str, words))
    sys.modules.pop("logged", None)  # that of the next site is another one
    assert ending == code, f"{ending}\n{out.getvalue()}\n{err.getvalue()}"
    assert "Traceback" not in err.getvalue()
    return out.getvalue(), err.getvalue()


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a command and return what it wrote to stderr."""
    out, err = process.communicate()
    assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return err


def calls(log: Path) -> Counter[str]:
    """Count what was asked of the plugins, whichever process asked."""
    return Counter(
        line.partition(" ")[2]
        for line in log.read_text().splitlines()
        if not line.endswith(" halt ")
    )


def halted(log: Path) -> set[int]:
    """Name the processes that stand at a gate, or stood."""
    lines = log.read_text().splitlines()
    return {int(line.split()[0]) for line in lines if line.endswith(" halt ")}


def pids(log: Path) -> set[int]:
    """Name the processes that trained, attacked or judged."""
    return {int(line.split()[0]) for line in log.read_text().splitlines()}


def assert_same_rows(results: Path, expected: Path) -> None:
    """Outcomes are the same bytes, and rows are equal in all but times and memory."""
    ours, theirs = Store(results), Store(expected)
    assert ours.finished() == theirs.finished()
    for key in ours.finished():
        assert ours.outcomes(key).read_bytes() == theirs.outcomes(key).read_bytes()
        assert not (ours.cell(key) / "shards").exists()
    passing = ["seconds", "memory", "date", "commit"]
    frames = [pd.read_csv(store.runs).drop(columns=passing) for store in (ours, theirs)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)
