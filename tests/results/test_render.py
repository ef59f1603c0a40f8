"""Rows of a rendered table can be told apart, and no text of theirs does harm."""

from __future__ import annotations

import csv
import io
import itertools
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

from bench.commands.rows import print_table
from bench.commands.shared import exit_on_trouble
from bench.paper.spec import Head
from bench.paper.tables import page
from bench.results.render import (
    columns_of,
    csv_text,
    markdown_cell,
    render,
    row_labels,
    shown,
    unescaped,
)
from bench.results.rows import COLUMNS
from bench.results.settings import Settings

NUMBERS = {
    "clean", "robust", "interval", "robust single", "attacked", "passes", "audit", "gain", "p",
    "clean gain", "paired", "paper's gain",
}  # fmt: skip
FEW: dict[str, list[Any]] = {
    "defense": ["ebm", "a|b"], "attack": ["pgd", "<b>"], "access": ["full", "bpda"],
    "norm": ["Linf", "L2"], "eps": ["0.1", "8/255"], "dataset": ["digits", "mnist"],
    "classifier": ["small_cnn", "&lt;b>"], "n": [4, 500], "seed": [0, 1], "draws": [1, 50],
    "judging": ["all draws", "sequential"], "state": ["done", "void"],
    "settings": ["", "defense.steps=5", "defense.steps=10"],
    "checkpoint": ["", "a" * 16, "b" * 16], "classifier_checkpoint": ["c" * 16, "d" * 16],
    "key": ["0" * 16, "1" * 16, "2" * 16],
}  # fmt: skip
NUMBER: dict[str, Any] = {
    name: 50.0 for name in COLUMNS if name.startswith(("clean", "robust"))
} | {"attacked": 4, "passes": 3, "seconds": 1.0, "audit": "none", "note": "", "commit": ""}


