"""The commands that look at what is there: list, show, table and doctor."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path

import pytest

from ..command import NOISE, RUN, Bench, runs


def test_list(bench: Bench) -> None:
    everything = bench("list").out
    for name in ("adv_ebm", "autoattack", "small_cnn", "robustbench:NAME", "fashion_mnist"):
        assert name in everything
    attacks = bench("list", "attacks").out
    assert "autoattack" in attacks
    assert "adv_ebm" not in attacks


def test_defenses_are_listed_by_kind(bench: Bench) -> None:
    lines = bench("list", "defenses").out.splitlines()
    heads = [line.strip(" :") for line in lines[1:] if line.endswith(":")]
    assert heads == ["filters", "learned", "energies", "diffusion", "museum", "references"]
    below = {line.split()[0]: number for number, line in enumerate(lines)}
    assert below["learned:"] < below["dae"] < below["energies:"] < below["ebm"]
    assert below["diffusion:"] < below["dds"] < below["references:"] < below["none"]
    kinds = json.loads(bench("list", "defenses", "--json").out)["kinds"]["defenses"]
    assert (kinds["jpeg"], kinds["ebm"]) == ("filters", "energies")
    assert (
        kinds.keys() == json.loads(bench("list", "defenses", "--json").out)["defenses"].keys()
    )


def test_list_models_is_the_old_name_of_list_classifiers(bench: Bench) -> None:
    now, before = bench("list", "classifiers"), bench("list", "models")
    assert now.out.startswith("classifiers:\n")
    assert (before.code, before.out) == (0, now.out)
    assert now.err == ""
    assert before.err == "warning: `bench list models` is now `bench list classifiers`.\n"


def test_list_as_json_has_every_name_and_the_zoo(bench: Bench) -> None:
    said = bench("list", "--json")
    tables = json.loads(said.out)
    assert list(tables)[:4] == ["defenses", "attacks", "classifiers", "datasets"]
    assert tables["datasets"]["digits"].startswith("scikit-learn")
    assert json.loads(bench("list", "attacks", "--json").out) == {"attacks": tables["attacks"]}
    if importlib.util.find_spec("robustbench"):
        assert tables["zoo"]["robustbench:Standard"] == "cifar10 Linf"
        assert "  robustbench:Standard " in bench("list", "zoo").out


def test_list_without_robustbench_lacks_only_the_zoo(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.models.robustbench.importlib.util.find_spec", lambda name: None)
    said = bench("list", "--json")
    assert said.code == 0
    assert "zoo" not in json.loads(said.out)
    assert "without the zoo" in said.err
    assert "pip install 'purifybench[robustbench]'" in said.err
    assert bench("list", "zoo").code == 2


def test_names_are_completed_in_the_shell(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_BENCH_COMPLETE", "complete_bash")
    for line, names in (
        ("bench run --defense adv", ["adv_ebm", "adv_ebm_plus"]),
        ("bench run --attack apgd", ["apgd", "apgd_t"]),
        ("bench run --dataset fa", ["fashion_mnist"]),
        ("bench run --classifier small", ["small_cnn"]),
    ):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", "3")
        assert bench().out.split() == names


@pytest.mark.parametrize(
    ("name", "parts"),
    [("pgd", ("attack.steps: ", "= 50", "full, bpda, transfer", "--eps inf")),
     ("ebm", ("defense.steps: ", "defense.training.iterations: ", "draws noise")),
     ("small_cnn", ("classifier.training.epochs: int = 30",)),
     ("jpeg", ("every access but full", "deterministic", "source: Guo et al. 2018, arXiv ")),
     ("dae", ("source: Meng and Chen 2017", "trained on the training images of digits")),
     ("vae", ("digits and AutoAttack's Linf 0.2 images of the first 500, made on the def",)),
     ("dds", ("images of digits; shares the network of diffusion",)),
     ("digits", ("(data set)", "500 images to test on, 1,297 to train on; 1 x 8 x 8, 10 cl"))],
)  # fmt: skip
def test_show(bench: Bench, name: str, parts: tuple[str, ...]) -> None:
    said = bench("show", name)
    assert said.code == 0
    for part in parts:
        assert part in said.out


def test_show_follows_the_recipe_of_the_data_set(bench: Bench) -> None:
    line = "classifier.training.epochs: int = "
    assert f"{line}30" in bench("show", "small_cnn").out
    assert f"{line}30" not in bench("show", "small_cnn", "--dataset=mnist").out


@pytest.fixture
def three(bench: Bench) -> None:
    """Two attacks on one defense and one on another."""
    assert bench(*RUN).code == 0
    assert bench(*RUN, "--access=transfer").code == 0
    assert bench("run", "--defense=bit_depth", *NOISE).code == 0


@pytest.mark.usefixtures("three")
def test_a_table_as_csv(bench: Bench, tmp_path: Path) -> None:
    said = bench("table", "--format=csv")
    assert said.code == 0
    assert list(csv.DictReader(io.StringIO(said.out))) == runs(tmp_path)
    assert len(runs(tmp_path)) == 3


@pytest.mark.usefixtures("three")
def test_a_table_as_markdown(bench: Bench) -> None:
    lines = bench("table").out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| defense | attack |")
    assert set(lines[1]) <= set("|- ")
    assert len(lines) == 2 + 3


@pytest.mark.usefixtures("three")
def test_a_table_as_latex_is_escaped(bench: Bench) -> None:
    text = bench("table", "--format=latex").out
    assert r"bit\_depth" in text
    assert "bit_depth" not in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    for line in body.strip().splitlines():
        assert line.endswith(r"\\")
        assert line.count(" & ") == len(columns) - 1


@pytest.mark.usefixtures("three")
def test_a_table_with_the_worst_case(bench: Bench) -> None:
    rows = list(csv.DictReader(io.StringIO(bench("table", "--worst-case", "--format=csv").out)))
    worst = [row for row in rows if row["attack"] == "worst case"]
    assert {row["defense"] for row in worst} == {"none", "bit_depth"}
    (none,) = [row for row in worst if row["defense"] == "none"]
    assert none["access"] == "query/transfer"
    assert none["note"].count("noise") == 2


@pytest.mark.usefixtures("three")
def test_a_table_goes_to_a_file(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    said = bench("table", "-o", "sub/table.md")
    assert said.code == 0
    assert (tmp_path / "sub" / "table.md").read_text() == bench("table").out
    assert "table.md" in said.out


@pytest.mark.usefixtures("three")
def test_a_table_of_one_data_set(bench: Bench) -> None:
    assert bench("table", "--dataset=digits").out == bench("table").out
