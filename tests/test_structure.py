"""docs/structure.md tells the truth: its files and names exist, and the core stays small."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGE = (REPO / "docs" / "structure.md").read_text()
CORE_LINES = 2500
BESIDE_THE_ROOMS = 6
NOT_LOADED = (
    "bench/evaluation/batches.py",
    "bench/core/philox_torch.py",
    "bench/core/precision.py",
    "bench/core/philox_triton.py",
    "bench/evaluation/batch_votes.py",
)
RESULT = "runs.csv"  # in no checkout


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def is_path(word: str) -> bool:
    return "/" in word or word.endswith((".py", ".toml", ".csv"))


def rooms() -> list[str]:
    return sorted(path.parent.name for path in (REPO / "bench").glob("*/__init__.py"))


def defined(path: Path) -> set[str]:
    """Name what a file defines: functions, classes, their methods and fields, and constants."""
    found: set[str] = set()

    def add(body: list[ast.stmt], within: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.update((node.name, within + node.name))
            if isinstance(node, ast.ClassDef):
                add(node.body, f"{node.name}.")
            names = [node.target] if isinstance(node, ast.AnnAssign) else []
            names += node.targets if isinstance(node, ast.Assign) else []
            found.update(name.id for name in names if isinstance(name, ast.Name))

    add(ast.parse(path.read_text()).body, "")
    return found


def test_every_file_on_the_page_exists() -> None:
    for word in {word for word in quoted(PAGE) if is_path(word)} - {RESULT}:
        path = REPO / word
        assert path.is_dir() if word.endswith("/") else path.is_file(), word


def test_every_name_on_the_page_is_in_a_file_beside_it() -> None:
    for line in re.split(r"\n(?=\||\d\. |\n)", PAGE):
        words = [word for word in quoted(line) if not word.startswith("bench ")]
        files = [REPO / word for word in words if word.endswith(".py")]
        files += [
            path for word in words if word.endswith("/") for path in (REPO / word).glob("*.py")
        ]
        names = {word for word in words if not is_path(word) and word != "bench"}
        if files:
            assert names <= set().union(*map(defined, files)), line


def test_every_question_is_answered_in_at_most_two_files() -> None:
    table = PAGE.partition("## Questions")[2].split("| --- | --- |\n")[1]
    lines = table.splitlines()
    assert len(lines) >= 10
    for line in lines:
        assert 1 <= len([word for word in quoted(line) if word.endswith(".py")]) <= 2, line


def test_every_room_has_a_line_and_nothing_else_has() -> None:
    table = PAGE.partition("## The rooms")[2].partition("Beside the rooms")[0]
    lines = re.findall(r"^\| `bench/(\w+)/` \| \w", table, flags=re.MULTILINE)
    assert sorted(lines) == rooms()


def test_few_files_stand_beside_the_rooms_and_the_page_names_them() -> None:
    beside = {path.name for path in (REPO / "bench").glob("*.py")}
    assert len(beside) <= BESIDE_THE_ROOMS
    line = PAGE.partition("Beside the rooms")[2].partition("\n\n")[0]
    assert {f"bench/{name}" for name in beside - {"__init__.py"}} <= set(quoted(line))


def test_the_core_is_listed_and_small_enough_to_read() -> None:
    section = PAGE.partition("## Core")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE)
    files = [
        path for room in ("core", "evaluation") for path in (REPO / "bench" / room).glob("*.py")
    ]
    there = {str(path.relative_to(REPO)) for path in files if path.name != "__init__.py"}
    assert set(listed) == there - set(NOT_LOADED)
    assert set(NOT_LOADED) <= set(quoted(section))
    assert f"at most {CORE_LINES:,} lines" in section
    assert sum(len((REPO / name).read_text().splitlines()) for name in listed) <= CORE_LINES


def test_an_evaluation_on_a_cpu_does_not_load_what_is_not_counted() -> None:
    names = [name.removesuffix(".py").replace("/", ".") for name in NOT_LOADED]
    code = f"import sys, bench.evaluation.run; assert not {set(names)} & set(sys.modules)"
    for name in names:
        assert importlib.util.find_spec(name)
    subprocess.run([sys.executable, "-c", code], check=True)
