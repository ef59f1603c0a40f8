"""One process, two workers, two runners, killed and interrupted ones: the same rows."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from bench.errors import BenchError, UsageError
from bench.executors.local import Slot, run_local, slots
from bench.executors.task import WorkerTask
from bench.experiments.plan import read_plan
from bench.results.progress import Progress, finish

from ..command import Bench, is_one_clear_message
from ..trials import Trial, trial, wait_until
from ..workers import (
    SITE,
    assert_same_rows,
    calls,
    ended,
    halted,
    install_logged,
    pids,
    run_here,
    write_plan,
)

LOCAL = ("--executor", "local", "--jobs", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install_logged(folder)
    return folder


@pytest.fixture(scope="module")
def measured(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    folder = tmp_path_factory.mktemp("measured")
    return trial(write_plan(folder / "plan.yaml"), site, folder / "unused")


@pytest.fixture
def again(measured: Trial, tmp_path: Path) -> Trial:
    return replace(measured, ours=tmp_path / "ours")


def test_two_workers_share_a_plan(again: Trial) -> None:
    _, err = again.run(*LOCAL, by=2)
    assert_same_rows(again.ours, again.alone)
    assert not again.done_again()
    assert calls(again.log)["train "] == 1
    assert len(pids(again.log)) == 2
    assert "all workers: 64/64 images, 4 of 4 cells" in err
    assert os.listdir(again.ours / "claims") == []

    out, err = again.run(*LOCAL)
    assert "logged" in out
    assert "workers" not in out + err  # nothing is left for them


def test_two_runners_started_by_hand_share_a_plan(again: Trial) -> None:
    other = again.start(by=2)
    again.run(by=2)
    ended(other)
    assert_same_rows(again.ours, again.alone)
    assert not again.done_again()
    assert pids(again.log) == {os.getpid(), other.pid}


@pytest.mark.slow
@pytest.mark.parametrize("ladder", [True, "yield"])
def test_a_ladder_climbs_over_several_workers_as_in_one(
    site: Path, tmp_path: Path, ladder: bool | str
) -> None:
    attacks = [{"name": "noise", "set": {"tries": 2}}, {"name": "logged"},
               {"name": "pgd", "access": "full", "set": {"steps": 2, "eot": 1}}]  # fmt: skip
    plan = write_plan(tmp_path / "plan.yaml", attacks=attacks, ladder=ladder, sequential=True)
    made = trial(plan, site, tmp_path / "ours")
    made.run(*LOCAL, by=2)
    assert_same_rows(made.ours, made.alone)
    assert not made.done_again()


def test_a_killed_worker_is_replaced_and_its_block_done_again(
    site: Path, tmp_path: Path
) -> None:
    dead = tmp_path / "dead"
    attacks = [{"name": "logged", "set": {"die": str(dead)}}]
    made = trial(write_plan(tmp_path / "plan.yaml", attacks=attacks), site, tmp_path / "ours")
    assert not dead.exists(), "one process alone does not die"
    _, err = made.run(*LOCAL, by=2)
    assert dead.exists()
    assert "died (SIGKILL, usually because memory ran out): it is started again." in err
    assert_same_rows(made.ours, made.alone)
    assert sum(made.done_again().values()) == 1, "the block that it was at, and nothing else"


def test_a_cell_that_fails_stops_no_other_and_is_not_tried_by_all(
    site: Path, tmp_path: Path
) -> None:
    attacks = [{"name": "logged", "set": {"fail": True}}, "noise"]
    plan = write_plan(tmp_path / "plan.yaml", attacks=attacks)
    made = trial(plan, site, tmp_path / "ours", code=1)
    _, err = made.run(*LOCAL, code=1)
    assert_same_rows(made.ours, made.alone)
    assert "failed: ValueError: this attack fails" in err
    # Two workers may each be at a block of a cell when it fails; nobody comes back to it.
    tries = sum(count for what, count in calls(made.log).items() if what.startswith("attack"))
    assert 2 <= tries <= 4


@pytest.mark.parametrize(
    ("by", "jobs"),
    [
        (signal.SIGINT, 2),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),  # is to a worker as SIGKILL is
        (signal.SIGKILL, 1),
    ],
)
def test_workers_end_with_their_parent_and_what_is_finished_is_kept(
    again: Trial, by: signal.Signals, jobs: int
) -> None:
    again.gate.touch()
    parent = again.start(*LOCAL, f"--jobs={jobs}", by=jobs)
    wait_until(lambda: len(halted(again.log)) == jobs)
    parent.send_signal(by)
    _, err = parent.communicate()
    if by is signal.SIGINT:
        assert parent.returncode == 130
        assert "what is finished is kept" in err
        assert "Traceback" not in err
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(again.log)))
    assert len(list(again.ours.glob("cells/*/shards/*.parquet"))) >= jobs
    again.gate.unlink()
    again.run()
    assert_same_rows(again.ours, again.alone)
    assert sum(again.done_again().values()) == jobs, "the blocks at work, and nothing else"


@pytest.mark.slow
def test_a_table_of_a_paper_is_measured_by_workers_too(site: Path, tmp_path: Path) -> None:
    run = yaml.safe_load(write_plan(tmp_path / "plan.yaml", attacks=["logged"]).read_text())
    table = {"title": "T", "layout": "gain", "baseline": "none", "runs": [run, {**run, "n": 8}]}
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(table))
    texts = []
    for name, words in (("alone", ()), ("ours", (*LOCAL, "--jobs=1"))):
        given = ("paper", tmp_path / "table.yaml", "--results", tmp_path / name, *words)
        run_here(*given, site=site, log=tmp_path / f"{name}.log")
        texts.append((tmp_path / name / "paper" / "table.csv").read_text())
    assert texts[0] == texts[1]
    assert calls(tmp_path / "ours.log") == calls(tmp_path / "alone.log")
    assert os.getpid() not in pids(tmp_path / "ours.log")


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    dealt = slots("auto", 3, gpus=2)
    assert [(slot.visible, slot.device) for slot in dealt] == [
        ("0", "cuda"), ("1", "cuda"), ("0", "cuda"),
    ]  # fmt: skip
    assert len(slots("cuda", None, gpus=4)) == 4
    assert [slot.visible for slot in slots("cuda:1", 2, gpus=4)] == ["1", "1"]
    assert [(slot.visible, slot.device) for slot in slots("cpu", 2, gpus=4)] == [
        ("", "cpu")
    ] * 2
    assert {slot.device for slot in slots("auto", None, gpus=0)} == {"cpu"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert [slot.visible for slot in slots("auto", None, gpus=2)] == ["GPU-a", "GPU-b"]
    with pytest.raises(UsageError, match="--device cpu"):
        slots("cuda", 2, gpus=0)


def test_each_worker_sees_its_own_gpu(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees to that before it imports torch: see tests/commands/test_startup.py."""
    log = tmp_path / "log"
    log.touch()
    monkeypatch.syspath_prepend(site / SITE)
    monkeypatch.setenv("LOGGED", str(log))
    monkeypatch.setenv("LOGGED_BY", "2")
    plan = read_plan(write_plan(tmp_path / "plan.yaml", defenses=["none"], attacks=["logged"]))
    folder = str(tmp_path / "results")
    task = WorkerTask(
        (plan.model_dump(mode="json"),), folder, folder, folder, "cpu", "run", ("bench",)
    )
    where = [Slot(0, "3", "cpu"), Slot(1, "GPU-5", "cpu")]
    finish(run_local(task, where, look=partial(Progress, "", 0, 1), complain=pytest.fail))
    assert set((tmp_path / "log.gpus").read_text().split()) == {"3", "GPU-5"}
    assert len(list((tmp_path / "results").glob("cells/*/outcomes.parquet"))) == 1