@st.composite
def alike(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows that differ from the first in few of the columns that identify them."""
    first = {name: draw(st.sampled_from(values)) for name, values in FEW.items()}
    rows = [first]
    for _ in range(draw(st.integers(0, 4))):
        names = draw(st.lists(st.sampled_from(list(FEW)), max_size=2))
        rows.append(first | {name: draw(st.sampled_from(FEW[name])) for name in names})
    return rows


def told_apart(heads: list[str], rows: list[list[str]], identities: list[Any]) -> None:
    """No two rows have equal labels unless they are of one identity."""
    labels = [
        [text for head, text in zip(heads, row, strict=True) if head not in NUMBERS]
        for row in rows
    ]
    pairs = zip(labels, identities, strict=True)
    for (label, one), (other, two) in itertools.combinations(pairs, 2):
        assert (label == other) == (one == two), (heads, label)


def split(lines: list[str], between: str) -> list[list[str]]:
    return [[part.strip() for part in line.split(between)] for line in lines]


@settings(deadline=None, max_examples=60)
@given(alike())
def test_no_two_rows_of_a_table_look_alike(rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame([{**NUMBER, **row} for row in rows], columns=list(COLUMNS))
    heads, _, *body = render(frame, "md").replace(r"\|", "!").splitlines()
    told_apart(*split([heads.strip("| ")], " | "), split([b[2:-2] for b in body], " | "), rows)
    latex = render(frame, "latex")
    top, body_of = latex.split(r"\midrule")
    text = body_of.split(r"\bottomrule")[0].strip().splitlines()
    (heads_of,) = split([top.split(r"\toprule")[1].strip().removesuffix(r"\\")], " & ")
    told_apart(heads_of, split([line.removesuffix(r"\\") for line in text], " & "), rows)


@settings(deadline=None, max_examples=60)
@given(alike())
def test_no_two_lines_about_rows_are_alike(rows: list[dict[str, Any]]) -> None:
    labels = row_labels(columns_of(pd.DataFrame(rows)), ["defense", "attack"])
    without = [{k: v for k, v in row.items() if k != "state"} for row in rows]
    told_apart(["label"], [[label] for label in labels], without)


@settings(deadline=None, max_examples=60)
@given(alike(), st.sampled_from(["gain", "attacks"]))
def test_no_two_rows_of_a_paper_s_table_look_alike(
    rows: list[dict[str, Any]], layout: Any
) -> None:
    rest = dict.fromkeys(("gain", "gain_low", "gain_p", "clean_gain", "paper"), float("nan"))
    rest |= {"training_seed": 0, "seeds": 1, "paired": ""}
    made = [
        {**NUMBER, **rest, **row, "keys": row["key"], "settings": Settings.read(row),
         "steps": FEW["settings"].index(row["settings"])}  # the page has it in another column
        for row in rows
    ]  # fmt: skip
    frame = pd.DataFrame(made).drop(columns="key")
    heads, text = page(frame, Head(title="t", layout=layout, baseline="ebm"))
    told_apart(heads, text, rows)


@settings(deadline=None, max_examples=60)
@given(alike())
def test_no_two_blocks_of_an_ablation_look_alike(rows: list[dict[str, Any]]) -> None:
    own = ("state", "key", "checkpoint")  # these differ within a block
    same = [{k: v for k, v in row.items() if k not in own} for row in rows]
    blocks = [same.index(row) for row in same]
    made = [
        {**NUMBER, **row, "block": block, "row": 1, "column": 2, "keys": "", "checkpoint": "",
         "state": "done", "settings": Settings.read(row)}
        for block, row in zip(blocks, same, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(made).drop_duplicates("block")
    head = Head(title="t", layout="ablation", rows="a", columns="b")
    heads, text = page(frame, head)
    told_apart(heads[:-1], [row[:-1] for row in text], list(frame["block"]))


# --- two classifiers and two seeds in one folder -------------------------------------------


@pytest.fixture
def four() -> pd.DataFrame:
    first = {name: values[0] for name, values in FEW.items()}
    rows = [
        {**NUMBER, **first, "classifier": name, "seed": seed, "robust": robust, "key": key}
        for name, seed, robust, key in (
            ("one", 0, 30.0, "k0"), ("one", 1, 35.0, "k1"), ("two", 0, 45.0, "k2"),
            ("two", 1, 40.0, "k3"),
        )
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_only_what_differs_is_added_to_a_page(four: pd.DataFrame) -> None:
    assert {"classifier", "seed"} <= {*shown(four)}
    assert not {"judging", "rule", "key", "checkpoint"} & {*shown(four)}
    assert not {"classifier", "seed"} & {*shown(four.iloc[:1])}
    other = four.iloc[:2].assign(seed=0)
    assert [*shown(other)][-1] == "key"
    assert [*shown(other.assign(checkpoint=["a", "b"]))][-1] == "checkpoint"
    assert "rule" in shown(four.assign(rule=["vote", "vote", "single", "single"]))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): value for name, value in row.items()} for row in frame.to_dict("records")
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_cuts_nothing_off_that_tells_rows_apart(
    four: pd.DataFrame,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(
        records(four.assign(classifier=["first_long_name"] * 2 + ["other_long_name"] * 2))
    )
    said = capsys.readouterr().out
    assert "…" not in said
    if width >= 80:
        assert "first" in said
        assert "other" in said
    if width == 200:
        rows = [line.split() for line in said.splitlines() if "long_name" in line]
        assert len({tuple(row[:8]) for row in rows}) == 4


@pytest.mark.parametrize("width", [40, 80, 120])
def test_long_names_break_no_number_and_no_state(
    four: pd.DataFrame,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = four.assign(
        defense=["mine.py:AVeryLongPurifierName"] * 3 + ["none"],
        attack=["torchattacks:AutoProjectedGradientDescent", "pgd", "apgd", "noise"],
        state=["unfinished", "done", "skipped", "failed"],
        settings=["defense.sigma=0.25", "", "", "attack.eot=3"],
        robust=[52.25, 96.5, float("nan"), float("nan")],
    )
    print_table(records(rows))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width
    for word in ("unfinished", "skipped", "failed", "52.2", "96.5", "attack.eot=3"):
        assert word in said
    assert "=0.25" in said, "the end of what is broken is there as well"


def test_a_failure_is_told_from_others(
    four: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Typer's own exit
        exit_on_trouble(records(four.assign(state="failed", note="burnt")))
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "ebm under pgd, classifier one, seed 1: failed: burnt".replace(
        "ebm", four["defense"][0]
    )
    assert len(set(said)) == 4


# --- hostile texts -------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_text_of_a_csv_is_a_formula_and_numbers_stay(start: str) -> None:
    frame = pd.DataFrame({
        "note": [f"{start}1+1", "a=b"], "change": [-1.5, 2.0], "n": [-1, 2],
        "place": pd.Series([f"{start}x", -3], dtype=object),
    })  # fmt: skip
    found = list(csv.DictReader(io.StringIO(csv_text(frame))))
    assert found == [
        {"note": f"'{start}1+1", "change": "-1.5", "n": "-1", "place": f"'{start}x"},
        {"note": "a=b", "change": "2.0", "n": "2", "place": "-3"},
    ]
    assert csv_text(frame.iloc[1:]) == frame.iloc[1:].to_csv(index=False)


def test_markdown_shows_tags_and_entities_as_they_are() -> None:
    assert markdown_cell("<script>a|b\n&lt;") == r"&lt;script>a\|b &amp;lt;"


def test_a_terminal_shows_markup_as_it_is(
    four: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = four.assign(defense="name[red]x", settings="defense.x=[/y] :smile:", attack="[bold]")
    print_table(records(rows))
    said = capsys.readouterr().out
    for text in ("name[red]x", "defense.x=[/y] :smile:", "[bold]"):
        assert text in said


def test_what_is_escaped_in_a_csv_is_read_back_as_it_was() -> None:
    frame = pd.DataFrame({"curve": ["=1+1", "-a", "plain", "it's"], "x": [-1.5, 0.0, 1.0, 2.0]})
    text = csv_text(frame)
    assert [line.partition(",")[0] for line in text.splitlines()[1:]] == [
        "'=1+1", "'-a", "plain", "it's",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(unescaped(pd.read_csv(io.StringIO(text))), frame)
