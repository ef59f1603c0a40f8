"""The code blocks of the README and of every page do what they say."""

from __future__ import annotations

import copy
import csv
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from bench import cli
from bench_defenses import _recipe

from .command import Here, exit_code, imported_well

REPO = Path(__file__).resolve().parents[1]
PAGES = [
    REPO / "README.md",
    *sorted((REPO / "docs").glob("*.md")),
    REPO / "benchmarks/README.md",
]
README, FIGURES, USAGE, TRUST, PLUGINS = (
    REPO / name
    for name in (
        "README.md", "docs/figures.md", "docs/usage.md", "docs/trust.md", "docs/plugins.md"
    )
)  # fmt: skip


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
    return exit_code(monkeypatch, *shlex.split(line.replace(" -n 50", " -n 10"))[1:])


def a_key(results: Path) -> str:
    """Find a cell for the KEY of a command: one whose images a command above has made."""
    with (results / "runs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["state"] == "done"]
    return next(row["key"] for row in rows if row["attack"] == "pgd")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_autoattack: None) -> Path:
    """A folder as a reader has it, but for short trainings, and for few images everywhere.

    What the doctor imports, for seconds, is the subject of its own tests.
    """
    monkeypatch.setattr("bench.commands.doctor.import_apart", imported_well)
    # A fresh process for each of forty cells takes minutes.
    monkeypatch.setattr("bench.verification.blind.ProcessPoolExecutor", Here)
    for path in (REPO / "plans").glob("*.yaml"):
        (tmp_path / "plans").mkdir(exist_ok=True)
        short = re.sub(r"^(n|draws): \d+$", r"\1: 10", path.read_text(), flags=re.M)
        (tmp_path / "plans" / path.name).write_text(short)
    shipped = _recipe._read

    def short_recipes(dataset: str) -> dict[str, Any]:
        recipes = copy.deepcopy(shipped(dataset))
        recipes["small_cnn"]["training"]["epochs"] = 3
        for name in ("ebm", "adv_ebm"):
            recipes[name]["training"] |= {"iterations": 10, "bank": 32, "width": 4}
        recipes["adv_ebm"]["training"]["images"] = 8
        return recipes

    monkeypatch.setattr(_recipe, "_read", short_recipes)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_all(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all commands of a page in the given folder, with the files that it shows."""
    for name, text in files(page):
        (folder / name).write_text(text)
    assert lines(page, "console")
    for line in lines(page, "console"):
        assert line.startswith("bench ")
        key = f" {a_key(folder / 'results')} " if "KEY" in line else ""
        assert bench(line.replace(" KEY ", key), monkeypatch) == 0, f"{page.name}: {line}"


@pytest.mark.first
def test_every_command_of_the_readme_works_and_the_second_run_is_at_once(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_all(README, checkout, monkeypatch)
    assert "train" in capsys.readouterr().err
    again = next(line for line in lines(README, "console") if "--attack adaptive" in line)
    assert bench(again, monkeypatch) == 0
    shown = capsys.readouterr()
    assert "train" not in shown.err
    assert "adaptive" in shown.out
    run_all(FIGURES, checkout, monkeypatch)
    assert (checkout / "results/paper/my_table.md").is_file()


@pytest.mark.first
def test_every_command_of_the_pages_on_usage_and_trust_works(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(USAGE, checkout, monkeypatch)
    assert r"bpda\_eot" in (checkout / "table.tex").read_text()
    run_all(TRUST, checkout, monkeypatch)


def test_every_page_with_commands_is_run() -> None:
    pages = {page for page in PAGES if lines(page, "console")}
    assert pages == {README, FIGURES, USAGE, TRUST, PLUGINS}


def test_the_plugins_of_the_page_work_as_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    for name, text in files(PLUGINS):
        path = (tmp_path if name == "mine.py" else site) / name
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
    (own,) = [row for row in rows if row["defense"] == "mine.py:purify"]
    assert (own["state"], own["noise"]) == ("done", "by block")
    rows.remove(own)
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


def test_the_page_on_python_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_RESULTS", raising=False)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(REPO / "docs" / "python.md", "python"):
        exec(compile(block, "python.md", "exec", dont_inherit=True), names)
    row = names["row"]
    assert capsys.readouterr().out.startswith(f"robust {row.robust:.1f} %")
    assert row.clean > 50
    assert row.outcomes["distance"].max() == pytest.approx(0.1)
    assert (tmp_path / "pictures.png").is_file()


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


def test_the_workflow_of_the_page_runs_commands_that_exist() -> None:
    (text,) = [block for block in blocks(USAGE, "yaml") if "runs-on" in block]
    workflow = yaml.safe_load(text)
    assert {"name", "jobs"} <= set(workflow)
    (job,) = workflow["jobs"].values()
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    ran = [shlex.split(step["run"]) for step in job["steps"] if "run" in step]
    said = [words[1:] for words in ran if words[0] == "bench"]
    assert said
    for words in said:
        parse(words)
    written = said[0][said[0].index("--junit") + 1]
    assert written in [step["with"].get("path") for step in job["steps"] if "with" in step]


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
    assert len(README.read_text().splitlines()) <= 150


def test_the_test_command_is_what_ci_runs() -> None:
    commands = [block.strip() for block in blocks(README, "sh")]
    assert any(command.endswith("pip install tox && tox") for command in commands)
    assert "pip install --quiet tox && tox" in (REPO / ".ci" / "run").read_text()