def test_workers_that_all_die_are_given_up(tmp_path: Path) -> None:
    folder = str(tmp_path)
    broken = WorkerTask(({"no": "plan"},), folder, folder, folder, "cpu", "run", ("bench",))
    said: list[str] = []
    look = partial(Progress, "", 0, 1)
    with pytest.raises(BenchError, match=r"all workers died.*What is finished is kept"):
        finish(run_local(broken, [Slot(0, "", "cpu")], look=look, complain=said.append))
    assert said == [
        *["worker 0 died (exit code 1): it is started again."] * 3,
        "worker 0 died (exit code 1): the other workers take over its work.",
    ]


def test_what_no_worker_can_mend_ends_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plan = read_plan(write_plan(tmp_path / "plan.yaml", defenses=["none"], attacks=["noise"],
                                classifiers=["small_cnn"]))  # fmt: skip
    results, folder = str(tmp_path / "file"), str(tmp_path)
    contents = (plan.model_dump(mode="json"),)
    task = WorkerTask(contents, results, folder, folder, "cpu", "run", ("bench",))
    where = [Slot(number, "", "cpu") for number in range(2)]
    look = partial(Progress, "", 0, 1)
    with pytest.raises(BenchError, match="cannot write"):
        finish(run_local(task, where, look=look, complain=print))


def test_a_task_survives_being_text() -> None:
    task = WorkerTask(({"n": 3},), "r", "d", "m", "cpu", "run", ("bench", "matrix"))
    again = WorkerTask.read(task.text())
    assert again.plans == ({"n": 3},)
    assert again.text() == task.text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "2"], "add --executor local or slurm"),
        (["--executor", "locale"], "Did you mean 'local'?"),
        (["--executor", "local", "--slurm", "partition=x"], "only with --executor slurm"),
        (["--executor", "slurm"], "needs --jobs"),
        (["--executor", "slurm", "--jobs", "2", "--slurm", "gpu"], "Write NAME=VALUE"),
        (["--executor", "slurm", "--jobs", "2", "--slurm", "time=1:00"], "give the minutes"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    bench: Bench, words: list[str], said: str
) -> None:
    is_one_clear_message(bench("matrix", "plan.yaml", *words), said, code=2)


def test_workers_need_a_folder_with_locks(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.results.locks.works_in", lambda folder: False)
    (tmp_path / "plan.yaml").write_text("{defenses: none, attacks: noise, threats: {eps: 1}}")
    said = bench("matrix", "plan.yaml", "--executor", "local", "--jobs", "2")
    is_one_clear_message(said, "has no locks", "--results", code=1)
