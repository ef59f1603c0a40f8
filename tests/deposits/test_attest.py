"""A deposit is written: what is in it, what is refused, and always the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file

from bench.core.geometry import rounded
from bench.deposits.contents import packed, unpacked
from bench.deposits.write import attest
from bench.errors import StoreError
from bench.results.files import read_json, write_json
from bench.results.store import Store

from ..command import Bench, is_one_clear_message
from ..verification.one_cell import images, only
from .forge import manifest, members, with_rows


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_deposit_has_what_its_manifest_says(
    bench: Bench, folder: Path, deposit: Path
) -> None:
    found, cell = members(deposit), only(folder)
    said = manifest(found)
    listed = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    del listed["deposit.json"]
    assert {name: one["sha256"] for name, one in said["members"].items()} == listed
    about, content = read_json(cell / "provenance.json"), read_json(cell / "cell.json")
    (told,) = said["cells"].values()
    assert said["cells"].keys() == {cell.name}
    assert told["commit"] == about["commit"]
    assert told["versions"] == about["versions"]
    assert told["data"] == content["data"]
    assert told["weights"]["classifier"] == content["classifier"]["checkpoint"]
    for name in ("cell.json", "provenance.json", "outcomes.parquet"):
        assert found[f"cells/{cell.name}/{name}"] == (cell / name).read_bytes()
    stored = load_file(images(folder))["x_adv"].numpy()
    (first, *_) = sorted(name for name in found if name.startswith("images/"))
    assert np.array_equal(unpacked(found[first]), stored)


def test_the_same_cells_are_the_same_bytes(bench: Bench, folder: Path, deposit: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    said = bench("attest", str(folder), "-o", "again.zip")
    with zipfile.ZipFile(deposit) as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}, "not today"
    assert deposit.read_bytes() == Path("again.zip").read_bytes()
    assert f"SHA-256 {digest(deposit)}" in said.out
    key = only(folder).name
    assert bench("attest", key[:5], "-o", "again.zip").code == 0  # written over
    assert deposit.read_bytes() == Path("again.zip").read_bytes()


@given(
    arrays(np.float32, (2, 1, 3, 2), elements=st.floats(0, 1, width=32)),
    st.sampled_from([None, 1, 8]),
)
def test_images_are_kept_to_the_bit(x: np.ndarray, bits: int | None) -> None:
    """On the grid of 8 bits, as the judge rounds to it, a pixel takes a byte."""
    import torch

    if bits:
        x = rounded(torch.from_numpy(x), torch.from_numpy(x), bits).numpy()
    elif x.flat[0] == 0:
        x.flat[0] = -0.0
    content = packed(x)
    again = unpacked(content)
    assert again.dtype == np.float32
    assert again.tobytes() == x.tobytes()
    if bits == 8:
        assert len(content) < 128 + x.size + 1


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_images_that_are_no_numbers_are_no_images(wrong: float) -> None:
    x = np.zeros((1, 1, 2, 2), np.float32)
    x[0, 0, 0, 0] = wrong
    with pytest.raises(StoreError):
        packed(x)


def test_a_killed_write_leaves_the_old_deposit(
    bench: Bench, folder: Path, deposit: Path
) -> None:
    before = deposit.read_bytes()
    work = attest(Store(folder), [only(folder).name], deposit, images=True)
    next(work)
    work.close()
    assert deposit.read_bytes() == before
    assert not [path for path in Path().iterdir() if path.name.startswith(".deposit")]


def test_without_images_it_is_smaller_and_says_so(
    bench: Bench, folder: Path, deposit: Path
) -> None:
    shutil.rmtree(folder / "images")
    key = only(folder).name
    said = bench("attest", "-o", "small.zip")
    is_one_clear_message(said, key, "images are not in", "--without-images", code=1)
    assert not Path("small.zip").exists()
    assert bench("attest", "--without-images", "-o", "small.zip").code == 0
    found = members(Path("small.zip"))
    assert manifest(found)["images"] == "none"
    assert set(found) == {name for name in members(deposit) if not name.startswith("images")}


def test_above_the_limit_it_says_what_makes_it_smaller(
    bench: Bench, deposit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.deposits.write.MOST_BYTES", 2000)
    is_one_clear_message(bench("attest"), "--without-images", "fewer keys", code=2)
    assert deposit.stat().st_size > 2000, "the earlier one stays"
    monkeypatch.setattr("bench.deposits.write.MOST_UNPACKED", 2000)
    said = bench("attest", "--without-images")
    is_one_clear_message(said, "unpacked", "fewer keys", code=2)
    assert "--without-images" not in said.err


LADDER = """
datasets: digits
classifiers: {name: small_cnn, set: {training: {epochs: 1}}}
defenses: gaussian
attacks: [{name: noise, set: {tries: 2}}, {name: pgd, set: {steps: 1, eot: 1}}]
threats: {norm: Linf, eps: 0.1}
n: 6
draws: 3
shard: 4
ladder: true
sequential: true
"""


def test_earlier_cells_come_with_those_that_attacked_their_survivors(bench: Bench) -> None:
    Path("plan.yaml").write_text(LADDER)
    assert bench("matrix", "plan.yaml").code == 0
    store = Store(Path("results"))
    after = {path.name: read_json(path / "cell.json").get("after") for path in store.cells()}
    (last,) = (key for key, earlier in after.items() if earlier)
    assert bench("attest", last).code == 0
    assert manifest(members(Path("deposit.zip")))["cells"].keys() == after.keys()
    said = bench("verify", "deposit.zip", "--seed=0", "--json")
    found = json.loads(said.out)
    assert (said.code, found["verdict"]) == (0, "match")
    assert found["judged"] == found["rows"] > 6
    (first,) = (key for key, earlier in after.items() if not earlier)
    shutil.rmtree(store.cell(first))
    is_one_clear_message(bench("attest", last), last, first, "which is not there", code=1)


def void(cell: Path) -> None:
    def change(rows):
        rows.loc[0, "legal"] = False

    with_rows(cell, change)


def damaged(cell: Path) -> None:
    path = cell / "outcomes.parquet"
    path.write_bytes(path.read_bytes() + b"x")


def unfinished(cell: Path) -> None:
    (cell / "outcomes.parquet").unlink()


def other_version(cell: Path) -> None:
    content = read_json(cell / "cell.json")
    del content["draws"]
    write_json(cell / "cell.json", content)


def other_image(cell: Path) -> None:
    path = images(cell.parents[1])
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (void, "is void: 1 images outside the ball"),
        (damaged, "is damaged"),
        (unfinished, "is unfinished"),
        (other_version, "is of another version or was changed"),
        (other_image, "not those that were judged"),
    ],
)
def test_cells_that_are_no_result_are_refused_by_name(
    bench: Bench, folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    cell = only(folder)
    spoil(cell)
    said = bench("attest", "-o", "deposit.zip")
    is_one_clear_message(said, cell.name, message, code=1)
    assert not Path("deposit.zip").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ffff",), "no cell's key starts with 'ffff'"),
        (("results", "abcd"), "name one results folder or keys"),
        (("--results=nowhere",), "there are no cells in nowhere"),
        (("-o", "no/deposit.zip"), "there is no folder no"),
    ],
)
def test_what_is_not_there_is_told(
    bench: Bench, folder: Path, words: tuple[str, ...], message: str
) -> None:
    is_one_clear_message(bench("attest", *words), message, code=2)
