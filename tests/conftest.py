"""Fixtures that all tests share. Tests run offline, single-threaded and on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Real data where it is at hand: BENCH_DATA, or a folder shared/data beside the checkout.
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if "BENCH_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["BENCH_DATA"] = str(_BESIDE)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
