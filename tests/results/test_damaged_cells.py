"""No damaged byte of a finished cell becomes a number, and the rest of the folder is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from safetensors.numpy import load_file, save_file

from bench.errors import StoreError
from bench.results.cell import digest_of
from bench.results.cell_row import damaged_cells
from bench.results.digests import fault
from bench.results.render import csv_text
from bench.results.rows import COLUMNS
from bench.results.settings import measured
from bench.results.store import Store, read_rows
from bench.results.table import collect, with_worst_case

from ..command import NOISE, RUN, Bench, files, is_one_clear_message, runs

FLIPS = 60
NUMBERS = [
    name for name in COLUMNS
    if name.startswith(("clean", "robust"))
    or name in ("passes", "forward", "backward", "seconds")
]  # fmt: skip
GAUSSIAN = ("run", "--defense=gaussian", *NOISE)


@pytest.fixture
def folder(filled_by: Callable[..., Path]) -> Path:
    """A folder with a cell of no defense and one of gaussian."""
    return filled_by(RUN, GAUSSIAN)


def cell_of(folder: Path, defense: str) -> Path:
    (found,) = (
        cell
        for cell in Store(folder).cells()
        if json.loads((cell / "cell.json").read_text())["defense"]["name"] == defense
    )
    return found


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_rows(cell: Path, change: Callable[[pd.DataFrame], object]) -> None:
    path = cell / "outcomes.parquet"
    rows = pd.read_parquet(path)
    changed = change(rows)
    (changed if isinstance(changed, pd.DataFrame) else rows).to_parquet(path, index=False)


def without_digests(cell: Path) -> None:
    edit_json(cell / "provenance.json", lambda content: content.pop("sha256"))


def row_of(folder: Path, key: str) -> pd.Series[Any]:
    return collect(Store(folder)).set_index("key").loc[key]


@pytest.mark.parametrize("old", [False, True], ids=["with digests", "from before digests"])
def test_no_flipped_bit_raises_and_none_makes_another_number(folder: Path, old: bool) -> None:
    """Without digests a number may be another one (`verify` finds it); nothing may raise."""
    cell = cell_of(folder, "gaussian")
    if old:
        without_digests(cell)
    store, whole = Store(folder), row_of(folder, cell.name)
    other = row_of(folder, cell_of(folder, "none").name)
    chance, damaged = np.random.default_rng(0), 0
    paths = [cell / name for name in ("outcomes.parquet", "provenance.json", "cell.json")]
    for flip in range(FLIPS):
        path = paths[flip % len(paths)]
        content = path.read_bytes()
        place, bit = int(chance.integers(len(content))), int(chance.integers(8))
        spoilt = bytes([content[place] ^ 1 << bit])
        path.write_bytes(content[:place] + spoilt + content[place + 1 :])
        frame = collect(store)
        csv_text(with_worst_case(frame, store))
        by_key = frame.set_index("key")
        row = by_key.loc[cell.name]
        pd.testing.assert_series_equal(
            by_key.loc[other.name], other, check_dtype=False, check_names=False
        )
        where = f"{path.name} byte {place} bit {bit}"
        if row["state"] == "damaged":
            damaged += 1
            assert row[NUMBERS].isna().all(), where
        elif not old:
            assert path.name != "outcomes.parquet", where
            shown = [name for name in frame.columns if name not in ("key", "audit")]
            assert row[shown].astype(str).equals(whole[shown].astype(str)), where
        path.write_bytes(content)
    assert damaged > (FLIPS // 4 if old else 0.9 * FLIPS)
    assert row_of(folder, cell.name)["state"] == "done"


def spoil(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])


@pytest.mark.parametrize("name", ["outcomes.parquet", "provenance.json", "cell.json"])
def test_a_damaged_cell_is_a_row_without_a_number_and_the_others_are_shown(
    bench: Bench, folder: Path, name: str
) -> None:
    bad, good = cell_of(folder, "none"), cell_of(folder, "gaussian")
    number = f"{row_of(folder, good.name)['robust']:.1f}"
    spoil(bad / name)
    for words in (("table",), ("table", "--worst-case"), ("table", "--format=latex")):
        said = bench(*words)
        is_one_clear_message(said, bad.name, "bench verify", "Delete", code=1)
        assert said.err.count("\n") == 1
        assert "damaged" in said.out
        assert number in said.out
    said = bench("table", "--format=csv", "--dataset=digits")
    (row,) = (line for line in said.out.splitlines() if bad.name in line)
    assert ",damaged," in row
    assert name in row
    is_one_clear_message(bench("compare", bad.name, good.name), bad.name, name, code=1)
    is_one_clear_message(bench("report", "--defense=none"), bad.name, code=2)
    said = bench("report", "--defense=gaussian")
    is_one_clear_message(said, bad.name, code=1)
    assert f"**{number} %" in said.out
    said = bench("figure", "curves", "--attack=noise")
    is_one_clear_message(said, bad.name, code=1)
    drawn = pd.read_csv(next((folder / "figures").glob("*.csv")))
    assert set(drawn["key"]) == {good.name}
    said = bench("verify")
    assert said.code == 1
    (line,) = (line for line in said.out.splitlines() if line.startswith(bad.name))
    assert "WRONG" in line
    assert name in line
    assert f"{good.name} gaussian under noise: ok" in said.out


def test_a_run_beside_a_damaged_cell_and_of_it(bench: Bench, folder: Path) -> None:
    bad = cell_of(folder, "gaussian")
    spoil(bad / "outcomes.parquet")
    assert bench(*RUN, "--seed=1").code == 0
    (row,) = (row for row in runs(folder.parent) if row["key"] == bad.name)
    assert (row["state"], row["robust"]) == ("damaged", "")
    said = bench(*GAUSSIAN)
    assert said.code == 1
    assert "damaged: " in said.err


def test_defenses_are_compared_by_the_cells_that_are_whole(bench: Bench, folder: Path) -> None:
    assert bench(*RUN, "--seed=1").code == bench(*GAUSSIAN, "--seed=1").code == 0
    (bad,) = (c for c in Store(folder).cells() if '"seed": 1' in (c / "cell.json").read_text()
              and '"gaussian"' in (c / "cell.json").read_text())  # fmt: skip
    spoil(bad / "outcomes.parquet")
    said = bench("compare", "none", "gaussian")
    is_one_clear_message(said, bad.name, "damaged and not used", code=1)
    assert "none, worst case per image: robust" in said.out


def more_rows(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[[0, 1, 2, 3, 3]]


def test_the_number_of_rows_is_checked_without_digests(folder: Path) -> None:
    cell = cell_of(folder, "none")
    without_digests(cell)
    assert row_of(folder, cell.name)["state"] == "done"
    edit_rows(cell, more_rows)
    row = row_of(folder, cell.name)
    assert row["state"] == "damaged"
    assert "has 5 rows, not 4" in row["note"]
    with pytest.raises(StoreError, match="5 rows"):
        read_rows(cell / "outcomes.parquet")


def other_logits(rows: pd.DataFrame) -> None:
    rows["logits"] = [logits + 1 for logits in rows["logits"]]


EDITS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "settings": ("cell.json", lambda c: c.update(settings="defense.sigma=9")),
    "set": ("cell.json", lambda c: c["set"].update(notes=["8 bits"])),
    "passes": ("provenance.json", lambda c: c["judge passes"].update({"net forward": 1})),
    "seconds": ("provenance.json", lambda c: c.update({"attack seconds": 0.0})),
    "flags": ("provenance.json", lambda c: c["flags"].append("fine")),
    "images": ("provenance.json", lambda c: c["sha256"]["images"].clear()),
    "logits": ("outcomes.parquet", other_logits),
}


@pytest.mark.parametrize("kind", EDITS)
def test_what_nothing_else_shows_is_found_by_its_digest(
    bench: Bench, folder: Path, kind: str
) -> None:
    name, change = EDITS[kind]
    cell = cell_of(folder, "gaussian")
    if name == "outcomes.parquet":
        edit_rows(cell, change)
    else:
        edit_json(cell / name, change)
    said = bench("verify")
    assert said.code == 1
    assert f"{cell.name} gaussian under noise: WRONG {name} is not what was written" in said.out
    row = row_of(folder, cell.name)
    assert row["state"] == "damaged"
    assert row[NUMBERS].isna().all()


def test_clean_images_in_the_place_of_the_attacks_are_found(bench: Bench, folder: Path) -> None:
    """They are legal, and every vote on them is right."""
    from bench.data.load import load_test

    assert bench("verify", "--votes").code == 0
    cell = cell_of(folder, "none")
    (shard,) = json.loads((cell / "provenance.json").read_text())["sha256"]["images"]
    x = load_test("digits", root=Path()).images(0, 4).x.numpy()
    for path in (folder / "images").rglob(f"{shard}.safetensors"):
        save_file({"x_adv": x}, path, {"about": "{}"})
    said = bench("verify")
    assert said.code == 1
    assert f"WRONG images {shard}.safetensors are not those that were judged" in said.out


def test_images_made_again_are_the_same_whatever_their_seconds(
    bench: Bench, folder: Path
) -> None:
    for path in (folder / "images").rglob("*.safetensors"):
        save_file({"x_adv": load_file(path)["x_adv"]}, path, {"about": '{"seconds": 1}'})
    assert bench("verify").code == 0


ABOUT = ["", "[]", "{}", '{"flags": [], "passes": {}, "seconds": "x"}', '{"flags": 1}']


@pytest.mark.parametrize("about", [*ABOUT, None, "pixels"])
def test_damaged_images_are_refused_before_they_are_judged(
    bench: Bench, folder: Path, about: str | None
) -> None:
    for path in (folder / "images").rglob("*.safetensors"):
        if about == "pixels":
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            continue
        extra = {} if about is None else {"about": about}
        save_file({"x_adv": load_file(path)["x_adv"]}, path, extra or None)
    said = bench(*RUN, "--draws=4")
    is_one_clear_message(said, "cannot read the attack's images", "Delete the file", code=1)


@pytest.mark.parametrize("field", ["after", "images"])
def test_a_cell_that_names_a_folder_outside_is_damaged(
    bench: Bench, folder: Path, field: str
) -> None:
    """A received cell may have the right key and lead anywhere: keys become paths."""
    cell = cell_of(folder, "gaussian")
    outside = "../../../outside"
    named: Any = [outside] if field == "after" else outside
    edit_json(cell / "cell.json", lambda content: content.update({field: named}))
    without_digests(cell)
    content = json.loads((cell / "cell.json").read_text())
    cell = cell.rename(cell.with_name(digest_of(measured(content))))
    before = files(folder.parent)
    said = bench("verify", "--votes")
    assert said.code == 1
    assert "have to be keys of 16 hexadecimal digits" in said.out
    assert row_of(folder, cell.name)["state"] == "damaged"
    is_one_clear_message(bench("judge", cell.name, "--draws=4"), "16 hexadecimal", code=1)
    assert files(folder.parent) == before


def test_a_cell_that_another_process_has_begun_is_not_written_down_anew(folder: Path) -> None:
    """What is hashed at the end must not change under a process that set it otherwise."""
    from bench.results.cell import Cell
    from bench.results.settings import Settings

    cell = cell_of(folder, "gaussian")
    content = (cell / "cell.json").read_bytes()
    store = Store(folder)
    store.open(Cell.read(json.loads(content)), Settings((("defense.sigma", 0.1),)))
    assert (cell / "cell.json").read_bytes() == content
    (cell / "cell.json").write_text("{")
    store.open(Cell.read(json.loads(content)), Settings())
    assert json.loads((cell / "cell.json").read_text())["settings"] == ""


def test_parquet_has_checksums_of_its_pages(folder: Path) -> None:
    path = cell_of(folder, "none") / "outcomes.parquet"
    content = path.read_bytes()
    for place in range(4, 60):  # the first page: its header, then its data
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            parquet.ParquetFile(path, page_checksum_verification=True).read()
        except OSError as error:
            if "CRC" in str(error):
                return
        except (ValueError, pa.ArrowException):
            continue
    pytest.fail("no flipped bit is told by a checksum")


def test_a_sound_cell_has_no_fault(folder: Path) -> None:
    assert [fault(cell) for cell in Store(folder).cells()] == [None, None]
    assert damaged_cells(Store(folder)) == {}
