"""The code blocks of the README and of every page do what they say."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from bench import cli

REPO = Path(__file__).resolve().parents[1]
PAGES = [
    REPO / "README.md",
    *sorted((REPO / "docs").glob("*.md")),
    REPO / "benchmarks/README.md",
]
RUN = [
    REPO / "README.md",
    *(REPO / f"docs/{name}.md" for name in ("usage", "trust", "figures")),
]
PLUGINS = REPO / "docs/plugins.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.M)


def lines(page: Path, language: str) -> list[str]:
    return [line for block in blocks(page, language) for line in block.splitlines()]


def files(page: Path) -> Iterator[tuple[str, str]]:
    """Find the blocks that begin with the name of their file, '# my_plan.yaml'."""
    for language in ("yaml", "toml", "python"):
        for block in blocks(page, language):
            if named := re.match(r"# ([\w/]+\.\w+)\n", block):
                yield named[1], block


def bench(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def a_key(results: Path) -> str:
    """Find a cell for the KEY of a command: one whose images a command above has made."""
    with (results / "runs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "done"]
    return next(row["key"] for row in rows if row["attack"] == "pgd")


@pytest.mark.slow
def test_every_command_works_and_the_second_run_is_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPO / "plans", tmp_path / "plans")
    for page in RUN:
        for name, text in files(page):
            (tmp_path / name).write_text(text)
        assert lines(page, "console")
        for line in lines(page, "console"):
            assert line.startswith("bench ")
            words = (
                line.replace(" KEY ", f" {a_key(tmp_path / 'results')} ")
                if "KEY" in line
                else line
            )
            assert bench(words, monkeypatch) == 0, f"{page.name}: {line}\n{capsys.readouterr()}"
    assert r"adv\_ebm" in (tmp_path / "table.tex").read_text()
    assert (tmp_path / "results/paper/my_table.md").is_file()
    capsys.readouterr()

    again = next(line for line in lines(RUN[0], "console") if "--attack adaptive" in line)
    assert bench(again, monkeypatch) == 0
    shown = capsys.readouterr()
    assert "train" not in shown.err
    assert "adaptive" in shown.out


@pytest.mark.timeout(600)
def test_the_plugins_of_the_page_work_as_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    for name, text in files(PLUGINS):
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project = tomllib.loads((site / "pyproject.toml").read_text())["project"]
    info = site / f"my_package-{project['version']}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in project["entry-points"].items()
    ]
    info.joinpath("entry_points.txt").write_text("".join(points))
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    assert len(points) == 4
    for line in lines(PLUGINS, "console"):
        assert bench(line, monkeypatch) == 0, f"{line}\n{capsys.readouterr()}"
    said = capsys.readouterr().out
    assert "Average every pixel with those around it" in said
    with (tmp_path / "results/runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, only in (("attack", "fgsm"), ("classifier", "linear"), ("state", "done")):
        assert {row[name] for row in rows} == {only}
    assert len(rows) == 4
    assert {row["dataset"] for row in rows} == {"digits", "halves"}
    for row in rows:  # the classifier has learned, and the attack breaks
        assert float(row["clean"]) > 70
        assert float(row["robust"]) < float(row["clean"])


def test_a_defense_is_a_module_from_images_to_logits() -> None:
    names: dict[str, object] = {}
    first, second = blocks(PLUGINS, "python")[-2:]
    exec(compile(first, PLUGINS.name, "exec", dont_inherit=True), names)
    assert names["logits"].shape == (5, 10)
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("robustbench is an extra")
    exec(compile(second, PLUGINS.name, "exec", dont_inherit=True), names)
    assert 0 <= names["accuracy"] <= 1


def commands(page: Path) -> list[list[str]]:
    """Find the bench commands of the blocks, as words."""
    found = []
    for line in lines(page, "console") + lines(page, "sh"):
        words = shlex.split(line, comments=True)
        while "bench" in words:  # after && or at the beginning
            words = words[words.index("bench") + 1 :]
            end = words.index("&&") if "&&" in words else len(words)
            found.append(words[:end])
            words = words[end:]
    return found


def parse(words: list[str]) -> None:
    """Parse a command as the command line does, and run nothing."""
    command: Any = typer.main.get_command(cli.app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context("bench", list(words), parent=context)
        name, command, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
    command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_block_is_understood(page: Path) -> None:
    languages = set(re.findall(r"^```(\w*)$", page.read_text(), flags=re.M)) - {""}
    assert languages <= {"console", "sh", "python", "toml", "yaml"}
    for words in commands(page):
        parse(words)
        for word in words:
            assert not word.startswith("plans/") or (REPO / word).is_file(), word
    for text in blocks(page, "toml"):
        tomllib.loads(text)
    for text in blocks(page, "yaml"):
        assert yaml.safe_load(text)
    for text in blocks(page, "python"):
        compile(text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_command_and_option_in_the_text_exists(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.M)
    for said in re.findall(r"`bench ([^`]+)`", text):
        command: Any = typer.main.get_command(cli.app)
        for word in said.replace("=", " ").split():
            if word.startswith("-"):
                known = {
                    option
                    for one in command.params
                    for option in (*one.opts, *one.secondary_opts)
                }
                assert word in known | {"--help"}, f"bench {said}"
            elif hasattr(command, "commands"):
                assert word in command.commands or word.isupper(), f"bench {said}"
                command = command.commands.get(word, command)


def test_the_readme_is_short() -> None:
    assert len(RUN[0].read_text().splitlines()) <= 150


def test_the_test_command_is_what_ci_runs() -> None:
    commands = [block.strip() for block in blocks(RUN[0], "sh")]
    assert any(command.endswith("pip install tox && tox") for command in commands)
    assert "pip install --quiet tox && tox" in (REPO / ".ci" / "run").read_text()
