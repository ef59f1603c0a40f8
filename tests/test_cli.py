"""The command line in this process: what it prints, what it writes, how it ends."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import __version__, cli

TINY = ("--set=classifier.training.epochs=1", "-n", "4", "--draws=3")
NOISE = ("run", "--defense=none", "--attack=noise", "--set=attack.tries=1", *TINY)

PLAN = """
datasets: digits
classifiers: {name: small_cnn, set: {training: {epochs: 1}}}
defenses: [none, shaky, jpeg]
attacks:
  - {name: noise, set: {tries: 1}}
  - {name: pgd, access: full, set: {steps: 1, eot: 1}}
threats: {norm: Linf, eps: 0.1}
n: 4
shard: 2
draws: 3
"""
SHAKY = '''
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

@dataclass(frozen=True)
class Shaky:
    """Works while a file says so."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng):
        if not Path("repaired").exists():
            raise RuntimeError("the energy_model_net diverged & burnt 100%")
        return x
'''


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.out)
        return found


Bench = Callable[..., Said]


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("BENCH_RESULTS", "BENCH_DATA", "BENCH_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        monkeypatch.setattr(cli, "_shown", [])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def shaky(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed defense that fails until a file called 'repaired' is there."""
    site = tmp_path_factory.mktemp("site")
    info = site / "shaky-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shaky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.defenses]\nshaky = shaky_bench:Shaky\n")
    (site / "shaky_bench.py").write_text(SHAKY)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    monkeypatch.delitem(sys.modules, "shaky_bench", raising=False)
    importlib.invalidate_caches()


@pytest.fixture
def plan(tmp_path: Path) -> str:
    (tmp_path / "plan.yaml").write_text(PLAN)
    return "plan.yaml"


def never(monkeypatch: pytest.MonkeyPatch, *targets: str) -> None:
    def called(*args: object, **options: object) -> None:
        pytest.fail("done again what was done already")

    for target in targets:
        monkeypatch.setattr(target, called)


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    never(
        monkeypatch,
        "bench_defenses.small_cnn.SmallCnn.start",
        "bench_attacks.noise.Noise.__call__",
        "bench_attacks.pgd.Pgd.__call__",
        "bench.run.judge",
    )


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def runs(folder: Path) -> list[dict[str, str]]:
    with (folder / "results" / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# --- run -----------------------------------------------------------------------------------


def test_a_run_ends_in_a_row_of_runs_csv(bench: Bench, tmp_path: Path) -> None:
    said = bench(*NOISE)
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
    first = bench(*NOISE).out.splitlines()[0]
    assert "digits" in first
    assert "--dataset" in first
    assert "first 4 test images" in first
    assert "8/255" in first


def test_another_data_set_is_named_without_advice(bench: Bench) -> None:
    first = bench(*NOISE, "--dataset=mnist", "-n", "10001").out.splitlines()[0]
    assert "mnist" in first
    assert "--dataset" not in first


def test_the_second_run_finds_everything(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench(*NOISE)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    no_work(monkeypatch)
    second = bench(*NOISE)
    assert second.code == 0
    assert second.out == first.out
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


def test_another_seed_uses_the_same_classifier(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(*NOISE)
    never(monkeypatch, "bench_defenses.small_cnn.SmallCnn.start")
    assert bench(*NOISE, "--seed=1").code == 0
    assert len(runs(tmp_path)) == 2


def test_json_is_alone_on_stdout(bench: Bench, tmp_path: Path) -> None:
    said = bench(*NOISE, "--json")
    assert said.code == 0
    (row,) = said.rows
    assert row["defense"] == "none"
    assert row["n"] == 4
    assert isinstance(row["robust"], float)
    assert row["key"] == runs(tmp_path)[0]["key"]


def test_json_of_a_dry_run_is_json_too(bench: Bench) -> None:
    outline = json.loads(bench(*NOISE, "--json", "--dry-run").out)
    assert outline["cell"]["attack"]["params"]["tries"] == 1
    assert outline["to be trained first"] == ["small_cnn"]


def test_a_dry_run_says_cell_key_and_cost_and_writes_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_work(monkeypatch)
    said = bench(*NOISE, "--dry-run")
    assert said.code == 0
    assert list(tmp_path.iterdir()) == []
    assert "small_cnn" in said.out
    for part in ("cell", "key", "to be trained first", "cost per image", "classifier forward"):
        assert part in said.out


def test_the_key_of_a_dry_run_is_the_key_of_the_run(bench: Bench, tmp_path: Path) -> None:
    bench("train", "small_cnn", TINY[0])
    before = json.loads(bench(*NOISE, "--json", "--dry-run").out)
    assert "to be trained first" not in before
    assert before["done"] is False
    (row,) = bench(*NOISE, "--json").rows
    assert row["key"] == before["key"]
    assert json.loads(bench(*NOISE, "--json", "--dry-run").out)["done"] is True
    stored = json.loads((tmp_path / f"results/cells/{row['key']}/cell.json").read_text())
    assert {name: stored[name] for name in before["cell"]} == before["cell"]


def test_a_dry_run_of_a_pair_that_cannot_work_says_why(bench: Bench) -> None:
    said = bench("run", "--defense=jpeg", "--attack=pgd", "--access=full", *TINY, "--dry-run")
    assert "--access bpda" in said.out + said.err


def test_results_and_data_come_from_the_environment(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_RESULTS", str(tmp_path / "elsewhere"))
    assert bench(*NOISE).code == 0
    assert (tmp_path / "elsewhere" / "runs.csv").is_file()
    assert not (tmp_path / "results").exists()
    assert bench("table").code == 0


def test_an_interrupted_run_says_that_the_same_command_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.judge", pressed)
    said = bench(*NOISE)
    assert said.code == 130
    assert "same command goes on" in said.err
    assert "Traceback" not in said.err


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


# --- matrix --------------------------------------------------------------------------------


@pytest.mark.usefixtures("shaky")
def test_a_matrix_goes_on_after_failing_cells_and_later_does_what_is_left(
    bench: Bench, tmp_path: Path, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench("matrix", plan)
    assert first.code == 1
    assert "Traceback" not in first.err
    states = {(row["defense"], row["attack"]): row["state"] for row in runs(tmp_path)}
    assert states == {
        ("none", "noise"): "done",
        ("none", "pgd"): "done",
        ("shaky", "noise"): "failed",
        ("shaky", "pgd"): "failed",
        ("jpeg", "noise"): "done",
        ("jpeg", "pgd"): "skipped",
    }
    notes = {row["state"]: row["note"] for row in runs(tmp_path)}
    assert "RuntimeError: the energy_model_net diverged & burnt 100%" in notes["failed"]
    assert "shaky_bench.py:" in notes["failed"]
    assert "--debug" in notes["failed"]
    assert "--access bpda" in notes["skipped"]
    assert first.err.count("shaky under noise: failed: RuntimeError") == 1
    assert first.err.count("jpeg under pgd: skipped: ") == 1
    assert "[6/6]" in first.out

    # Nothing that is done is done again: what failed is tried again, and fails again.
    before = {path: path.read_bytes() for path in files(tmp_path) if path.suffix == ".parquet"}
    again = bench("matrix", plan)
    assert again.code == 1
    assert len(runs(tmp_path)) == 6
    assert {path: path.read_bytes() for path in before} == before

    (tmp_path / "repaired").touch()
    third = bench("matrix", plan)
    assert third.code == 0, "a skipped pair is no failure"
    assert sorted(row["state"] for row in runs(tmp_path)) == ["done"] * 5 + ["skipped"]

    no_work(monkeypatch)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    fourth = bench("matrix", plan)
    assert fourth.code == 0
    assert fourth.out == third.out
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


@pytest.mark.usefixtures("shaky")
def test_a_failed_row_also_disappears_when_the_cell_is_run_alone(
    bench: Bench, tmp_path: Path
) -> None:
    text = PLAN.replace("[none, shaky, jpeg]", "[shaky]").replace(
        "access: full", "access: bpda"
    )
    (tmp_path / "plan.yaml").write_text(text)
    assert bench("matrix", "plan.yaml").code == 1
    assert [row["state"] for row in runs(tmp_path)] == ["failed", "failed"]
    (tmp_path / "repaired").touch()
    said = bench("run", "--defense=shaky", *NOISE[2:], "--eps=0.1", "--shard=2", "--json")
    assert said.code == 0
    assert sorted(row["state"] for row in runs(tmp_path)) == ["done", "failed"]


def test_cells_that_failed_before_they_had_a_key_are_tried_again(
    bench: Bench, tmp_path: Path
) -> None:
    """What a cell is called depends on its checkpoints: these never came so far."""
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none"))
    assert bench("train", "small_cnn", TINY[0]).code == 0
    (checkpoint,) = tmp_path.rglob("*.safetensors")
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(b"<html>")
    said = bench("matrix", "plan.yaml")
    assert said.code == 1
    assert [row["state"] for row in runs(tmp_path)] == ["failed", "failed"]
    assert "it is an HTML page" in runs(tmp_path)[0]["note"]
    assert checkpoint.read_bytes() == b"<html>"
    checkpoint.write_bytes(whole)
    assert bench("matrix", "plan.yaml").code == 0
    assert [row["state"] for row in runs(tmp_path)] == ["done", "done"]


@pytest.mark.usefixtures("shaky")
def test_a_matrix_goes_on_where_a_cell_cannot_even_be_written_down(
    bench: Bench, tmp_path: Path
) -> None:
    """A parameter that JSON cannot hold: whatever is said of it, the other cells run."""
    (tmp_path / "plan.yaml").write_text(
        PLAN.replace("[none, shaky, jpeg]", "[{name: gaussian, set: {sigma: .inf}}, none]")
    )
    said = bench("matrix", "plan.yaml")
    assert said.code in (1, 2)
    if said.code == 2:
        assert "sigma" in said.err
    else:
        assert [row["state"] for row in runs(tmp_path)].count("done") == 2


def test_the_rows_of_a_matrix_as_json(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none, jpeg"))
    said = bench("matrix", "plan.yaml", "--json")
    assert said.code == 0
    assert len(said.rows) == 4
    assert {row["state"] for row in said.rows} == {"done", "skipped"}
    (skipped,) = [row for row in said.rows if row["state"] == "skipped"]
    assert skipped["robust"] is None


def test_a_matrix_shows_its_own_rows_alone(bench: Bench, tmp_path: Path) -> None:
    bench(*NOISE, "--seed=7")
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none"))
    said = bench("matrix", "plan.yaml", "--json")
    assert {row["seed"] for row in said.rows} == {0}
    assert len(runs(tmp_path)) == 3


def test_a_dry_matrix_lists_cells_and_writes_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none, jpeg"))
    no_work(monkeypatch)
    said = bench("matrix", "plan.yaml", "--dry-run")
    assert said.code == 0
    assert said.out.count("key: ") == 3
    assert said.out.count("impossible: ") == 1
    assert files(tmp_path) == {tmp_path / "plan.yaml"}


def test_a_dry_matrix_as_json_is_one_document(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace("none, shaky, jpeg", "none, jpeg"))
    said = bench("matrix", "plan.yaml", "--dry-run", "--json")
    outlines = json.loads(said.out)
    assert len(outlines) == 4


# --- train, list, show ---------------------------------------------------------------------


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


def test_list(bench: Bench) -> None:
    everything = bench("list").out
    for name in ("adv_ebm", "autoattack", "small_cnn", "robustbench:NAME", "fashion_mnist"):
        assert name in everything
    attacks = bench("list", "attacks").out
    assert "autoattack" in attacks
    assert "adv_ebm" not in attacks


@pytest.mark.parametrize(
    ("name", "parts"),
    [("pgd", ("attack.steps: ", "= 50", "full, bpda, transfer", "--eps inf")),
     ("ebm", ("defense.steps: ", "defense.training.iterations: ", "draws noise")),
     ("small_cnn", ("classifier.training.epochs: int = 30",)),
     ("jpeg", ("every access but full", "deterministic"))],
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


# --- table ---------------------------------------------------------------------------------


@pytest.fixture
def three(bench: Bench) -> None:
    """Two attacks on one defense and one on another."""
    assert bench(*NOISE).code == 0
    assert bench(*NOISE, "--access=transfer").code == 0
    assert bench("run", "--defense=bit_depth", *NOISE[2:]).code == 0


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
    said = bench("table", "-o", "sub/table.md")
    assert said.code == 0
    assert (tmp_path / "sub" / "table.md").read_text() == bench("table").out
    assert "table.md" in said.out


@pytest.mark.usefixtures("three")
def test_a_table_of_one_data_set(bench: Bench) -> None:
    assert bench("table", "--dataset=digits").out == bench("table").out


def test_doctor_ends_well_here(bench: Bench) -> None:
    said = bench("doctor")
    assert said.code == 0, said.out
    assert "torch" in said.out
