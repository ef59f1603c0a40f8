"""The layers hold, and a planted violation is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

# What a contract of pyproject.toml forbids: the file, and the import that it may not have.
VIOLATIONS = {
    "Each room of bench imports lower ones only": (
        "bench/core/rng.py", "import bench.evaluation.judge"
    ),
    "bench never imports a plugin": ("bench/evaluation/judge.py", "import bench_attacks.pgd"),
    "The attacks that ship import only what a third-party plugin's do": (
        "attacks/bench_attacks/pgd.py", "import bench.evaluation.judge"
    ),
    "The defenses that ship import only what a third-party plugin's do": (
        "defenses/bench_defenses/none.py", "import bench.evaluation.run"
    ),
    "The harness and its plugins never import the benchmarks": (
        "bench/evaluation/judge.py", "import benchmarks.rows"
    ),
    "Attacks and defenses do not know each other": (
        "defenses/bench_defenses/none.py", "import bench_attacks"
    ),
    "Results are verified by other code than made them": (
        "bench/verification/recompute.py", "import bench.evaluation.judge"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of all violations together, since each run takes seconds."""
    root = tmp_path_factory.mktemp("planted")
    for name in ("bench", "attacks", "defenses", "benchmarks"):
        shutil.copytree(REPO / name, root / name)
    shutil.copy(REPO / "pyproject.toml", root)
    for file, line in VIOLATIONS.values():
        with (root / file).open("a") as source:
            source.write(f"\n{line}\n")
    roots = [str(root / name) for name in ("", "attacks", "defenses")]
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_breaks_its_contract(said: str, contract: str) -> None:
    file, line = VIOLATIONS[contract]
    module = re.sub("^(attacks|defenses)/", "", file).removesuffix(".py").replace("/", ".")
    imported = line.removeprefix("import ")
    part = said.partition("Broken contracts")[2].partition(f"\n{contract}\n---")[2]
    found = part.partition("\n---")[0]
    assert re.search(rf"{re.escape(module)} -> {re.escape(imported)}\b", found), said
