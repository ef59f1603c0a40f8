"""Figures from finished cells: their numbers are those of the stored images."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest

from bench.core.threat import ThreatModel
from bench.errors import UsageError
from bench.figures import curves, tradeoff
from bench.figures.cells import Wanted, about
from bench.figures.output import keep, read, render
from bench.results.cell import Part
from bench.results.files import read_json
from bench.results.stats import wilson
from bench.results.workspace import Workspace
from bench_attacks.pgd import Pgd

from ..cells import langevin, prepared, rows
from ..command import TINY, Bench, is_one_clear_message
from ..commands.test_startup import command, heavy

DIGITS = Wanted("digits")
SHIPPED = Path(__file__).parents[2] / "results" / "figures"
FROM_CELLS = [*SHIPPED.glob("curves-*.json"), *SHIPPED.glob("tradeoff-*.json")]


def stepped(workspace: Workspace, steps: int, *, name: str = "ebm", eps: str = "0.15",
            digest: str | None = None, **more: object) -> pd.DataFrame:  # fmt: skip
    """Run a cell of a Langevin purifier whose parameters name its steps."""
    purifier = langevin()
    purifier.steps = steps
    made = prepared(purifier, Pgd(steps=1, eot=1), eps=Fraction(eps), draws=3, **more)
    part = Part(name, {"steps": steps, "noise": 0.05}, 1, digest)
    return rows(
        dataclasses.replace(made, cell=dataclasses.replace(made.cell, defense=part)), workspace
    )


def shares(outcomes: pd.DataFrame, column: str) -> list[float]:
    n, right = len(outcomes), int(outcomes[column].sum())
    return [round(100 * share, 2) for share in (right / n, *wilson(right, n))]


def ends(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def test_a_tradeoff_has_the_accuracies_of_its_cells(workspace: Workspace) -> None:
    found = {
        (name, steps): stepped(workspace, steps, name=name)
        for name, steps in itertools.product(["ebm", "other"], [1, 3])
    }
    frame = tradeoff.collect(workspace.store, DIGITS)
    assert list(zip(frame["curve"], frame["steps"], strict=True)) == sorted(found)
    for (name, steps), outcomes in found.items():
        (row,) = frame[(frame["curve"] == name) & (frame["steps"] == steps)].to_dict("records")
        for column in ("clean", "robust"):
            assert [row[end] for end in ends(column)] == shares(outcomes, column)


def test_a_security_curve_begins_at_the_clean_accuracy(workspace: Workspace) -> None:
    found = {eps: stepped(workspace, 1, eps=eps) for eps in ("0.15", "8/255")}
    frame = curves.collect(workspace.store, DIGITS)
    assert list(frame["radius"]) == [0, 8 / 255, 0.15]
    assert list(frame["eps"]) == ["0", "8/255", "0.15"]
    assert set(frame["curve"]) == {"ebm"}
    expected = [(found["0.15"], "clean"), (found["8/255"], "robust"), (found["0.15"], "robust")]
    for (_, row), (outcomes, column) in zip(frame.iterrows(), expected, strict=True):
        assert [row[end] for end in ends("robust")] == shares(outcomes, column)
    assert frame["robust"].is_monotonic_decreasing


def test_cells_that_differ_in_more_than_the_number_are_other_curves(
    workspace: Workspace,
) -> None:
    stepped(workspace, 1, seed=0)
    stepped(workspace, 2, seed=0)
    stepped(workspace, 1, seed=1)
    assert set(tradeoff.collect(workspace.store, DIGITS)["curve"]) == {
        "ebm, seed 0",
        "ebm, seed 1",
    }
    stepped(workspace, 1, seed=1, digest="another checkpoint")
    labels = tradeoff.collect(workspace.store, DIGITS)["curve"]
    assert len(set(labels)) == 3
    assert sorted(labels.value_counts()) == [1, 1, 2]
    one = tradeoff.collect(workspace.store, dataclasses.replace(DIGITS, seed=0))
    assert list(one["curve"]) == ["ebm", "ebm"]


def test_parameters_choose_cells(workspace: Workspace) -> None:
    for steps in (1, 2):
        stepped(workspace, steps)
    wanted = dataclasses.replace(DIGITS, settings={"defense": {"steps": 2, "noise": 0.05}})
    assert list(tradeoff.collect(workspace.store, wanted)["steps"]) == [2]
    cell = read_json(next(iter(workspace.store.cells())) / "cell.json")
    nested = {**cell, "defense": {**cell["defense"], "params": {"training": {"seed": 1}}}}
    for seed, taken in ((1, True), (2, False)):
        asked = {"defense": {"training": {"seed": seed}}}
        assert dataclasses.replace(DIGITS, settings=asked).takes(nested) == taken


def test_only_attacks_on_all_images_that_are_legal_and_bounded_count(
    workspace: Workspace,
) -> None:
    stepped(workspace, 1)
    (folder,) = workspace.store.cells()
    plain = read_json(folder / "cell.json")
    for name, value in (("after", ["k"]), ("images", "k"), ("bits", 8)):
        assert DIGITS.takes(plain)
        assert not DIGITS.takes({**plain, name: value})
    outcomes = workspace.store.outcomes(folder.name)
    pd.read_parquet(outcomes).assign(legal=False).to_parquet(outcomes)
    with pytest.raises(UsageError, match="no finished cell"):
        tradeoff.collect(workspace.store, DIGITS)


def test_a_defense_without_steps_and_an_unbounded_cell_have_no_place(
    workspace: Workspace,
) -> None:
    made = prepared(attack=Pgd(steps=1, eot=1), draws=3)
    unbounded = ThreatModel(made.cell.threat.norm, None, made.cell.threat.access)
    rows(
        dataclasses.replace(made, cell=dataclasses.replace(made.cell, threat=unbounded)),
        workspace,
    )
    for figure in (tradeoff, curves):
        with pytest.raises(UsageError, match="has no finished cell for the figure"):
            figure.collect(workspace.store, DIGITS)


def test_the_csv_alone_gives_the_same_picture(workspace: Workspace, tmp_path: Path) -> None:
    stepped(workspace, 1)
    stepped(workspace, 3)
    for figure in (tradeoff, curves):
        frame = figure.collect(workspace.store, DIGITS)
        folder = tmp_path / figure.__name__
        csv, png, note = keep(folder, "name", frame, figure.draw, about(frame))
        assert png.read_bytes().startswith(b"\x89PNG")
        assert render(figure.draw, read(csv)) == png.read_bytes()
        again = keep(folder / "again", "name", frame, figure.draw, about(frame))
        assert [path.read_bytes() for path in again[:2]] == [csv.read_bytes(), png.read_bytes()]
        said = read_json(note)
        assert said["n"] == [12]
        assert said["seed"] == [0]
        assert set(said["cells"]) == set(frame["key"])
        assert {"command", "date", "commit", "versions", "checkpoints"} <= set(said)


def test_no_text_of_a_figure_s_csv_is_a_formula(workspace: Workspace, tmp_path: Path) -> None:
    stepped(workspace, 1)
    frame = curves.collect(workspace.store, DIGITS).assign(curve="=1+1")
    csv, png, _ = keep(tmp_path, "name", frame, curves.draw, about(frame))
    assert csv.read_text().splitlines()[1].startswith("'=1+1,")
    assert set(read(csv)["curve"]) == {"=1+1"}
    assert render(curves.draw, frame) == png.read_bytes(), "the picture has the text as it is"


def test_the_command_line_draws_what_was_run(bench: Bench) -> None:
    for eps in ("0.1", "0.2"):
        run = ("run", "--defense=gaussian", "--attack=noise", "--set=attack.tries=1")
        assert bench(*run, *TINY, f"--eps={eps}").code == 0
    said = bench("figure", "curves", "--attack=noise")
    assert said.code == 0, said
    folder = Path("results/figures")
    assert {path.name for path in folder.iterdir()} == {
        f"curves-digits-noise-Linf.{ending}" for ending in ("csv", "png", "json")
    }
    assert list(read(folder / "curves-digits-noise-Linf.csv")["radius"]) == [0, 0.1, 0.2]
    note = read_json(folder / "curves-digits-noise-Linf.json")
    assert note["command"] == "bench figure curves --attack=noise"


@pytest.mark.parametrize("note", sorted(FROM_CELLS), ids=lambda note: note.stem)
def test_what_ships_is_drawn_again_by_its_command(bench: Bench, note: Path) -> None:
    """Cells that came later would change a figure whose command chooses too little."""
    program, *words = shlex.split(read_json(note)["command"])
    assert program == "bench"
    assert bench(*words, f"--results={SHIPPED.parent}", "--output=again").code == 0
    drawn = Path("again", note.name).with_suffix(".csv")
    assert drawn.read_bytes() == note.with_suffix(".csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("tradeoff", "--attack=pgd"), ("no finished cell", "'tradeoff'", "digits, pgd, Linf")),
        (("curves", "--defense=ebm", "-n7"), ("'curves'", "ebm", "n 7", "bench run")),
        (("curves", "--dataset=digit"), ("digits",)),
        (("curves", "--access=ful"), ("full",)),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_what_cannot_be_drawn_is_said(
    bench: Bench, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    is_one_clear_message(bench("figure", *words), *parts, code=2)
    assert not Path("results").exists()


def test_figures_from_cells_import_no_torch(tmp_path: Path) -> None:
    found, _ = heavy("import bench.figures.curves, bench.figures.output", tmp_path)
    assert found == []
    found, out = command("figure", "--help", cwd=tmp_path)
    assert found == []
    assert "tradeoff" in out


def test_the_backend_of_a_notebook_changes_no_figure(tmp_path: Path) -> None:
    code = (
        "import hashlib, os; import pandas as pd; from bench.figures import output, style\n"
        "def draw(frame):\n    page = style.page(1.0); page.subplots(); return page\n"
        "picture = output.render(draw, pd.DataFrame())\n"
        "print(hashlib.sha256(picture).hexdigest(), os.environ.get('MPLBACKEND'))"
    )

    def drawn(**environment: str) -> list[str]:
        said = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True,
            text=True, cwd=tmp_path, env={**os.environ, **environment},
        )  # fmt: skip
        return said.stdout.split()

    picture, _ = drawn(MPLBACKEND="agg")
    for backend in ("module://matplotlib_inline.backend_inline", "nonsense"):
        assert drawn(MPLBACKEND=backend) == [picture, backend]
