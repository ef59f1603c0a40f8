"""The command line in this process: what run and train print, what they write, how they end."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from bench import __version__
from bench.cli import main
from bench.errors import UsageError

from ..command import RUN, TINY, Bench, files, never, no_work, runs

REPO = Path(__file__).resolve().parents[2]


def test_a_run_ends_in_a_row_of_runs_csv(bench: Bench, tmp_path: Path) -> None:
    said = bench(*RUN)
    assert said.code == 0
    (row,) = runs(tmp_path)
    assert (row["defense"], row["attack"], row["state"]) == ("none", "noise", "done")
    assert (row["n"], row["draws"], row["eps"], row["norm"]) == ("4", "3", "8/255", "Linf")
    assert set(row["settings"].split()) == {"classifier.training.epochs=1", "attack.tries=1"}
    assert 0 <= float(row["robust"]) <= float(row["clean"]) <= 100
    assert float(row["robust_low"]) <= float(row["robust"]) <= float(row["robust_high"])
    assert row["key"] in said.out
    assert (tmp_path / "results" / "cells" / row["key"] / "outcomes.parquet").is_file()
    assert "train small_cnn on digits" in said.err, "progress goes to stderr"
    assert "train small_cnn" not in said.out


def test_the_first_line_names_the_default_data_set_and_how_to_choose_another(
    bench: Bench,
) -> None:
    first = bench(*RUN).out.splitlines()[0]
    assert "digits" in first
    assert "--dataset" in first
    assert "first 4 images" in first
    assert "8/255" in first


def test_another_data_set_is_named_without_advice(bench: Bench) -> None:
    first = bench(*RUN, "--dataset=mnist", "-n", "10001").out.splitlines()[0]
    assert "mnist" in first
    assert "--dataset" not in first


def test_the_second_run_finds_everything(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench(*RUN)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    no_work(monkeypatch)
    second = bench(*RUN)
    assert second.code == 0
    assert second.out == first.out
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


def test_another_seed_uses_the_same_classifier(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(*RUN)
    never(monkeypatch, "bench_defenses.classifiers.small_cnn.SmallCnn.start")
    assert bench(*RUN, "--seed=1").code == 0
    assert len(runs(tmp_path)) == 2


def test_held_out_images_are_a_data_set_with_the_same_networks(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(*RUN)
    never(monkeypatch, "bench_defenses.classifiers.small_cnn.SmallCnn.start")
    assert bench(*RUN, "--dataset=digits:validation").code == 0
    test, validation = sorted(runs(tmp_path), key=lambda row: row["dataset"])
    assert (test["dataset"], validation["dataset"]) == ("digits", "digits:validation")
    assert test["classifier_checkpoint"] == validation["classifier_checkpoint"]
    assert bench("verify").code == 0
    refused = bench(*RUN, "--dataset=digits:validation", "-n", "130")
    assert (refused.code, refused.err.count("digits:validation has 129 images")) == (2, 1)


def test_json_is_alone_on_stdout(bench: Bench, tmp_path: Path) -> None:
    said = bench(*RUN, "--json")
    assert said.code == 0
    (row,) = said.rows
    assert row["defense"] == "none"
    assert row["n"] == 4
    assert isinstance(row["robust"], float)
    assert row["key"] == runs(tmp_path)[0]["key"]


def test_json_of_a_dry_run_is_json_too(bench: Bench) -> None:
    outline = json.loads(bench(*RUN, "--json", "--dry-run").out)
    assert outline["cell"]["attack"]["params"]["tries"] == 1
    assert outline["to be trained first"] == ["small_cnn"]


def test_a_dry_run_says_cell_key_and_cost_and_writes_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    said = bench(*RUN, "--dry-run")
    assert said.code == 0
    assert list(tmp_path.iterdir()) == []
    assert "small_cnn" in said.out
    for part in ("cell", "key", "to be trained first", "cost per image", "classifier forward"):
        assert part in said.out


def test_a_run_takes_500_images_and_of_digits_200(bench: Bench) -> None:
    asked = ("run", "--defense=none", "--attack=noise", "--dry-run")
    for words, n in (((), 200), (("--dataset=mnist",), 500), (("-n", "7"), 7)):
        assert f"first {n} images" in bench(*asked, *words).out.splitlines()[0]


def test_a_first_run_in_a_clone_trains_nothing(bench: Bench) -> None:
    """Were a recipe, a revision or the data another, it would."""
    asked = ("run", "--defense=adv_ebm", "--attack=adaptive", "--dry-run", "--json")
    outline = json.loads(bench(*asked, f"--results={REPO}/results").out)
    assert "to be trained first" not in outline
    assert "to be trained first" in json.loads(bench(*asked).out)


def test_the_key_of_a_dry_run_is_the_key_of_the_run(bench: Bench, tmp_path: Path) -> None:
    bench("train", "small_cnn", TINY[0])
    before = json.loads(bench(*RUN, "--json", "--dry-run").out)
    assert "to be trained first" not in before
    assert before["done"] is False
    (row,) = bench(*RUN, "--json").rows
    assert row["key"] == before["key"]
    assert json.loads(bench(*RUN, "--json", "--dry-run").out)["done"] is True
    stored = json.loads((tmp_path / f"results/cells/{row['key']}/cell.json").read_text())
    assert {name: stored[name] for name in before["cell"]} == before["cell"]


def test_a_dry_run_of_a_pair_that_cannot_work_says_why(bench: Bench) -> None:
    said = bench("run", "--defense=jpeg", "--attack=pgd", "--access=full", *TINY, "--dry-run")
    assert "--access bpda" in said.out
    assert said.code == 1
    again = bench(*RUN, "--access=full", "--defense=jpeg", "--dry-run", "--json")
    assert again.code == 1
    assert list(json.loads(again.out)) == ["impossible"]


def test_a_dry_run_is_readable_in_80_columns(bench: Bench) -> None:
    bench("train", "small_cnn", TINY[0])
    lines = bench(*RUN, "--dry-run").out.splitlines()
    assert max(map(len, lines)) <= 80
    outline = json.loads(bench(*RUN, "--dry-run", "--json").out)
    digest = outline["cell"]["classifier"]["checkpoint"]
    at = lines.index("    classifier:")
    assert lines[at + 1 : at + 5] == [
        "      name: small_cnn", "      params:", "        width: 16", "        training:",
    ]  # fmt: skip
    assert lines[lines.index("      checkpoint:") + 1] == f"        {digest}"
    assert "          epochs: 1" in lines
    assert "      params: {}" in lines, "what is empty is said to be empty"
    assert f"  key: {outline['key']}" in lines
    assert "  done: false" in lines


def test_results_and_data_come_from_the_environment(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "elsewhere"))
    assert bench(*RUN).code == 0
    assert (tmp_path / "elsewhere" / "runs.csv").is_file()
    assert not (tmp_path / "results").exists()
    assert bench("table").code == 0


def test_the_device_comes_from_the_environment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DEVICE", "tpu")
    for words in (RUN, ("calibrate",)):
        said = bench(*words)
        assert said.code == 2
        assert "'tpu'" in said.err
    assert bench(*RUN, "--device=cpu", "--dry-run").code == 0


@pytest.mark.parametrize(
    "moment", ["bench.evaluation.run.judge", "bench.results.rows.write_runs"]
)
def test_an_interrupted_run_says_how_to_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def pressed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, pressed)
    words = (*RUN, "--results=my results")
    said = bench(*words)
    assert said.code == 130
    assert said.err.endswith(f"To go on:\n{shlex.join(['bench', *words])}\n")
    assert "'--results=my results'" in said.err
    assert "Traceback" not in said.err


def test_an_interrupted_look_says_so_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.results.rows.all_rows", pressed)
    said = bench("table", "--all")
    assert said.code == 130
    assert said.err.endswith("\nbench table --all\n")


def test_windows_is_told_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="On Windows, use it in WSL"):
        main()


def test_the_command_has_two_names() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["purifybench"] == project["scripts"]["bench"]


def test_a_name_in_capitals_is_recognized(bench: Bench) -> None:
    said = bench("run", "--defense=none", "--attack=pgd", "--dataset=MNIST")
    assert said.code == 2
    assert "Did you mean 'mnist'?" in said.err


def test_version_and_help(bench: Bench) -> None:
    assert bench("--version").out == f"purifybench {__version__}\n"
    told = bench("--help")
    assert told.code == 0
    for name in ("run", "matrix", "train", "list", "show", "table", "compare", "doctor"):
        assert f" {name} " in told.out
        assert bench(name, "--help").code == 0
    run = bench("run", "-h").out
    for option in ("--defense", "--eps", "--access", "--dry-run", "--json", "8/255", "500"):
        assert option in run


@pytest.mark.parametrize(
    ("words", "variable", "folder", "warned"),
    [((), None, "models", ""),
     (("--zoo", "here"), None, "here", ""),
     ((), "BENCH_ZOO", "there", ""),
     (("--models", "here"), None, "here", "warning: --models is now --zoo.\n"),
     (("--models=here",), None, "here", "warning: --models is now --zoo.\n"),
     ((), "BENCH_MODELS", "there", "warning: BENCH_MODELS is now BENCH_ZOO.\n")],
)  # fmt: skip
def test_the_folder_of_the_zoo_and_its_old_names(
    bench: Bench, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], variable: str | None, folder: str, warned: str,
) -> None:  # fmt: skip
    opened: list[Path] = []

    def stop(results: Path, data: Path, zoo: Path, device: str) -> None:
        opened.append(zoo)
        raise UsageError("opened")

    monkeypatch.setattr("bench.commands.evaluate.open_workspace", stop)
    if variable:
        monkeypatch.setenv(variable, "there")
    said = bench("train", "small_cnn", *words)
    assert opened == [Path(folder)]
    assert said.err == f"{warned}error: opened\n"


def test_train_prints_the_checkpoint_and_its_card_and_finds_it_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench("train", "small_cnn", TINY[0])
    assert first.code == 0
    path, _, card = first.out.partition("\n")
    assert (tmp_path / path).is_file()
    assert json.loads(card)["recipe"]["training"]["epochs"] == 1
    assert "validation accuracy" in json.loads(card)["metrics"]
    no_work(monkeypatch)
    assert bench("train", "small_cnn", TINY[0]).out == first.out


def test_train_a_defense_and_show_its_checkpoint(bench: Bench, tmp_path: Path) -> None:
    assert "no checkpoint" in bench("show", "ebm").out
    said = bench("train", "ebm", "--set=defense.training.iterations=2",
                 "--set=defense.training.bank=8")  # fmt: skip
    assert said.code == 0, said.err
    assert not list(tmp_path.rglob("small_cnn-*")), "an energy needs no classifier"
    shown = bench("show", "ebm")
    assert said.out.partition("\n")[0] in shown.out
    assert "sha256" in shown.out
