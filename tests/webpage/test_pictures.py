"""Pictures of chosen images: what the attacks left, without attacking or training again."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.errors import CheckpointError, StoreError, UsageError
from bench.evaluation.run import Prepared, run_cell
from bench.results.cell import Part
from bench.results.progress import finish
from bench.results.settings import NOTHING_SET
from bench.results.store import Store, read_rows
from bench.results.workspace import Workspace
from bench.verification.rejudge import StoredImages
from bench.webpage import pictures
from bench.webpage.chosen import Asked, Chosen, choose
from bench.webpage.defenses import defenses
from bench.webpage.pictures import MOST, Strips, strips
from bench.webpage.write import report
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd

from ..cells import CPU, prepared

N = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Workspace]:
    """Three attacks on a purifier with steps: noise, PGD on all images, PGD on survivors."""
    root = tmp_path_factory.mktemp("pictures")
    workspace = Workspace(Store(root), root, root, CPU)
    steps = Part("langevin", {"steps": 2}, 1)
    first = prepared(attack=Noise(tries=1, eot=1), n=N, shard=4, draws=3)
    first = replace(first, cell=replace(first.cell, defense=steps))
    finish(run_cell(first, workspace=workspace, settings=NOTHING_SET))
    other = prepared(attack=Pgd(steps=1, eot=1), n=N, shard=4, draws=3)
    other = replace(other, cell=replace(other.cell, defense=steps))
    finish(run_cell(other, workspace=workspace, settings=NOTHING_SET))
    second = prepared(n=N, shard=4, draws=3)
    second = replace(
        second, cell=replace(second.cell, defense=steps, after=(first.cell.key(),))
    )
    finish(run_cell(second, workspace=workspace, settings=NOTHING_SET))
    return second, workspace


@pytest.fixture
def chosen(made: Any, monkeypatch: pytest.MonkeyPatch) -> Chosen:
    """What `rebuild` returns for a plugin with a name: these networks have none."""

    def rebuild(cell: Any, *, workspace: Workspace) -> Iterator[Any]:
        yield from ()
        return replace(made[0], cell=cell, attack=StoredImages("not stored"))

    monkeypatch.setattr(pictures, "rebuild", rebuild)
    return choose(made[1].store, Asked())


def shown(chosen: Chosen, made: Any, *indices: int) -> Strips:
    return finish(strips(chosen, defenses(chosen), indices, workspace=made[1]))


def pixels(source: str) -> np.ndarray:
    packed = base64.b64decode(source.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(packed)))


def test_each_image_is_that_of_the_attack_that_broke_it_first(
    made: Any, chosen: Chosen
) -> None:
    second, workspace = made
    store, (one,) = workspace.store, defenses(chosen)
    frames = {key: read_rows(store.outcomes(key)).set_index("index", drop=False)
              for key in one.keys}  # fmt: skip
    assert one.keys[2] == second.cell.key()
    broken_twice = [
        index
        for index in range(N)
        if not any(frames[key].loc[index, "robust"] for key in one.keys[:2])
    ]
    assert broken_twice
    found = shown(chosen, made, *range(N)).found
    assert len(found) == N
    assert len({strip.key for strip in found}) > 1
    clean = second.pixels.images(0, N).x
    for index, strip in enumerate(found):
        tried = [key for key in one.keys if index in frames[key].index]
        broke = [key for key in tried if not frames[key].loc[index, "robust"]]
        assert strip.key == (broke[0] if broke else tried[-1])
        row = frames[strip.key].loc[index]
        heads = [picture.head for picture in strip.pictures]
        assert heads == [
            "clean",
            "attacked",
            "purified, 1 of 2 steps",
            "purified, 2 of 2 steps",
        ]
        first, attacked = (pixels(picture.source) for picture in strip.pictures[:2])
        assert (first == (255 * clean[index, 0].numpy()).round()).all()
        distance = abs(attacked.astype(float) - first).max() / 255
        assert distance == pytest.approx(row["distance"], abs=1 / 255)
        assert strip.pictures[1].said.startswith(f"class {np.argmax(row['votes'])}")
        end = ("it survives" if row["robust"] else "broken by" if row["clean"]
               else "wrong without an attack")  # fmt: skip
        assert end in strip.image
    page = report(chosen, Strips(found, ("made: something is missing",)))
    assert page.count("<img") == 4 * N
    assert "something is missing" in page


def test_the_same_images_are_the_same_pictures_in_any_company(
    made: Any, chosen: Chosen
) -> None:
    both = shown(chosen, made, 1, 4).found
    assert shown(chosen, made, 4).found == both[1:]


def test_what_cannot_be_shown_is_said(
    made: Any, chosen: Chosen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no cell has an image 6"):
        shown(chosen, made, N)
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "MOST", 2)
        with pytest.raises(UsageError, match="3 strips are too many"):
            shown(chosen, made, 0, 1, 2)
    assert MOST == 50
    images = made[1].store.root / "images"
    images.rename(tmp_path / "away")
    try:
        with pytest.raises(StoreError, match="Copy that folder"):
            shown(chosen, made, 0)
    finally:
        (tmp_path / "away").rename(images)

    def missing(*_: Any, **__: Any) -> Any:
        raise CheckpointError("no such checkpoint. Train it.")

    monkeypatch.setattr(pictures, "rebuild", missing)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        shown(chosen, made, 0)


def test_large_pictures_are_compressed() -> None:
    source = pictures._source(torch.rand(224, 200, 3).numpy())
    assert source.startswith("data:image/webp;")
    assert pixels(source).shape == (112, 100, 3)
