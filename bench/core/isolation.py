"""What a plugin leaves behind reaches nothing else: switches, generators, prints, exits."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bench.errors import no_exit


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run a plugin's work on a block so that it changes no other block, cell or command.

    The generators of torch, numpy and Python are seeded by ``seed`` and put back: who draws
    from them gets the same numbers for the same block. Prints go to stderr, where they break
    no JSON, and an exit of the process becomes SystemExit, an error of that block.
    """
    numbers, python = np.random.get_state(), random.getstate()
    before = [get() for get, _ in _SWITCHES]
    in_use = _cuda_in_use()
    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else ()),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sys.stderr),
        no_exit(),
    ):
        # Where none is in use torch.manual_seed writes the stack down for each kind of device.
        if in_use or _other_accelerator():
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(python)
            for (get, put_back), value in zip(_SWITCHES, before, strict=True):
                if get() != value:  # to set some of them takes seconds, or warns
                    put_back(value)


def generator_states() -> tuple[object, ...]:
    """Return the states of the generators that ``isolated`` seeds: who draws changes them."""
    torches = [torch.get_rng_state()]
    if _cuda_in_use():
        torches += torch.cuda.get_rng_state_all()
    _, words, place, *_ = np.random.get_state()
    states = [state.numpy().tobytes() for state in torches]
    return (*states, np.asarray(words).tobytes(), place, random.getstate())


def _cuda_in_use() -> bool:
    """Whether a GPU's generators can have been drawn from: to read idle ones starts CUDA."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch's has no types


def _other_accelerator() -> bool:
    return torch.accelerator.is_available() and not torch.cuda.is_available()


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _flags() -> tuple[bool, ...]:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32)


def _set_flags(value: tuple[bool, ...]) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = value


# What code may switch for the whole process: how to read it, how to put it back.
_SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (_deterministic, _set_deterministic),
    (_flags, _set_flags),
    (os.getcwd, os.chdir),
)
