"""Helpers of the tests of the command line. Imports no torch."""

from __future__ import annotations

import csv
import functools
import json
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bench import cli

# Typer reads the annotations of all commands at each call: 50 ms, which a process has once.
typer.main.get_command = functools.cache(typer.main.get_command)

TINY = ("--set=classifier.training.epochs=1", "-n", "4", "--draws=3")
NOISE = ("--attack=noise", "--set=attack.tries=1", *TINY)
RUN = ("run", "--defense=none", *NOISE)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.out)
        return found


Bench = Callable[..., Said]


def exit_code(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run a command line in this process and say how it would end one of its own."""
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    monkeypatch.setattr(cli, "_shown", [])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def imported_well(what: str, argument: str) -> tuple[list[str], str]:
    """Say of a module, or of each plugin, what the doctor hears of an import that went well."""
    imported = json.loads(argument) if what == "plugins" else [argument]
    return [""] * len(imported), "its import ends the process with status 0"


class Here:
    """An executor of this process, in place of a fresh one, which takes seconds to start."""

    def __init__(self, *given: Any, **more: Any) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def submit(self, work: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*given))
        return done


def never(monkeypatch: pytest.MonkeyPatch, *targets: str) -> None:
    def called(*args: object, **options: object) -> None:
        pytest.fail("done again what was done already")

    for target in targets:
        monkeypatch.setattr(target, called)


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    never(
        monkeypatch,
        "bench_defenses.classifiers.small_cnn.SmallCnn.start",
        "bench_attacks.noise.Noise.__call__",
        "bench_attacks.pgd.Pgd.__call__",
        "bench.evaluation.run.judge",
    )


def files(folder: Path) -> set[Path]:
    """List what is kept: no cache of a results folder, which has cells of some age only."""
    cache = folder / "results" / "cache"
    found = {path for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if not path.is_relative_to(cache)}


def runs(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def is_one_clear_message(said: Said, *parts: str, code: int) -> None:
    assert said.code == code, said
    assert "Traceback" not in said.out + said.err, said
    assert said.err.count("error: ") == 1, said
    message = said.err.partition("error: ")[2]
    for part in parts:
        assert part in message, f"'{part}' is not in: {message}"
    assert len(message) < 1200, "nobody reads a message of this length"
