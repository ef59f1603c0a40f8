"""What a plugin leaves behind reaches nothing else."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.core.isolation import generator_states, isolated

# What code may switch, and how it is seen afterwards.
SWITCHES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "threads": (lambda: torch.set_num_threads(2), torch.get_num_threads),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
    "cudnn": (
        lambda: setattr(torch.backends.cudnn, "benchmark", True),
        lambda: torch.backends.cudnn.benchmark,
    ),
    "warnings": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "torch's generator": (
        lambda: torch.manual_seed(5),
        lambda: torch.random.get_rng_state().tolist(),
    ),
    "numpy's generator": (lambda: np.random.seed(5), lambda: np.random.get_state()[1].tolist()),
    "Python's generator": (lambda: random.seed(5), random.getstate),
    "folder": (lambda: os.chdir("/"), os.getcwd),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_put_back_after_an_error_too(name: str, tmp_path: Path) -> None:
    switch, seen = SWITCHES[name]
    before = seen()

    def leave_behind() -> None:
        with isolated(0):
            switch()
            assert seen() != before, "the case tells nothing"
            raise KeyError

    with pytest.raises(KeyError):
        leave_behind()
    assert seen() == before


def drawn() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


def test_global_generators_are_seeded_by_the_shard() -> None:
    found = []
    for seed in (1, 1, 2):
        torch.rand(3)  # whatever was drawn before
        with isolated(seed):
            found.append(drawn())
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[0], found[2], strict=True))


@pytest.mark.parametrize("accelerated", [False, True])
def test_every_device_that_is_there_is_seeded(
    monkeypatch: pytest.MonkeyPatch, accelerated: bool
) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerated)
    seed_all = torch.manual_seed

    def manual_seed(seed: int) -> None:
        seeded.append(seed)
        seed_all(seed)

    monkeypatch.setattr(torch, "manual_seed", manual_seed)
    with isolated(7):
        found = torch.rand(3)
    assert seeded == ([7] if accelerated else [])
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_an_idle_gpu_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def starts(*_: object) -> None:
        raise AssertionError("to read the state of an idle GPU starts CUDA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("get_rng_state", "get_rng_state_all", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, starts)
    with isolated(7):
        before = generator_states()
    assert len(before) == 4  # torch's on the CPU, numpy's two, Python's


def test_prints_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with isolated(0):
        print("from a plugin")  # noqa: T201 - what plugins do
    print("from the command")  # noqa: T201 - what must not be caught
    assert capsys.readouterr() == ("from the command\n", "from a plugin\n")


def test_an_exit_of_the_process_is_an_error_and_a_child_may_end() -> None:
    leave = os._exit
    with pytest.raises(SystemExit), isolated(0):
        os._exit(0)
    assert os._exit is leave
    with isolated(0):
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
