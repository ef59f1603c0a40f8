"""The check for GPU machines, on the CPU at its smallest size: it goes to its end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Of each step one line that it promises, with what a CPU has to find.
PROMISED = (
    r"device cpu, budget \d+ s, \d+ cores",
    r"rc 0, \d+ s: checks-first",
    r"ok   warnings of the first backward pass: none",
    r"ok   Python \S+: a LangevinPurifier is an EnergyPurifier: True",
    r"ok   random bits on cpu and on the CPU: the same",
    r"SEE  100 rows of 784 normals: normal_like us [\d,.]+",
    r"rc 0, \d+ s: checks-cells-0",
    r"ok   \d+ small cells, 0 failed, 0 left out for time",
    r"ok   cells whose second run on cpu is not the same to the bit: none",
    r"ok   cells with images outside the ball on cpu: none",
    r"rc 0, \d+ s: checks-memory",
    r"rc 0, \d+ s: checks-items",
    r"SEE  eot: ",
    r"-?\d+ s of the budget were left; BAD lines: 0",
)


def test_the_whole_check_without_time_leaves_every_step_out_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "scripts/gpu_check.sh", "0"],
        cwd=ROOT,
        env={
            **os.environ, "OUT": str(tmp_path / "out"), "BENCH_DATA": str(tmp_path),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "out" / "summary.txt").read_text()
    left = re.findall(r"^LEFT OUT ([\w-]+): no time$", said, re.MULTILINE)
    assert {
        "doctor", "checks-first", "checks-memory", "checks-items", "digits", "workers",
        "checks-workers", "checks-cells-0", "audit", "tests-gpu", "tests-command",
    } <= set(left)  # fmt: skip
    assert f"LEFT OUT mnist: no {tmp_path}/MNIST/raw" in said
    assert "s of the budget were left; BAD lines: 0" in said


def test_what_the_check_looks_at_by_itself_finds_nothing_bad_on_a_cpu(tmp_path: Path) -> None:
    checks = ("env", "rng", "known", "speed", "train", "memory", "cells", "--part", "0/20")
    done = subprocess.run(
        [sys.executable, "scripts/gpu_check.py", *checks, "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^(BAD|SEE|ok) ", done.stdout, re.MULTILINE)
    assert len(said) >= 16, done.stdout
    assert "BAD" not in said, done.stdout
    assert done.stdout.count("resumed weights the same: True") == 4
    assert re.search(r"ok   2 small cells, 0 failed, 0 left out for time", done.stdout)


@pytest.mark.slow
def test_the_second_check_finishes_with_the_lines_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        ["bash", "scripts/gpu_check.sh", "--second", "1700"],
        cwd=ROOT,
        env={
            **os.environ,
            "OUT": str(out),
            "TMPDIR": str(tmp_path / "tmp"),
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = (out / "summary.txt").read_text().splitlines()
    for promised in PROMISED:
        assert any(re.match(promised, line) for line in lines), (promised, lines)
    found = json.loads((out / "checks.json").read_text())
    assert set(found) == {"env", "rng", "memory", "items"}
    with tarfile.open(out / "logs.tgz") as packed:
        part = packed.extractfile("logs/checks-cells-0.json")
        assert part is not None
        cells = json.load(part)["cells"]["result"]["cells"]
    assert {one["what"].split()[0] for one in cells} == {"gaussian", "jpeg", "ebm", "dae"}
