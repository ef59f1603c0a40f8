"""The command as a process: how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.__main__ import main

from ..command import Bench

TORCH = (
    "import atexit, sys, torch; atexit.register(print, 'at the end'); "
    "atexit.register(sys.stderr.write, 'no end of line'); "
    "sys.argv = ['bench', *sys.argv[1:]]; from bench.cli import script; "
)


def process(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words", [("list",), ("run", "--attack", "nonsense"), ("nonsense",), ("--help",)], ids=str
)
def test_a_process_with_torch_says_all_and_ends_as_one_without(
    words: tuple[str, ...], bench: Bench
) -> None:
    inside = bench(*words)
    ended = process(TORCH + "script()", *words)
    assert ended.returncode == inside.code
    assert ended.stdout == inside.out + "at the end\n"
    assert ended.stderr.split() == [*inside.err.split(), "no", "end", "of", "line"]


def test_torch_s_libraries_are_not_taken_apart() -> None:
    last = "class Last:\n    def __del__(self): print('apart', flush=True)\n\nlast = Last()\n"
    assert "apart" in process(f"{last}import torch").stdout
    ended = process(f"{last}{TORCH}script()", "--version")
    assert ended.returncode == 0
    assert "apart" not in ended.stdout


def test_a_process_whose_threads_still_work_waits_for_them() -> None:
    slow = (
        "import threading, time; work = lambda: (time.sleep(1), print('worked', flush=True)); "
        "threading.Thread(target=work).start(); "
    )
    ended = process(TORCH + slow + "script()", "--version")
    assert ended.returncode == 0
    assert "worked" in ended.stdout


def test_an_interrupt_while_the_command_is_imported_ends_it_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "bench.cli", Interrupted())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_a_sentence_as_an_exit_is_printed() -> None:
    code = TORCH + "import bench.cli; bench.cli.main = lambda: sys.exit('a sentence'); script()"
    ended = process(code)
    assert ended.returncode == 1
    assert ended.stderr.startswith("a sentence\n")
