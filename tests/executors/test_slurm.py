"""The same rows through Slurm, on a real cluster: scripts/slurm_here.sh starts a small one."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.executors.slurm import parse_options, queued
from bench.results.store import Store

from ..command import Bench, is_one_clear_message
from ..trials import Trial, trial, wait_until
from ..workers import assert_same_rows, bench, ended, halted, install_logged, write_plan

PLAN = "{defenses: none, attacks: noise, threats: {eps: 1}}"


def why_not() -> str:
    """Say what is missing for a run through Slurm."""
    if importlib.util.find_spec("submitit") is None:
        return "submitit is not installed"
    if shutil.which("sinfo") is None:
        return "Slurm is not installed: see scripts/slurm_here.sh"
    done = subprocess.run(["sinfo"], capture_output=True, text=True, check=False)
    return f"no Slurm cluster answers: {done.stderr.strip()}" if done.returncode else ""


@pytest.fixture(scope="module")
def cluster() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    install_logged(tmp_path)
    return tmp_path


def queue(job: str) -> list[str]:
    asked = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={job}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def submitted(made: Trial, *, by: int) -> str:
    """Submit two workers and return the number of their job."""
    words = ("--executor", "slurm", "--jobs", "2", "--slurm", "time=10", "--device", "cpu")
    ended(made.start(*words, by=by))
    (note,) = Store(made.ours).jobs.glob("[0-9]*.json")
    return str(json.loads(note.read_text())["job"])


def told(command: str, made: Trial) -> str:
    """Ask about the plan, in a process of its own, and return what was said."""
    given = (command, made.plan, "--results", made.ours)
    process = bench(*given, site=made.site, log=made.log)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.mark.slurm
def test_a_killed_job_loses_a_block_and_the_others_finish(
    cluster: None, site: Path, tmp_path: Path
) -> None:
    dead = tmp_path / "dead"
    attacks = [{"name": "logged", "set": {"die": str(dead)}}]
    plan = write_plan(tmp_path / "plan.yaml", attacks=attacks)
    made = trial(plan, site, tmp_path / "ours")
    job = submitted(made, by=2)
    wait_until(lambda: not queue(job))
    assert dead.exists()
    said = told("status", made)
    assert "2 done\nclaimed in this folder: nothing\n" in said
    assert f"job {job}: ended" in said
    assert "logged_noise" in told("collect", made)
    assert_same_rows(made.ours, made.alone)
    assert sum(made.done_again().values()) == 1, "the block that it was at, and nothing else"


@pytest.mark.slurm
def test_a_preempted_job_is_queued_again_and_goes_on(
    cluster: None, site: Path, tmp_path: Path
) -> None:
    plan = write_plan(tmp_path / "plan.yaml", attacks=["logged"], n=48)
    made = trial(plan, site, tmp_path / "ours")
    made.gate.touch()
    job = submitted(made, by=2)
    wait_until(lambda: len(halted(made.log)) == 2)
    # What Slurm sends before it takes a node away, and before the time limit.
    subprocess.run(["scancel", "--signal=USR2", f"{job}_0"], check=True)
    said = told("status", made)
    assert "running" in said
    assert "at work" in said
    log = made.ours / "jobs" / f"{job}_0_0_log.out"
    wait_until(lambda: f"Requeued job {job}_0" in log.read_text())
    made.gate.unlink()
    wait_until(lambda: not queue(job))
    shown = subprocess.run(
        ["scontrol", "show", "job", f"{job}_0"], capture_output=True, text=True, check=True
    )
    assert "Restarts=1" in shown.stdout
    assert "JobState=COMPLETED" in shown.stdout
    told("collect", made)
    assert_same_rows(made.ours, made.alone)
    assert sum(made.done_again().values()) <= 1


def test_options_are_sbatchs() -> None:
    options = parse_options(["partition=gpu", "--gpus-per-node=2", "mem=8G"])
    assert options == {"partition": "gpu", "gpus_per_node": 2, "mem": "8G"}
    with pytest.raises(UsageError, match="Write NAME=VALUE"):
        parse_options(["gpu"])


def test_without_submitit_it_is_said_how_to_install_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    (tmp_path / "plan.yaml").write_text(PLAN)
    said = bench("matrix", "plan.yaml", "--executor", "slurm", "--jobs", "2")
    is_one_clear_message(said, "pip install 'purifybench[slurm]'", code=1)


def test_without_slurm_it_is_said_where_to_submit(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "plan.yaml").write_text(PLAN)
    said = bench("matrix", "plan.yaml", "--executor", "slurm", "--jobs", "2")
    is_one_clear_message(said, "there is no sbatch", "--executor local", code=1)
    assert queued(Store(tmp_path)) is None
