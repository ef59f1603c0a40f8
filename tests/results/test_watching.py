"""What is shown of work: drawn at any width, logged in few lines, and how much time is left."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.results import watching
from bench.results.progress import Progress, Work
from bench.results.watching import Stage, clock, watch

WHAT = "adv_ebm under bpda_eot"
FIGURES = {"robust": "36.7 (25.6-49.3)", "loss": 0.123456}


def at(done: int, **more: object) -> Progress:
    return Progress(WHAT, done, 500, FIGURES, unit="images", **more)


class Clock:
    """A clock that goes on only when told, in place of that of the module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watching, "time", self)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_times_are_short() -> None:
    assert [clock(s) for s in (0.4, 9, 750, 3900)] == ["0:00", "0:09", "12:30", "1:05:00"]


def test_the_time_left_goes_by_the_pace_since_it_began_here() -> None:
    stage = Stage.begin(at(300), 0.0)  # a command that was killed goes on at 300
    assert stage.left(50.0) is None
    stage.report(at(350), 100.0)
    assert stage.left(100.0) == pytest.approx(300.0)
    stage.report(at(350), 160.0)
    assert stage.left(160.0) == pytest.approx(240.0)
    assert stage.left(900.0) == 0.0
    stage.report(at(500), 400.0)
    assert stage.left(400.0) is None
    assert stage.parts(9999.0)[-1] == "6:40", "the clock stands still at the end"


def drawn(stage: Stage, width: int, **options: bool) -> str:
    file = io.StringIO()
    Console(file=file, width=width, **options).print(stage)
    return file.getvalue()


PARTS = ("250/500 images", "robust 36.7 (25.6-49.3)", "loss 0.123", "waiting", "1:00 left")


@pytest.mark.parametrize(("width", "lines"), [(20, 9), (40, 4), (80, 3), (120, 2), (200, 1)])
def test_every_width_shows_everything_in_few_lines(
    ticks: Clock, width: int, lines: int
) -> None:
    stage = Stage.begin(at(0), ticks.now)
    ticks.now += 60
    stage.report(at(250, note="waiting for another process"), ticks.now)
    said = drawn(stage, width).splitlines()
    assert all(len(line) <= width for line in said)
    assert len(said) <= lines
    words = " ".join(" ".join(said).split())
    for part in (*PARTS, WHAT[: width - 1]):
        assert part in words, said


def test_a_bar_has_colors_where_they_are_wanted(ticks: Clock) -> None:
    stage = Stage.begin(at(250), ticks.now)
    assert "\x1b[" in drawn(stage, 200, force_terminal=True)
    plain = drawn(stage, 200, force_terminal=True, no_color=True)
    assert "\x1b[" not in plain
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in plain


def test_a_name_of_any_length_is_cut_and_not_wrapped(ticks: Clock) -> None:
    stage = Stage.begin(Progress("x" * 300, 1, 2), ticks.now)
    assert len(drawn(stage, 40).splitlines()) == 2


def slowly(ticks: Clock, seconds: float, steps: int, note: Callable[[int], str]) -> Work[str]:
    for step in range(steps):
        yield Progress(WHAT, step, steps, note=note(step))
        ticks.now += seconds / steps
    yield Progress(WHAT, steps, steps)
    return "result"


def logged(work: Work[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert watch(work) == "result"
    return capsys.readouterr().err.splitlines()


def test_a_long_stage_is_a_log_of_few_lines_whatever_it_notes(
    ticks: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = logged(slowly(ticks, 24 * 3600, 24 * 3600, lambda step: f"check {step}"), capsys)
    assert 20 < len(lines) < 200
    assert lines[0] == f"{WHAT}: 0/86400, check 0"
    assert lines[-1] == f"{WHAT}: 86400/86400, 24:00:00"
    assert " left" in lines[10]


def test_a_stage_of_a_moment_is_one_line(
    ticks: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(logged(slowly(ticks, 0.5, 100, str), capsys)) == 1
    assert len(logged(slowly(ticks, 9.0, 100, str), capsys)) == 2


def test_a_line_says_that_another_process_is_waited_for(
    ticks: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def waits() -> Work[str]:
        yield at(0)
        yield at(0, note="waiting for another process", waits=True)
        yield at(0, note="waiting for another process", waits=True)
        return "result"

    assert [line.count("waiting") for line in logged(waits(), capsys)] == [0, 1]


SHOWN = """
import time
from bench.results.progress import Progress
from bench.results.watching import watch
def work():
    yield Progress("first", 0, 2, unit="images")
    yield Progress("second", 0, 4, unit="images")
    time.sleep(0.3)  # a picture of it is drawn four times a second
    yield Progress("second", 4, 4, {"robust": "50.0 (15.0-85.0)"}, unit="images")
watch(work())
"""


def on_a_terminal(code: str, cwd: Path, **environment: str) -> str:
    """Run code with a pseudo-terminal as stderr and return what it wrote there."""
    ours, theirs = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, stderr=theirs, check=True,
        env={**inherited, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )  # fmt: skip
    os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 2**16):
            found += part
    except OSError:  # EIO: nothing is left and nobody writes any more
        pass
    os.close(ours)
    return found.decode()


def test_a_terminal_draws_one_line_that_changes(tmp_path: Path) -> None:
    said = on_a_terminal(SHOWN, tmp_path)
    assert "\x1b[2K" in said, "a line is drawn again in its place"
    assert said.count("\n") <= 3
    assert "4/4 images, robust 50.0 (15.0-85.0)" in said
    assert "first" in said


def test_no_color_is_obeyed_on_a_terminal(tmp_path: Path) -> None:
    assert "\x1b[3" in on_a_terminal(SHOWN, tmp_path)
    said = on_a_terminal(SHOWN, tmp_path, NO_COLOR="1")
    assert "\x1b[2K" in said
    assert "\x1b[3" not in said
    assert "\x1b[9" not in said


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    said = on_a_terminal(SHOWN, tmp_path, TERM="dumb")
    assert "\x1b" not in said
    assert said.splitlines() == ["first: 0/2 images", "second: 0/4 images"]
