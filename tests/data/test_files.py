"""Data sets in .npz files: every layout gives the same images, every fault one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.datasets import dataset_info
from bench.data.load import load_test, load_train
from bench.errors import BenchError, DataError, UsageError

from .own import digits, save

X, Y = digits()


def load(path: Path) -> Any:
    return load_test(str(path), root=path.parent)


@pytest.mark.parametrize(
    ("x", "equal"),
    [
        (X, True), (X[:, None], True), (X[..., None], True), (X.astype(np.int64), True),
        ((X / 255).astype(np.float32)[:, None], False), (X / 255, False),
        (np.asfortranarray(X[..., None] / 255), False),
    ],
    ids=["NHW", "NCHW", "NHWC", "int64", "float32", "float64", "fortran"],
)  # fmt: skip
def test_every_layout_and_type_gives_the_same_images(
    x: Any, equal: bool, tmp_path: Path
) -> None:
    plain = load(save(tmp_path / "plain.npz"))
    pixels = load(save(tmp_path / "mine.npz", x=x, y=Y))
    expected = torch.from_numpy(X)[:, None].float() / 255
    for block in (slice(0, 20), slice(3, 7), slice(19, 20)):
        images = pixels.images(block.start, block.stop)
        assert torch.equal(images.x, expected[block])
        assert images.y.tolist() == Y[block].tolist()
        assert images.indices.tolist() == list(range(block.start, block.stop))
    assert (pixels.digest == plain.digest) == equal, "the same bytes have the same digest"
    assert dataset_info(str(tmp_path / "mine.npz")).shape == (1, 8, 8)


def test_colours_keep_their_place(tmp_path: Path) -> None:
    x = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    last = load(save(tmp_path / "last.npz", x=x, y=[0, 1]))
    first = load(save(tmp_path / "first.npz", x=x.transpose(0, 3, 1, 2), y=[0, 1]))
    assert first.digest == last.digest
    assert torch.equal(last.images(0, 2).x * 255, torch.from_numpy(x).permute(0, 3, 1, 2))


def test_another_pixel_or_label_is_another_digest_and_is_read_again(tmp_path: Path) -> None:
    seen = {load(save(tmp_path / "mine.npz")).digest}
    x, y = X.copy(), Y.copy()
    x[3, 2, 1] ^= 1
    seen.add(load(save(tmp_path / "mine.npz", x=x, y=Y)).digest)
    y[0] = 5
    seen.add(load(save(tmp_path / "mine.npz", x=X, y=y)).digest)
    assert len(seen) == 3


def test_training_images_are_held_out_as_those_of_other_sets(tmp_path: Path) -> None:
    more = digits(100, start=0)
    path = str(save(tmp_path / "mine.npz", x_train=more[0], y_train=more[1] % 7))
    info = dataset_info(path)
    assert (info.name, info.train_images, info.test_images) == ("mine.npz", 100, 20)
    assert info.classes == 10, "those of test and training labels together"
    train, held_out, digest = load_train(path, root=tmp_path)
    assert (len(train), len(held_out)) == (90, 10)
    validation = load_test(f"{path}:validation", root=tmp_path)
    assert torch.equal(validation.images(0, 10).x, held_out.x)
    assert dataset_info(f"{path}:validation").name == "mine.npz:validation"
    assert len({digest, validation.digest, load_test(path, root=tmp_path).digest}) == 3


def test_without_training_images_nothing_is_trained(tmp_path: Path) -> None:
    path = str(save(tmp_path / "mine.npz"))
    with pytest.raises(
        UsageError, match=r"mine\.npz has none\. Choose a classifier with weights"
    ):
        load_train(path, root=tmp_path)
    with pytest.raises(UsageError, match="no training images, and so none to validate on"):
        dataset_info(f"{path}:validation")


def floats(low: float, high: float) -> Any:
    x = (X / 255).astype(np.float32)
    return low + (high - low) * x


def with_one(value: float) -> Any:
    x = floats(0, 1)
    x[7, 0, 0] = value
    return x


# Of keys, shapes, types and labels: found for the faults of a plan, without reading pixels.
EARLY: dict[str, tuple[dict[str, Any], list[str]]] = {
    "other keys": (
        {"images": X, "labels": Y, "x": None, "y": None},
        ["has images, labels", "needs x (images) and y (labels)", "numpy.savez"],
    ),
    "half a training": ({"x_train": X}, ["x_train and y_train belong together"]),
    "few to train on": ({"x_train": X[:5], "y_train": Y[:5]}, ["has 5 images", "10 or more"]),
    "two shapes": (
        {"x_train": X[:, :4], "y_train": Y}, ["(1, 8, 8)", "(1, 4, 8)", "with one shape"],
    ),
    "objects": (
        {"x": np.array([[1], [1, 2]], dtype=object), "y": [0, 1]},
        ["'x' of", "Python objects, which are not read", "Save it as uint8"],
    ),
    "object labels": (
        {"y": np.array(list("abcdefghijklmnopqrst"), dtype=object)},
        ["'y' of", "Python objects", "Labels are integers"],
    ),
    "text": ({"y": np.array(["cat"] * 20)}, ["'y' of", "<U3", "Labels are integers"]),
    "bool": ({"x": X > 99, "y": Y}, ["'x' of", "the type bool"]),
    "complex": ({"x": X.astype(complex), "y": Y}, ["'x' of", "complex128"]),
    "flat": ({"x": X.reshape(20, 64), "y": Y}, ["(20, 64)", "(N, C, H, W)"]),
    "four channels": (
        {"x": np.zeros((20, 8, 8, 4), np.uint8), "y": Y}, ["(20, 8, 8, 4)", "1 or 3 channels"],
    ),
    "two ways": ({"x": np.zeros((20, 3, 8, 3), np.uint8), "y": Y}, ["(20, 3, 8, 3)"]),
    "five": ({"x": X[None, None], "y": Y}, ["(1, 1, 20, 8, 8)"]),
    "no images": ({"x": X[:0], "y": Y[:0]}, ["is empty", "(0, 8, 8)"]),
    "float labels": ({"y": Y.astype(float)}, ["'y' of", "float64", "Labels are integers"]),
    "one label short": ({"y": Y[:19]}, ["(19,)", "each of the 20 images"]),
    "a column": ({"y": Y[:, None]}, ["(20, 1)", "each of the 20 images"]),
    "negative": ({"y": Y - 1}, ["has the label -1", "from 0"]),
}  # fmt: skip
LATE: dict[str, tuple[Any, list[str]]] = {
    "0 to 255 in floats": (X.astype(np.float32), ["from 0 to 255", "save them as uint8"]),
    "normalized": (
        floats(-2.25, 2.5), ["from -2.25 to 2.5", "within [0, 1]", "undo the normalization"],
    ),
    "-1 to 1": (floats(-1, 1), ["from -1 to 1"]),
    "barely": (with_one(1.0000001), ["from 0 to 1.00000012"]),
    "16 bits": (X.astype(np.uint16) * 257, ["from 0 to 65535", "0 to 255"]),
    "below": (X.astype(np.int16) - 1, ["from -1 to 254", "0 to 255"]),
    "0 or 1": (
        (X > 99).astype(np.uint8), ["from 0 to 1, where 255 is white", "Multiply them by 255"],
    ),
    "NaN": (with_one(np.nan), ["NaN or infinity"]),
    "infinity": (with_one(np.inf), ["NaN or infinity"]),
}  # fmt: skip


def is_one_sentence(text: str, parts: list[str]) -> None:
    for part in parts:
        assert part in text, f"'{part}' is not in: {text}"
    assert "\n" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("arrays", "parts"), EARLY.values(), ids=list(EARLY))
def test_a_fault_is_one_sentence_with_what_to_do(
    arrays: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        dataset_info(str(save(tmp_path / "mine.npz", **arrays)))
    is_one_sentence(str(caught.value), [*parts, "mine.npz"])


@pytest.mark.parametrize(("x", "parts"), LATE.values(), ids=list(LATE))
def test_pixels_that_are_none(x: Any, parts: list[str], tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", x=x, y=Y)
    assert dataset_info(str(path)).test_images == 20
    with pytest.raises(DataError) as caught:
        load(path)
    is_one_sentence(str(caught.value), [*parts, "'x' of", "mine.npz"])


def test_a_file_that_is_none(tmp_path: Path) -> None:
    for content in (b"", b"no archive", b"\x80\x04N.", b"PK\x03\x04" + bytes(99)):
        (tmp_path / "mine.npz").write_bytes(content)
        with pytest.raises(DataError) as caught:
            load(tmp_path / "mine.npz")
        is_one_sentence(str(caught.value), ["mine.npz is damaged or no .npz file", "Save it"])
    (tmp_path / "mine.npz").unlink()
    with pytest.raises(DataError, match=r"there is no file .*mine\.npz\. Check the path"):
        load(tmp_path / "mine.npz")
    save(tmp_path / "yours.npz")
    with pytest.raises(DataError, match=r"That folder has yours\.npz"):
        load(tmp_path / "mine.npz")
    save(tmp_path / "mime.npz")
    with pytest.raises(DataError, match=r"Did you mean mime\.npz\?"):
        load(tmp_path / "mine.npz")
    (tmp_path / "mine.npz").mkdir()
    with pytest.raises(DataError, match="Is a directory"):
        load(tmp_path / "mine.npz")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_flipped_bit_is_found(compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=X, y=Y)
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 4]) + whole[301:])
    with pytest.raises(DataError, match="is damaged"):
        load(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("unpickled",))

    np.savez(tmp_path / "mine.npz", x=np.array([Trap()]), y=[0])
    with pytest.raises(BenchError, match="Python objects"):
        load(tmp_path / "mine.npz")


def test_a_path_begins_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "mine.npz")
    assert dataset_info("~/mine.npz").name == "mine.npz"
    assert len(load_test("~/mine.npz", root=tmp_path)) == 20
