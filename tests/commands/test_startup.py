"""Commands that need no tensors answer at once: they never import torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ..command import RUN

# Slow to import, and none of them needed to list, to help or to print a table.
HEAVY = ("torch", "triton", "torchvision", "sklearn", "skimage", "robustbench", "pyautoattack",
         "safetensors.torch", "bench_attacks.pgd", "bench_defenses.ebm")  # fmt: skip
LIGHT = ("cli", "experiments.plan", "results.cell", "results.store", "results.table",
         "core.threat", "data.datasets", "plugins.catalogue", "results.stats",
         "results.vote_rules", "results.paired", "results.compare", "errors",
         "results.progress", "webpage.write", "commands.doctor", "executors.local",
         "executors.slurm", "experiments.finished", "results.defense_report")  # fmt: skip
REPORT = f"print('HEAVY', *(name for name in {HEAVY!r} if name in sys.modules))"


SLOW = ("pandas", "numpy")


def heavy(code: str, cwd: Path) -> tuple[list[str], str]:
    """Run code in a fresh interpreter and name the heavy modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; {REPORT}"],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out, _, rest = done.stdout.rpartition("HEAVY")
    return rest.splitlines()[0].split(), out


def command(*words: str, cwd: Path) -> tuple[list[str], str]:
    code = (
        f"sys.argv = ['bench', *{words!r}]; from bench.cli import main; "
        "exec('try: main()\\nexcept SystemExit as stop: assert not stop.code, stop.code')"
    )
    return heavy(code, cwd)


def test_the_light_modules_import_no_torch(tmp_path: Path) -> None:
    """One interpreter for all; where it fails, each by itself says which."""
    modules = ", ".join(f"bench.{name}" for name in LIGHT)
    found, _ = heavy(f"import {modules}", tmp_path)
    guilty = {}
    if found:
        guilty = {name: heavy(f"import bench.{name}", tmp_path)[0] for name in LIGHT}
    assert found == [], guilty


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--help",), "Evaluate one defense under one attack"), (("list",), "autoattack"),
     (("--version",), "purifybench")],
    ids=["help", "list", "version"],
)  # fmt: skip
def test_a_light_command_imports_no_torch(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    found, out = command(*words, cwd=tmp_path)
    assert found == []
    assert said in out


def test_the_command_line_alone_imports_no_pandas(tmp_path: Path) -> None:
    _, out = heavy("import bench.cli; print('pandas' in sys.modules)", tmp_path)
    assert out == "False\n"


def test_a_finished_command_imports_no_torch(
    tmp_path: Path, filled_by: Callable[..., Path]
) -> None:
    filled_by(RUN)
    found, out = command(*RUN, cwd=tmp_path)
    assert found == []
    assert "results/runs.csv" in out


@pytest.mark.parametrize("words", [RUN, ("table",), ("table", "--format=csv")], ids=" ".join)
def test_what_is_finished_is_shown_without_pandas(
    tmp_path: Path, filled_by: Callable[..., Path], words: tuple[str, ...]
) -> None:
    """To import it takes as long as all else. The first time reads cells, and needs it."""
    filled_by(RUN)
    code = "import bench.results.index as index; index._SETTLED_NS = -(10**12); "  # at once
    code += f"sys.argv = ['bench', *{words!r}]; from bench.cli import main; "
    code += "exec('try: main()\\nexcept SystemExit as stop: assert not stop.code, stop.code')"
    for _ in range(2):
        _, out = heavy(f"{code}; print(*map(sys.modules.__contains__, {SLOW}))", tmp_path)
    assert out.endswith("False False\n")


def test_a_table_imports_no_torch(tmp_path: Path) -> None:
    """With a cell whose outcomes are read and joined."""
    write = """
import pathlib, numpy as np
from fractions import Fraction
from bench.results.cell import Cell, Part
from bench.results.settings import NOTHING_SET
from bench.results.store import Store
from bench.results.table import collect
from bench.core.threat import Access, Norm, ThreatModel
part = Part("none", {}, 1)
cell = Cell("digits", "d", 2, 2, part, part, Part("noise", {}, 1),
            ThreatModel(Norm.LINF, Fraction(1, 10), Access.QUERY), 0, 1)
store = Store(pathlib.Path("results"))
store.open(cell, NOTHING_SET)
votes = [np.array([1, 0]), np.array([0, 1])]
store.append(cell, 0, {"index": [0, 1], "label": [0, 0], "distance": [0.0, 0.0],
    "legal": [True, True], "clean": [True, False], "robust": [True, False],
    "clean_votes": votes, "votes": votes}, {"attack passes": {}, "judge passes": {},
    "attack seconds": 0.0, "judge seconds": 0.0, "flags": [], "commit": None, "date": ""})
store.finish(cell, lambda shards: shards[0])
"""
    found, _ = heavy(f"exec({write!r})", tmp_path)
    assert found == []
    found, out = command("table", "--worst-case", "--format=csv", cwd=tmp_path)
    assert found == []
    assert out.count("\nnone,") == 2
