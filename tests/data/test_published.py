"""SVHN and CIFAR-10-C as they are distributed, on stand-ins of the same format."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.datasets import DATASETS, dataset_info
from bench.data.load import load_test, load_train
from bench.data.names import trained_on
from bench.data.published import find_files
from bench.errors import DataError, UsageError

SEVERITY = 10_000


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images in each split, with the checksums that torchvision would know."""
    import torchvision
    from scipy.io import savemat

    known = {}
    for split in ("train", "test"):
        x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
        y = np.arange(1, 21, dtype=np.uint8)[:, None] % 10 + 1  # 1 to 10: there is no 0
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": x, "y": y})
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        known[split] = ["http://nowhere.invalid", path.name, md5]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)
    small = replace(DATASETS["svhn"], train_images=20, test_images=20)
    monkeypatch.setitem(DATASETS, "svhn", small)
    return tmp_path


def test_svhn_is_that_of_torchvision(svhn: Path) -> None:
    from torchvision.datasets import SVHN

    theirs = SVHN(str(svhn), split="test")
    pixels = load_test("svhn", root=svhn)
    images = pixels.images(0, 20)
    assert np.array_equal((images.x * 255).round().byte(), theirs.data)
    assert images.y.tolist() == theirs.labels.tolist()
    assert 0 in images.y.tolist()
    assert load_train("svhn", root=svhn)[2] == pixels.digest, "the stand-ins are equal"
    assert DATASETS["svhn"].shape == (3, 32, 32)
    assert list(find_files("svhn", root=svhn)) == ["train_32x32.mat", "test_32x32.mat"]


def test_a_damaged_or_missing_svhn(svhn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    path = svhn / "test_32x32.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=r"test_32x32\.mat is damaged: its md5 is not"):
        load_test("svhn", root=svhn)
    with pytest.raises(DataError, match=r"test_32x32\.mat is damaged"):
        find_files("svhn", root=svhn)
    path.unlink()
    asked = []

    def offline(*args: object, **options: Any) -> None:
        asked.append(options)
        raise RuntimeError("no network")

    offline.split_list = torchvision.datasets.SVHN.split_list
    monkeypatch.setattr(torchvision.datasets, "SVHN", offline)
    with pytest.raises(DataError) as caught:
        load_test("svhn", root=svhn)
    for part in ("SVHN is not in", "no network", "test_32x32.mat", "--data"):
        assert part in str(caught.value)
    assert asked == [{"download": True, "split": "test"}], "and not the larger training split"


@pytest.fixture
def corrupted(tmp_path: Path) -> Path:
    """CIFAR-10-C with holes for most images: they take no room on the disk."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    for kind, first in (("fog", 10), ("snow", 20)):
        x = np.lib.format.open_memmap(
            folder / f"{kind}.npy", "w+", np.uint8, (5 * SEVERITY, 32, 32, 3)
        )
        for severity in range(1, 6):
            x[(severity - 1) * SEVERITY] = first + severity
            x[severity * SEVERITY - 1, 0, 1, 2] = 200 + severity
    np.save(folder / "labels.npy", np.tile(np.arange(SEVERITY, dtype=np.uint8) % 10, 5))
    return tmp_path


def test_a_severity_is_a_fifth_of_the_file(corrupted: Path) -> None:
    digests = set()
    for severity in (1, 3, 5):
        pixels = load_test(f"cifar10c:fog:{severity}", root=corrupted)
        assert len(pixels) == SEVERITY
        first, last = pixels.images(0, 1).x, pixels.images(SEVERITY - 1, SEVERITY).x
        assert torch.equal(first * 255, torch.full((1, 3, 32, 32), 10.0 + severity))
        assert last[0, 2, 0, 1] * 255 == 200 + severity, "channels first, rows before columns"
        assert pixels.y[:12].tolist() == [*range(10), 0, 1]
        digests.add(pixels.digest)
    assert len(digests) == 3
    info = dataset_info("cifar10c:fog:3")
    assert (info.name, info.shape, info.classes) == ("cifar10c:fog:3", (3, 32, 32), 10)
    assert trained_on("cifar10c:fog:3") == "cifar10", "its classifiers are those of CIFAR-10"


@pytest.mark.parametrize(
    "name",
    ["fog", "fog:0", "fog:6", "fog:3.0", "fog:", "", ":3", "fog:3:1", "../fog:3", "fog:03"],
)
def test_a_part_that_there_is_not(name: str) -> None:
    with pytest.raises(UsageError, match=r"KIND:SEVERITY with a severity of 1 to 5"):
        dataset_info(f"cifar10c:{name}")


def test_a_missing_or_damaged_kind(corrupted: Path) -> None:
    with pytest.raises(DataError, match=r"has no frost\.npy\. It has fog, snow\."):
        load_test("cifar10c:frost:1", root=corrupted)
    with pytest.raises(DataError, match=r"CIFAR-10-C is not in .*Download it .*--data"):
        load_test("cifar10c:fog:1", root=corrupted / "nowhere")
    with pytest.raises(UsageError, match="no training images, and so none to validate on"):
        dataset_info("cifar10c:fog:1:validation")
    folder = corrupted / "CIFAR-10-C"
    np.save(folder / "fog.npy", np.zeros((SEVERITY, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"fog\.npy has the shape \(10000, 32, 32, 3\), not"):
        load_test("cifar10c:fog:1", root=corrupted)
    (folder / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"cannot read .*labels\.npy .*No such file"):
        load_test("cifar10c:snow:1", root=corrupted)
    (folder / "fog.npy").write_bytes(b"\x80\x04N.")
    with pytest.raises(DataError, match=r"cannot read .*fog\.npy"):
        load_test("cifar10c:fog:1", root=corrupted)
