"""Load data sets: images in [0, 1] in their published order, checksums verified.

The test set is never trained on; the training set's last tenth is held out for validation.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from pathlib import Path

import numpy as np
import torch

from bench.core.protocols import Images, Pixels
from bench.data.datasets import dataset_info, trained_on
from bench.errors import DataError, StoreError
from bench.results.locks import alone

_MNIST_FILES: dict[str, dict[str, str]] = {
    "MNIST": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
_TORCHVISION = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
_DIGITS_TEST = 500  # scikit-learn's set is not split: its last 500 images are the test set


def load_test(name: str, *, root: Path) -> Pixels:
    """Load the images to test on; raises DataError where they are missing or damaged."""
    if trained_on(name) == name:
        return _load(name, train=False, root=root)
    return _held_out(trained_on(name), root=root)


def load_train(name: str, *, root: Path) -> tuple[Images, Images, str]:
    """Load the training set, its held-out last tenth, and its digest; raises DataError."""
    pixels = _load(name, train=True, root=root)
    cut = len(pixels) - dataset_info(name).held_out
    return pixels.images(0, cut), pixels.images(cut, len(pixels)), pixels.digest


@functools.lru_cache(maxsize=4)
def _load(name: str, *, train: bool, root: Path) -> Pixels:
    info = dataset_info(name)
    if name == "digits":
        x, y, top = *_read_digits(train), 16
    elif name in ("mnist", "fashion_mnist"):
        x, y, top = *_read_mnist(_TORCHVISION[name], train, root), 255
    else:
        x, y, top = *_read_cifar(_TORCHVISION[name], train, root), 255
    images, labels = torch.from_numpy(x.reshape(-1, *info.shape)), torch.from_numpy(y)
    return Pixels(images, labels, top, _digest(x, y))


@functools.lru_cache(maxsize=4)
def _held_out(name: str, *, root: Path) -> Pixels:
    """Return the held-out training images, counted from 0 again."""
    pixels, last = _load(name, train=True, root=root), dataset_info(name).held_out
    x, y = pixels.x[-last:], pixels.y[-last:]
    return Pixels(x, y, pixels.top, _digest(x.numpy(), y.numpy()))


def _digest(x: np.ndarray, y: np.ndarray) -> str:
    return hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()


def _read_digits(train: bool) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    part = slice(None, -_DIGITS_TEST) if train else slice(-_DIGITS_TEST, None)
    return pixels[part].astype(np.uint8), labels[part].astype(np.int64)


def _read_mnist(folder: str, train: bool, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the published .gz files as they are: nothing to unpack, nothing to convert."""
    prefix = "train" if train else "t10k"
    names = [name for name in _MNIST_FILES[folder] if name.startswith(prefix)]
    if not all((root / folder / "raw" / name).is_file() for name in names):
        _download(folder, root)
    arrays = []
    for name in names:
        raw = gzip.decompress(_checked(root, folder, name))
        header = 4 + 4 * raw[3]  # the IDX format: a magic number, then a size per dimension
        arrays.append(np.frombuffer(raw, np.uint8, offset=header))
    images, labels = arrays
    return images.reshape(len(labels), -1).copy(), labels.astype(np.int64)


def _checked(root: Path, folder: str, name: str) -> bytes:
    path, md5 = root / folder / "raw" / name, _MNIST_FILES[folder][name]
    packed = _read_bytes(path)
    if hashlib.md5(packed).hexdigest() != md5:
        raise DataError(
            f"{path} is damaged: its md5 is not {md5}. Delete it and run the command again."
        )
    return packed


def _read_cifar(folder: str, train: bool, root: Path) -> tuple[np.ndarray, np.ndarray]:
    import torchvision

    kind = getattr(torchvision.datasets, folder)
    try:
        data = kind(str(root), train=train, download=False)
    except RuntimeError:  # torchvision's error for missing or damaged files
        _download(folder, root)
        data = kind(str(root), train=train, download=False)
    pixels = data.data.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels), np.asarray(data.targets, np.int64)


def find_files(name: str, *, root: Path) -> dict[str, str]:
    """Check a data set's files without downloading and return their md5 by name.

    Empty for one that needs no files; raises DataError where files are missing or damaged.
    """
    info = dataset_info(name)
    if info.name == "digits":
        return {}
    folder = _TORCHVISION[name]
    if folder in _MNIST_FILES:
        for file in _MNIST_FILES[folder]:
            _checked(root, folder, file)
        return dict(_MNIST_FILES[folder])
    import torchvision

    kind = getattr(torchvision.datasets, folder)
    files = [*kind.train_list, *kind.test_list]
    for file, md5 in files:
        path = root / kind.base_folder / file
        if hashlib.md5(_read_bytes(path)).hexdigest() != md5:
            raise DataError(
                f"{path} is damaged: its md5 is not {md5}. Delete it and run the command again."
            )
    return dict(files)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing. It is downloaded at first use where there is a network; "
            "--data or BENCH_DATA names another folder."
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Check its permissions."
        ) from error


def _download(folder: str, root: Path) -> None:
    import torchvision

    try:
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f".{folder}.download"):  # what another process fetched is kept
            getattr(torchvision.datasets, folder)(str(root), download=True)
    except (OSError, RuntimeError, StoreError) as error:
        raise DataError(
            f"{folder} is not in {root} and cannot be downloaded ({_first_line(error)}). Put "
            f"torchvision's files there (for MNIST: {root}/MNIST/raw/*.gz; for CIFAR-10: "
            f"{root}/cifar-10-batches-py), or name the folder that has them with --data or "
            "BENCH_DATA. Without any data, --dataset digits always works."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
