"""The command that writes the tables of a paper."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ..command import Bench, no_work

TINY = "classifiers: {name: small_cnn, set: {training: {epochs: 1}}}, n: 12, draws: 5"
TABLE = f"""
title: Digits & co_1
layout: gain
baseline: none
text: Under the title.
runs:
  - {{defenses: [none, gaussian, jpeg], attacks: {{name: noise, set: {{tries: 3}}}},
     threats: {{eps: 0.3}}, {TINY}, paper: {{gaussian: 12.31}}}}
  - {{defenses: [none, gaussian], attacks: [{{name: noise, set: {{tries: 1}}}}],
     threats: {{norm: L2, eps: 2}}, {TINY}}}
"""
FILES = ("csv", "md", "tex")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "first.yaml").write_text(TABLE)
    return tmp_path / "first.yaml"


def texts(folder: Path, stem: str = "first") -> list[bytes]:
    return [(folder / f"{stem}.{suffix}").read_bytes() for suffix in FILES]


def test_the_command_s_numbers_are_compare_s_and_rebuild_writes_the_same_bytes(
    bench: Bench, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bench("paper", file.name)
    assert said.code == 0, said
    folder = tmp_path / "results" / "paper"
    with (folder / "first.csv").open(newline="") as lines:
        found = list(csv.DictReader(lines))
    assert len(found) == 5
    for row in found:
        if row["defense"] == "none":
            continue
        told = bench("compare", row["keys"], row["baseline_key"], "--json")
        other = json.loads(told.out)
        assert float(row["gain"]) == round(100 * other["difference"], 2)
        assert float(row["gain_low"]) == round(100 * other["interval"][0], 2)
        assert float(row["gain_p"]) == other["p"]
    latex = (folder / "first.tex").read_text()
    assert r"\toprule" in latex
    assert "% Digits & co_1" in latex
    markdown = (folder / "first.md").read_text()
    assert markdown.startswith("# Digits & co_1\n\nUnder the title.\n\n| dataset |")
    assert "`bench paper first.yaml`" in markdown
    sidecar = json.loads((folder / "first.json").read_text())
    assert [row["keys"] for row in sidecar["rows of the table"]] == [[r["keys"]] for r in found]

    # Nothing but the cells' outcomes and the sidecar, in a folder of their own.
    bare = tmp_path / "bare"
    shutil.copytree(tmp_path / "results" / "cells", bare / "cells")
    (bare / "paper").mkdir()
    shutil.copy(folder / "first.json", bare / "paper")
    shutil.rmtree(tmp_path / "results" / "checkpoints")
    no_work(monkeypatch)
    assert bench("paper", "--rebuild", "--results", str(bare)).code == 0
    assert texts(bare / "paper") == texts(folder)

    gone = found[1]["keys"]
    shutil.rmtree(bare / "cells" / gone)
    said = bench("paper", "first.yaml", "--rebuild", "--results", str(bare))
    assert said.code == 1
    assert gone in said.err
    assert "`bench paper first.yaml`" in said.err


def test_killed_and_resumed_it_ends_in_the_same_table(
    bench: Bench, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench("paper", file.name).code == 0
    before = texts(tmp_path / "results" / "paper")
    again = tmp_path / "again"
    from bench.experiments import matrix

    attempt, calls = matrix.attempt, []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attempt(*args, **options)

    monkeypatch.setattr(matrix, "attempt", killed)
    assert bench("paper", file.name, "--results", str(again)).code == 130
    assert not (again / "paper").exists(), "half a table is no table"
    assert len(list((again / "cells").glob("*/outcomes.parquet"))) == 2
    monkeypatch.setattr(matrix, "attempt", attempt)
    assert bench("paper", file.name, "--results", str(again)).code == 0
    assert texts(again / "paper") == before


def test_without_its_data_a_table_keeps_what_was_measured_and_shows_what_was_not(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = f"{{defenses: none, attacks: noise, threats: {{eps: 0.1}}, {TINY}"
    (tmp_path / "both.yaml").write_text(
        f"title: Both\nlayout: attacks\nruns:\n  - {one}}}\n  - {one}, datasets: mnist}}\n"
    )
    from bench.data import published as data
    from bench.errors import DataError

    def offline(folder: str, root: Path, **which: object) -> None:
        raise DataError("there is no network in /some/where/paper-data")

    monkeypatch.setattr(data, "_download", offline)
    said = bench("paper", "both.yaml", "--dry-run")
    assert said.code == 1
    assert said.out.count("cost per image") == 1
    assert "both.yaml, run 2: there is no network in " in said.err
    said = bench("paper", "both.yaml")
    assert said.code == 1
    text = (tmp_path / "results" / "paper" / "both.md").read_text()
    assert "| failed |" in text
    notes = (tmp_path / "results" / "paper" / "both.csv").read_text()
    assert "there is no network in paper-data" in notes, "of a path the last part"
    assert "| mnist |" in text
    assert "| digits |" in text
    before = texts(tmp_path / "results" / "paper", "both")
    assert bench("paper", "--rebuild").code == 1, "a table with a hole is not done"
    assert texts(tmp_path / "results" / "paper", "both") == before

    monkeypatch.setattr(
        "bench.experiments.prepare.load_test", lambda *args, **options: offline("", tmp_path)
    )
    said = bench("paper", "both.yaml")
    assert "keeps cell" in said.err
    kept = (tmp_path / "results" / "paper" / "both.md").read_text()
    assert kept.count("| failed |") == text.count("| failed |")


def test_every_fault_of_every_file_is_told_at_once(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        "title: One\nlayout: gain\ncolor: red\nrows: steps\nruns:\n"
        "  - {defenses: [nonne], attacks: noise, threats: {eps: 0.1}}\n"
        "  - {defenses: [none], attacks: noise, threats: {eps: x}, paper: {ebm: 3}, nn: 3}\n"
    )
    (tmp_path / "two.yaml").write_text(
        "title: Two\nlayout: gain\nrows: steps\nbaseline: ebm\nruns:\n"
        "  - {defenses: [none], attacks: noise, threats: {eps: 0.1},\n"
        "     paper: {adv_ebm: 3}, ladder: true}\n"
    )
    said = bench("paper", "one.yaml", "two.yaml")
    assert said.code == 2
    for fault in (
        "one.yaml, line 3, color: ",
        "one.yaml, run 1, line 6, defenses, entry 1: no defense is called 'nonne'",
        "one.yaml, run 2, line 7, nn: there is no key 'nn'",
        "two.yaml: 'rows' is a key of the layout ablation only",
        "two.yaml, run 1: paper names adv_ebm", "the baseline ebm is not among", "ladder: true",
    ):  # fmt: skip
        assert fault in said.err, said.err
    assert not (tmp_path / "results").exists()


def test_a_parameter_that_no_defense_has_is_a_fault_before_any_work(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(
        "title: A\nlayout: ablation\nrows: sigma\ncolumns: stepps\nruns:\n"
        "  - {defenses: gaussian, attacks: noise, threats: {eps: 0.1}}\n"
    )
    said = bench("paper", "a.yaml")
    assert said.code == 2
    assert "columns: no defense has a parameter 'stepps'" in said.err
    assert "sigma'" not in said.err


def test_nothing_to_do_is_said(bench: Bench, tmp_path: Path) -> None:
    assert "there is no table file in plans/paper" in bench("paper").err
    assert "there is nothing to rebuild" in bench("paper", "--rebuild").err
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "first.yaml").write_text(TABLE)
    said = bench("paper", "first.yaml", "other/first.yaml")
    assert said.code == 2
    assert "several table files are called first" in said.err


def test_a_dry_run_lists_the_cells_and_writes_nothing(
    bench: Bench, tmp_path: Path, file: Path
) -> None:
    said = bench("paper", file.name, "--dry-run")
    assert said.code == 0
    assert said.out.count("cost per image") == 5
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("plans/paper/*.yaml")))
def test_the_tables_that_ship_are_sound(path: Path) -> None:
    from bench.paper.spec import read_table

    assert read_table(path).head.title
