"""The layers hold, and a planted violation is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

VIOLATIONS = {
    "a lower layer imports a higher one": (
        "bench/core/rng.py",
        "import bench.evaluation.judge",
    ),
    "bench imports a plugin": ("bench/evaluation/judge.py", "import bench_attacks.pgd"),
    "an attack imports past the api": (
        "attacks/bench_attacks/pgd.py",
        "import bench.evaluation.judge",
    ),
    "a defense imports past the api": (
        "defenses/bench_defenses/none.py",
        "import bench.evaluation.run",
    ),
    "bench imports a benchmark": ("bench/evaluation/judge.py", "import benchmarks.rows"),
    "a defense imports an attack": ("defenses/bench_defenses/none.py", "import bench_attacks"),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_planted_violation_fails(tmp_path: Path, violation: str) -> None:
    for name in ("bench", "attacks", "defenses", "benchmarks"):
        shutil.copytree(REPO / name, tmp_path / name)
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    file, line = VIOLATIONS[violation]
    path = tmp_path / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    roots = [str(tmp_path / name) for name in ("", "attacks", "defenses")]
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
