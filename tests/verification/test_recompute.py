"""A results folder is recomputed: a clean one passes, and whatever is planted is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from bench.results.cell import digest_of
from bench.results.settings import measured
from bench.results.store import Store

from ..command import Bench
from .one_cell import TINY, images, only


def without_digests(folder: Path) -> None:
    """Leave what is worked out again as the only check, as of cells from before digests."""
    path = only(folder) / "provenance.json"
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    path.write_text(json.dumps(content))


def edit(folder: Path, change: Callable[[pd.DataFrame], object]) -> None:
    without_digests(folder)
    path = only(folder) / "outcomes.parquet"
    rows = pd.read_parquet(path)
    changed = change(rows)
    (changed if isinstance(changed, pd.DataFrame) else rows).to_parquet(path, index=False)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_images(folder: Path, change: Callable[[Any], None]) -> None:
    path = images(folder)
    x_adv = load_file(path)["x_adv"].copy()
    change(x_adv)
    save_file({"x_adv": x_adv}, path, {"about": json.dumps({})})


def rekey(folder: Path, **changes: Any) -> Path:
    """Change a cell and give it the name that belongs to it."""
    without_digests(folder)
    cell = only(folder)
    edit_json(cell / "cell.json", **changes)
    content = measured(json.loads((cell / "cell.json").read_text()))
    (folder / "runs.csv").unlink()
    return cell.rename(cell.with_name(digest_of(content)))


def test_a_clean_folder_passes(bench: Bench, folder: Path) -> None:
    said = bench("verify", "results", "--votes")
    assert said.code == 0
    assert f"{only(folder).name} gaussian under noise: ok" in said.out
    assert (
        "1 finished cells in results: 1 ok, 0 not checked in full, 0 wrong, 0 void" in said.out
    )
    found = json.loads(bench("verify", "--json").out)
    assert found["ok"] == 1
    assert found["cells"][0]["findings"] == []


def test_other_kinds_of_cells_pass(bench: Bench) -> None:
    """L2, transfer with shared images, a deterministic defense, rounded, judged on another."""
    pgd = ("--attack=pgd", "--set=attack.steps=2", *TINY)
    for words in (
        ("--defense=none", *pgd, "--norm=L2", "--eps=0.7"),
        ("--defense=none", *pgd, "--access=transfer"),
        ("--defense=gaussian", *pgd, "--access=transfer"),
    ):
        assert bench("run", *words).code == 0
    l2 = next(
        c for c in Store(Path("results")).cells() if '"L2"' in (c / "cell.json").read_text()
    )
    assert bench("judge", l2.name, "--bits=8").code == 0
    assert bench("judge", l2.name, "--bits=2", "--defense=gaussian").code in (
        0,
        1,
    )  # void or not
    said = bench("verify", "--votes")
    assert said.code == 0, said.out
    assert "5 finished cells in results: 5 ok" in said.out


def put(name: str, value: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame], None]:
    def change(rows: pd.DataFrame) -> None:
        rows[name] = value(rows)

    return change


def put_one(row: int, name: str, value: int) -> Callable[[pd.DataFrame], None]:
    def change(rows: pd.DataFrame) -> None:
        rows.loc[row, name] = value

    return change


ALL = "6 images (0, 1, 2, 3, 4, ...)"
ROWS: dict[str, tuple[Callable[[pd.DataFrame], object], str]] = {
    "edited distance": (
        put("distance", lambda rows: rows["distance"] * (1 + 1e-8)),
        f"'distance' of {ALL} is not the stored image's",
    ),
    "distance beyond eps": (put("distance", lambda _: 0.3), "said to be legal beyond eps"),
    "NaN": (put("distance", lambda _: float("nan")), "said to be legal beyond eps"),
    "illegal": (put("legal", lambda _: False), f"'legal' of {ALL} is not the stored image's"),
    "flipped robust": (put("robust", lambda rows: ~rows["robust"]), f"'robust' of {ALL} does"),
    "flipped clean": (put("clean", lambda rows: ~rows["clean"]), f"'clean' of {ALL} does"),
    "wrong label": (put_one(2, "label", 9), "label of image 2 is not the test set's"),
    "more votes": (
        put("votes", lambda rows: list(rows["votes"] * 2)),
        f"'votes' of {ALL} do not sum to 3",
    ),
    "no votes": (
        put("clean_votes", lambda rows: list(rows["votes"] * 0)),
        f"'clean_votes' of {ALL} do not sum to 3",
    ),
    "a row missing": (lambda rows: rows.iloc[1:], "rows are not the first n images"),
    "a row twice": (lambda rows: rows.iloc[[0, 1, 2, 3, 4, 4]], "not the first n images"),
    "a foreign row": (put_one(5, "index", 500), "images that the test set does not have"),
    "a column missing": (lambda rows: rows.drop(columns="votes"), "malformed (KeyError"),
    "no rows": (lambda rows: rows.iloc[:0], "rows are not the first n images"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_tampered_rows_are_found(bench: Bench, folder: Path, kind: str) -> None:
    change, message = ROWS[kind]
    edit(folder, change)
    said = bench("verify")
    assert said.code == 1
    assert "WRONG" in said.out
    assert message in said.out


def outside(x_adv: Any) -> None:
    x_adv[1, 0, 3, 3] += 0.5 if x_adv[1, 0, 3, 3] < 0.5 else -0.5


def below_the_box(x_adv: Any) -> None:
    x_adv[1, 0, 0, 0] = -0.1


def not_a_number(x_adv: Any) -> None:
    x_adv[1] = np.nan


def fewer(folder: Path) -> None:
    path = images(folder)
    save_file({"x_adv": load_file(path)["x_adv"][:3]}, path)


def truncate(folder: Path) -> None:
    images(folder).write_bytes(images(folder).read_bytes()[:300])


def other_keys(folder: Path) -> None:
    runs = folder / "runs.csv"
    runs.write_text(runs.read_text().replace(only(folder).name, "f" * 16))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "outside the ball": (lambda f: edit_images(f, outside), "'legal' of image 1 is not"),
    "outside the box": (lambda f: edit_images(f, below_the_box), "'legal' of image 1 is not"),
    "NaN": (lambda f: edit_images(f, not_a_number), "'distance' of image 1 is not"),
    "fewer images": (fewer, "shape (3, 1, 8, 8), not (4, 1, 8, 8)"),
    "truncated images": (truncate, "000000-000004.safetensors cannot be read"),
    "renamed folder": (
        lambda f: only(f).rename(f / "cells" / "0123456789abcdef"),
        "the folder is named 0123456789abcdef",
    ),
    "changed cell": (
        lambda f: edit_json(only(f) / "cell.json", seed=1),
        "cell.json hashes to",
    ),
    "empty cell": (lambda f: (only(f) / "cell.json").write_text("{}"), "malformed"),
    "no cell": (lambda f: (only(f) / "cell.json").unlink(), "cannot read"),
    "no provenance": (lambda f: (only(f) / "provenance.json").unlink(), "cannot read"),
    "no command": (
        lambda f: edit_json(only(f) / "provenance.json", command=""),
        "provenance.json lacks command",
    ),
    "other cells in runs.csv": (other_keys, "runs.csv has other cells"),
    "empty runs.csv": (lambda f: (f / "runs.csv").write_text(""), "runs.csv cannot be read"),
}


@pytest.mark.parametrize("kind", FILES)
def test_tampered_files_are_found(bench: Bench, folder: Path, kind: str) -> None:
    change, message = FILES[kind]
    change(folder)
    said = bench("verify")
    assert said.code == 1
    assert "WRONG" in said.out
    assert message in said.out


def test_a_changed_checkpoint_is_found_and_a_missing_one_is_not_checked(
    bench: Bench, folder: Path
) -> None:
    (path,) = Store(folder).checkpoints()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said = bench("verify")
    assert said.code == 1
    assert f"WRONG checkpoint {path.name} was changed" in said.out
    path.unlink()
    said = bench("verify")
    assert said.code == 0
    assert "NOT CHECKED the classifier's checkpoint" in said.out
    assert "0 ok, 1 not checked in full" in said.out


def test_a_changed_digest_of_the_data_set_is_found(bench: Bench, folder: Path) -> None:
    rekey(folder, data="0" * 64)
    assert "the data set digits at hand has another digest" in bench("verify").out


def test_images_that_are_not_there_are_not_checked(bench: Bench, folder: Path) -> None:
    images(folder).unlink()
    said = bench("verify", "--votes")
    assert said.code == 0
    assert (
        "NOT CHECKED distance and legality: images of 1 of 2 blocks are not there" in said.out
    )
    assert "NOT CHECKED votes: the images of cell" in said.out
    assert "images of 1 of 1 cells are not all there (git does not track them)" in said.out
    edit(folder, lambda rows: rows.__setitem__("robust", ~rows["robust"]))
    assert bench("verify").code == 1, "what needs no images is checked all the same"


def test_a_data_set_that_is_not_there_is_not_checked(
    bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.errors import DataError

    def missing(name: str, *, root: Path) -> None:
        raise DataError("it is missing")

    monkeypatch.setattr("bench.verification.recompute.load_test", missing)
    said = bench("verify")
    assert said.code == 0
    assert "NOT CHECKED labels and images: digits is not at hand" in said.out
    assert said.out.count("NOT CHECKED labels and images of digits: it is missing") == 1


def test_a_void_cell_is_no_contradiction(bench: Bench, folder: Path) -> None:
    edit_images(folder, outside)
    x_adv = load_file(images(folder))["x_adv"]
    from bench.data.load import load_test

    x = load_test("digits", root=Path()).images(0, 4).x.numpy()

    def admit(rows: pd.DataFrame) -> None:
        rows.loc[1, "distance"] = float(np.abs(x_adv[1].astype(float) - x[1]).max())
        rows.loc[1, "legal"] = False
        rows.loc[1, "robust"] = rows["clean"][1]

    edit(folder, admit)
    (folder / "runs.csv").unlink()
    said = bench("verify")
    assert said.code == 0, said.out
    assert "(void: 1 images outside the ball): ok" in said.out


def test_survivors_are_what_the_cells_before_left(bench: Bench, folder: Path) -> None:
    """A cell on survivors, made by hand from one on all images."""
    without_digests(folder)
    first = only(folder)
    rows = pd.read_parquet(first / "outcomes.parquet")
    kept = rows[rows["robust"]]
    assert 0 < len(kept) < 6, "the case tells nothing"
    content = json.loads((first / "cell.json").read_text()) | {"after": [first.name]}
    key = digest_of(measured(content))
    second = first.with_name(key)
    shutil.copytree(first, second)
    (second / "cell.json").write_text(json.dumps(content))
    kept.to_parquet(second / "outcomes.parquet", index=False)
    (folder / "runs.csv").unlink()
    said = bench("verify")
    assert said.code == 0, said.out
    rows.to_parquet(second / "outcomes.parquet", index=False)
    said = bench("verify")
    assert said.code == 1
    assert (
        f"{key} gaussian under noise: WRONG rows are not the survivors of 'after'" in said.out
    )
    shutil.rmtree(first)
    assert "a cell named in 'after' is not there" in bench("verify").out


def test_other_votes_that_agree_with_their_verdict_are_found_by_judging_again(
    bench: Bench, folder: Path
) -> None:
    """A robust image is said to be broken, votes and all."""

    def forge(rows: pd.DataFrame) -> None:
        row = rows.index[rows["robust"]][0]
        rows.at[row, "votes"] = np.roll(rows["votes"][row], 1)
        rows.loc[row, "robust"] = False

    edit(folder, forge)
    (folder / "runs.csv").unlink()
    assert bench("verify").code == 0
    said = bench("verify", "--votes")
    assert said.code == 1
    assert "WRONG judged again, votes differ on 1 and verdicts on 1 of 6 images" in said.out


def test_few_verdicts_may_differ_on_another_machine() -> None:
    from bench.verification.revote import difference

    votes = [np.array([2, 1])] * 1000
    rows = pd.DataFrame({"index": range(1000), "clean": True, "robust": True})
    rows["votes"] = rows["clean_votes"] = votes
    assert difference(rows, rows.copy()) is None
    other = rows.copy()
    other.loc[:4, "robust"] = False
    found = difference(rows, other)
    assert found is not None
    assert not found.wrong
    assert "verdicts on 5 of 1000 images" in found.text
    other.loc[5, "clean"] = False
    found = difference(rows, other)
    assert found is not None
    assert found.wrong


def test_nothing_to_verify_is_an_error(bench: Bench) -> None:
    said = bench("verify", "nowhere")
    assert said.code == 2
    assert "no finished cells in nowhere" in said.err
