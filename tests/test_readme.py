"""The README's code blocks do what they say."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from bench import cli

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def bench(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.slow
def test_every_command_works_and_the_second_run_is_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPO / "plans", tmp_path / "plans")
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert len(lines) >= 10
    for line in lines:
        assert line.startswith("bench ")
        assert bench(line, monkeypatch) == 0, f"{line}\n{capsys.readouterr()}"
    assert r"adv\_ebm" in (tmp_path / "table.tex").read_text()
    capsys.readouterr()

    again = next(line for line in lines if "--attack adaptive" in line)
    assert bench(again, monkeypatch) == 0
    shown = capsys.readouterr()
    assert "train" not in shown.err
    assert "adaptive" in shown.out


def test_the_example_defense_purifies_and_its_entry_point_is_right(tmp_path: Path) -> None:
    import torch

    from bench.api import Purifier, Rng

    names: dict[str, object] = {"__name__": __name__}
    exec(compile(blocks("python")[0], "README.md", "exec", dont_inherit=True), names)
    blur = names["Blur"]()
    assert isinstance(blur, Purifier)
    x = torch.rand(4, 1, 8, 8)
    assert blur.purify(x, rng=Rng.seeded(0, range(4))).shape == x.shape
    (table,) = blocks("toml")
    points = tomllib.loads(table)["project"]["entry-points"]
    assert points == {"bench.defenses": {"blur": "my_package.blur:Blur"}}


def test_a_defense_is_a_module_from_images_to_logits() -> None:
    names: dict[str, object] = {}
    exec(compile(blocks("python")[1], "README.md", "exec", dont_inherit=True), names)
    assert names["logits"].shape == (5, 10)
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("robustbench is an extra")
    exec(compile(blocks("python")[2], "README.md", "exec", dont_inherit=True), names)
    assert 0 <= names["accuracy"] <= 1


def test_the_test_command_is_what_ci_runs() -> None:
    commands = [block.strip() for block in blocks("sh")]
    assert any(command.endswith("pip install tox && tox") for command in commands)
    assert "pip install --quiet tox && tox" in (REPO / ".ci" / "run").read_text()
