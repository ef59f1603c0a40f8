"""bench new: what it writes works, is clean, and never takes the place of anything."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench.testing.check import results_of

from ..command import Bench, files, is_one_clear_message

REPO = Path(__file__).resolve().parents[2]
KINDS = {"defense": "defenses", "attack": "attacks", "classifier": "classifiers",
         "dataset": "datasets"}  # fmt: skip


LONG = "a_package_with_the_longest_name_there_is"  # 40 letters


def clean(folder: Path) -> None:
    """Lint as the repository's own files are."""
    config = f"--config={REPO / 'pyproject.toml'}"
    for words in (("check", "--ignore=ARG002"), ("format", "--check")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--no-cache", config, str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def run_test(path: Path) -> None:
    names: dict[str, object] = {"__file__": str(path)}
    exec(compile(path.read_text(), str(path), "exec", dont_inherit=True), names)
    names["test_the_contract"]()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_works_and_keeps_its_contract(bench: Bench, tmp_path: Path, kind: str) -> None:
    said = bench("new", kind, "my_own")
    assert said.code == 0, said
    assert {path.name for path in files(tmp_path)} == {"my_own.py", "test_my_own.py"}
    assert "bench check my_own.py:MyOwn" in said.out
    for path in files(tmp_path):
        assert not re.search("plugin.?(name|kind)", path.read_text(), flags=re.IGNORECASE)
    clean(tmp_path)
    run_test(tmp_path / "test_my_own.py")
    checked = bench("check", "my_own.py:MyOwn")
    assert checked.code == 0, checked
    assert f"--{kind} my_own.py:MyOwn" in said.out


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_works_once_it_is_installed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    said = bench("new", kind, LONG, "--package")
    assert said.code == 0, said
    assert f"pip install -e {LONG}" in said.out
    root = tmp_path / LONG
    clean(root)
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    ((group, points),) = project["entry-points"].items()
    assert (project["name"], group) == (LONG.replace("_", "-"), f"bench.{KINDS[kind]}")
    # As pip installs it: its folder on the path, and a dist-info folder.
    info = root / "src" / f"{LONG}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-package-of-one\nVersion: 0.1.0\n"
    )
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "src")])
    importlib.invalidate_caches()
    try:
        run_test(root / "tests" / f"test_{LONG}.py")
    finally:
        for name in [name for name in sys.modules if name.startswith(LONG)]:
            del sys.modules[name]


def test_the_weights_beside_a_classifier_are_read(bench: Bench, tmp_path: Path) -> None:
    import torch

    from bench.plugins.files import load

    assert bench("new", "classifier", "my_net").code == 0
    made = load("my_net.py").module.MyNet
    weights = made().network(shape=(1, 8, 8), classes=10).state_dict()
    torch.save({name: value + 1 for name, value in weights.items()}, tmp_path / "my_net.pth")
    again = made().network(shape=(1, 8, 8), classes=10).state_dict()
    assert all(again[name].equal(value + 1) for name, value in weights.items())
    assert not [one for one in results_of("classifiers", made) if one.state == "fails"]


@pytest.mark.parametrize("there", ["my_own.py", "test_my_own.py"])
def test_nothing_is_overwritten(bench: Bench, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine\n")
    is_one_clear_message(
        bench("new", "defense", "my_own"), there, "nothing is overwritten", code=2
    )
    assert {path.name: path.read_text() for path in files(tmp_path)} == {there: "mine\n"}
    assert bench("new", "defense", "my_other", "--package").code == 0
    again = bench("new", "attack", "my_other", "--package")
    is_one_clear_message(again, "my_other/pyproject.toml", "nothing is overwritten", code=2)


@pytest.mark.parametrize(
    ("name", "part"),
    [("MyPurifier", "such as my_purifier"), ("my-blur", "such as my_blur"), ("2x", "letters"),
     ("é", "letters"), ("../x", "such as x"), ("a" * 41, "at most 40"), ("class", "hide"),
     ("torch", "hide"), ("random", "hide"), ("bench", "hide")],
)  # fmt: skip
def test_a_bad_name_is_refused(bench: Bench, tmp_path: Path, name: str, part: str) -> None:
    is_one_clear_message(bench("new", "defense", name), part, code=2)
    assert files(tmp_path) == set()


def test_a_name_that_is_taken_is_for_no_package(bench: Bench, tmp_path: Path) -> None:
    for kind, name in (("defense", "ebm"), ("dataset", "digits")):
        said = bench("new", kind, name, "--package")
        is_one_clear_message(said, f"'{name}'", "already", code=2)
    is_one_clear_message(bench("new", "purifier", "x"), "purifier", "defense", code=2)
    assert files(tmp_path) == set()
