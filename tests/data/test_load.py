"""Data sets: fixed order, pixels in [0, 1], checksums; nothing is tested on that trained."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data import load as module
from bench.data.datasets import DATASETS, dataset_info
from bench.data.load import load_test, load_train
from bench.errors import DataError, UsageError

NOWHERE = Path("there", "is", "no", "data")
ROOT = Path(os.environ.get("BENCH_DATA", "no such folder"))
# Of the published files, computed once by another program (gunzip and sha256sum).
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
FIRST_LABELS = {"mnist": [7, 2, 1, 0, 4], "fashion_mnist": [9, 2, 1, 1, 6]}
FIRST_TRAIN_LABELS = {"mnist": [5, 0, 4, 1, 9], "fashion_mnist": [9, 0, 0, 3, 0]}

each_mnist = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not (ROOT / folder / "raw").is_dir(),
                reason=f"{folder} is not in BENCH_DATA ({ROOT})",
            ),
        )
        for name, folder in FOLDERS.items()
    ],
)


@pytest.fixture(autouse=True)
def _forget() -> None:
    """Read files again: a loaded split is kept in memory."""
    module._load.cache_clear()


# --- digits --------------------------------------------------------------------------------


def test_digits_are_split_once_and_for_all() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    test = load_test("digits", root=NOWHERE)
    train, held_out, _ = load_train("digits", root=NOWHERE)
    assert (len(train), len(held_out), len(test)) == (1168, 129, 500)
    together = torch.cat((train.x, held_out.x, test.images(0, 500).x)).flatten(1)
    assert np.array_equal(together.numpy() * 16, pixels), "disjoint, complete and in order"
    assert np.array_equal(torch.cat((train.y, held_out.y, test.y)), labels)
    # Disjoint as images too: no picture is in both by accident.
    seen = {row.numpy().tobytes() for row in torch.cat((train.x, held_out.x))}
    assert all(row.numpy().tobytes() not in seen for row in test.images(0, 500).x)


def test_digits_are_images_of_the_unit_interval() -> None:
    images = load_test("digits", root=NOWHERE).images(0, 500)
    assert images.x.shape == (500, 1, 8, 8)
    assert images.x.dtype == torch.float32
    assert (float(images.x.min()), float(images.x.max())) == (0.0, 1.0)
    assert images.y.dtype == torch.int64
    assert sorted(set(images.y.tolist())) == list(range(10))


def test_a_block_has_the_indices_of_the_test_set() -> None:
    test = load_test("digits", root=NOWHERE)
    block = test.images(20, 25)
    assert block.indices.tolist() == [20, 21, 22, 23, 24]
    assert torch.equal(block.x, test.images(0, 500).x[20:25])
    assert torch.equal(block[1:3].indices, torch.tensor([21, 22]))


def test_the_indices_of_held_out_images_go_on() -> None:
    train, held_out, _ = load_train("digits", root=NOWHERE)
    assert train.indices[-1] + 1 == held_out.indices[0]


def test_validation_images_are_those_held_out_of_training() -> None:
    _, held_out, _ = load_train("digits", root=NOWHERE)
    validation = load_test("digits:validation", root=NOWHERE)
    images = validation.images(0, len(validation))
    assert torch.equal(images.x, held_out.x)
    assert torch.equal(images.y, held_out.y)
    assert images.indices.tolist() == list(range(129))
    assert validation.digest not in (
        load_test("digits", root=NOWHERE).digest,
        load_train("digits", root=NOWHERE)[2],
    )
    info = dataset_info("digits:validation")
    assert (info.name, info.test_images, info.shape) == ("digits:validation", 129, (1, 8, 8))
    with pytest.raises(UsageError, match="Did you mean 'mnist'"):
        dataset_info("mnits:validation")


def test_the_digest_of_digits_is_stable() -> None:
    """A cell's key depends on it: results found by it would be lost with another."""
    assert load_test("digits", root=NOWHERE).digest == (
        "72a4b820dcf6185bd5165a15a38d2c7ff9d34acd87a0f350eec3179d2cccbf7e"
    )
    assert load_train("digits", root=NOWHERE)[2] == (
        "54d44d145301d2ff4980ca9f72872cde92758d133497ac1999fcacdffc44a08a"
    )


def test_an_unknown_data_set() -> None:
    with pytest.raises(UsageError, match="Did you mean 'mnist'"):
        load_test("mnits", root=NOWHERE)
    with pytest.raises(UsageError, match="Known: cifar10"):
        dataset_info("imagenet")


# --- MNIST and Fashion-MNIST, where they are -------------------------------------------------


@each_mnist
def test_the_test_set(name: str) -> None:
    test = load_test(name, root=ROOT)
    assert len(test) == DATASETS[name].test_images == 10_000
    assert len(load_test(f"{name}:validation", root=ROOT)) == DATASETS[name].held_out == 6_000
    images = test.images(0, 1000)
    assert images.x.shape == (1000, *DATASETS[name].shape)
    assert (float(images.x.min()), float(images.x.max())) == (0.0, 1.0)
    assert images.y[:5].tolist() == FIRST_LABELS[name]
    assert sorted(set(test.y.tolist())) == list(range(10))
    if name == "fashion_mnist":
        assert torch.bincount(test.y).tolist() == [1000] * 10


@each_mnist
def test_the_validation_set_is_the_last_tenth_of_the_training_set(name: str) -> None:
    train, held_out, digest = load_train(name, root=ROOT)
    assert (len(train), len(held_out)) == (54_000, 6_000)
    assert train.y[:5].tolist() == FIRST_TRAIN_LABELS[name]
    assert held_out.indices.tolist() == list(range(54_000, 60_000))
    raw = gzip.decompress(
        (ROOT / FOLDERS[name] / "raw" / "train-images-idx3-ubyte.gz").read_bytes()
    )
    last = np.frombuffer(raw, np.uint8)[-784:]
    assert np.array_equal((held_out.x[-1] * 255).round().flatten().numpy(), last)
    assert digest != load_test(name, root=ROOT).digest


@each_mnist
def test_the_digest_is_of_all_pixels_and_labels(name: str) -> None:
    raw = ROOT / FOLDERS[name] / "raw"
    pixels = gzip.decompress((raw / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((raw / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    expected = hashlib.sha256(pixels + np.frombuffer(labels, np.uint8).astype("<i8").tobytes())
    assert load_test(name, root=ROOT).digest == expected.hexdigest()


@each_mnist
@pytest.mark.parametrize("file", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_damage_is_found_by_checksum(name: str, file: str, tmp_path: Path) -> None:
    raw = tmp_path / FOLDERS[name] / "raw"
    raw.mkdir(parents=True)
    for other in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (raw / other).symlink_to((ROOT / FOLDERS[name] / "raw" / other).resolve())
    assert load_test(name, root=tmp_path).digest
    module._load.cache_clear()
    whole = (raw / file).read_bytes()
    (raw / file).unlink()
    # A bit that gzip itself does not check: in the time stamp of its header.
    (raw / file).write_bytes(whole[:4] + bytes([whole[4] ^ 1]) + whole[5:])
    with pytest.raises(DataError, match=f"{file} is damaged"):
        load_test(name, root=tmp_path)


def test_no_data_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def offline(*args: object, **options: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a mirror")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError) as caught:
        load_test("mnist", root=tmp_path / "data")
    for part in ("MNIST", "data/MNIST/raw", "BENCH_DATA", "--dataset digits"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
