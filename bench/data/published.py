"""Published data sets as they are distributed: files by checksum, arrays in their order."""

from __future__ import annotations

import gzip
import hashlib
import io
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.names import VALIDATION, Corruption
from bench.errors import DataError, StoreError
from bench.results.locks import alone

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

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
    "svhn": "SVHN",
}
_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_DEFAULT_ROOT = Path("data")
_DIGITS_TEST = 500  # scikit-learn's set is not split: its last 500 images are the test set
_AT_ONCE = 2**20  # bytes unpacked at a time
_SEVERITY = 10_000  # images of CIFAR-10-C for each of its 5 severities


def read_published(name: str, *, train: bool, root: Path) -> tuple[Array, Array, int]:
    """Read a split of a published data set: images in any shape, labels, and what is white.

    Raises DataError where files are missing or damaged.
    """
    if name == "digits":
        return *_read_digits(train), 16
    if name in ("mnist", "fashion_mnist"):
        return *_read_mnist(_TORCHVISION[name], train, root), 255
    if name == "svhn":
        return *_read_svhn(train, root), 255
    return *_read_cifar(_TORCHVISION[name], train, root), 255


def read_corrupted(part: Corruption, *, root: Path) -> tuple[Array, Array]:
    """Map a fifth of a file of CIFAR-10-C: images (N, H, W, C) and labels; raises DataError."""
    folder = root / "CIFAR-10-C"
    kinds = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    if not kinds:
        raise DataError(
            f"CIFAR-10-C is not in {root}. Download it (https://zenodo.org/records/2535967), "
            f"unpack it to {folder}/fog.npy and so on, or name the folder that has it with "
            "--data or BENCH_DATA."
        )
    if part.kind not in kinds:
        raise DataError(f"{folder} has no {part.kind}.npy. It has {', '.join(kinds)}.")
    import numpy as np

    rows = slice((part.severity - 1) * _SEVERITY, part.severity * _SEVERITY)
    found = []
    for file, one in ((f"{part.kind}.npy", (32, 32, 3)), ("labels.npy", ())):
        path, whole = folder / file, (5 * _SEVERITY, *one)
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"cannot read {path} ({_first_line(error)}). Restore it."
            ) from error
        if array.shape != whole:
            raise DataError(f"{path} has the shape {array.shape}, not {whole}. Restore it.")
        found.append(array[rows])
    return found[0], found[1]


def _read_digits(train: bool) -> tuple[Array, Array]:
    pixels, labels = _digits()
    part = slice(None, -_DIGITS_TEST) if train else slice(-_DIGITS_TEST, None)
    return pixels[part].astype("uint8"), labels[part].astype("int64")


def _digits() -> tuple[Array, Array]:
    """Read scikit-learn's file; to import scikit-learn for that takes more than a second."""
    found = find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():  # a scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return pixels, labels
    import numpy as np

    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1], table[:, -1]


def _read_mnist(folder: str, train: bool, root: Path) -> tuple[Array, Array]:
    """Read the published .gz files as they are: nothing to unpack, nothing to convert."""
    prefix = "train" if train else "t10k"
    names = [name for name in _MNIST_FILES[folder] if name.startswith(prefix)]
    if not all((root / folder / "raw" / name).is_file() for name in names):
        _download(folder, root)
    images, labels = (
        _read_idx(_checked(root / folder / "raw" / name, _MNIST_FILES[folder][name]))
        for name in names
    )
    return images.reshape(len(labels), -1), labels.astype("int64")


def _read_idx(packed: bytes) -> Array:
    """Unpack bytes of the IDX format to their place, without a second copy of them all."""
    import numpy as np

    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        dimensions = file.read(4)[3]  # after a magic number a size per dimension
        sizes = np.frombuffer(file.read(4 * dimensions), ">u4")
        found = np.empty(int(sizes.prod(dtype="int64")), "uint8")
        for start in range(0, len(found), _AT_ONCE):
            file.readinto(found[start : start + _AT_ONCE].data)
    return found


def _checked(path: Path, md5: str) -> bytes:
    packed = _read_bytes(path)
    if hashlib.md5(packed).hexdigest() != md5:
        raise DataError(
            f"{path} is damaged: its md5 is not {md5}. Delete it and run the command again."
        )
    return packed


def _read_cifar(folder: str, train: bool, root: Path) -> tuple[Array, Array]:
    import numpy as np
    import torchvision

    kind = getattr(torchvision.datasets, folder)
    try:
        data = kind(str(root), train=train, download=False)
    except RuntimeError:  # torchvision's error for missing or damaged files
        _download(folder, root)
        data = kind(str(root), train=train, download=False)
    pixels = data.data.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels), np.asarray(data.targets, "int64")


def _read_svhn(train: bool, root: Path) -> tuple[Array, Array]:
    import numpy as np
    import scipy.io
    import torchvision

    split = "train" if train else "test"
    _, file, md5 = torchvision.datasets.SVHN.split_list[split]
    path = root / file
    if not path.is_file():
        _download("SVHN", root, split=split)
    with io.BytesIO(_checked(path, md5)) as packed:
        found = scipy.io.loadmat(packed)
    labels = found["y"].astype("int64").ravel() % 10  # the digit 0 is called 10 there
    return np.ascontiguousarray(found["X"].transpose(3, 2, 0, 1)), labels


def files_of(name: str, *, root: Path) -> list[Path] | None:
    """List the files that a data set is read from, there or not; None for one of the user's.

    None of scikit-learn's own.
    """
    base = name.removesuffix(VALIDATION)
    if base == "digits":
        return []
    folder = _TORCHVISION.get(base)
    if folder in _MNIST_FILES:
        return [root / folder / "raw" / file for file in _MNIST_FILES[folder]]
    if base == "svhn":
        return [root / f"{part}_32x32.mat" for part in ("train", "test")]
    if folder is None:
        return None
    return sorted(path for path in (root / _FOLDERS[base]).glob("*") if path.is_file()) or None


def find_files(name: str, *, root: Path) -> dict[str, str]:
    """Check a data set's files without downloading and return their md5 by name.

    Empty for one that needs no files; raises DataError where files are missing or damaged.
    """
    if name == "digits":
        return {}
    folder = _TORCHVISION[name]
    if folder in _MNIST_FILES:
        files = [
            (root / folder / "raw" / name, md5) for name, md5 in _MNIST_FILES[folder].items()
        ]
    else:
        import torchvision

        kind = getattr(torchvision.datasets, folder)
        if folder == "SVHN":
            parts = [kind.split_list[part] for part in ("train", "test")]
            files = [(root / file, md5) for _, file, md5 in parts]
        else:
            parts = [*kind.train_list, *kind.test_list]
            files = [(root / kind.base_folder / file, md5) for file, md5 in parts]
    for path, md5 in files:
        _checked(path, md5)
    return {path.name: md5 for path, md5 in files}


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


def _download(folder: str, root: Path, **which: Any) -> None:
    """Download a data set, into a folder that a user named only where it exists."""
    import torchvision

    if root.is_file():
        raise DataError(
            f"{root} is a file. Name the folder of the data sets with --data or BENCH_DATA."
        )
    if not root.is_dir() and root.absolute() != _DEFAULT_ROOT.absolute():
        raise DataError(
            f"there is no folder {root}, in which {folder} is looked for. Name the folder that "
            "has the data sets with --data or BENCH_DATA, or make that one, to download them: "
            f"mkdir -p {root}"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f".{folder}.download"):  # what another process fetched is kept
            getattr(torchvision.datasets, folder)(str(root), download=True, **which)
    except (OSError, RuntimeError, StoreError) as error:
        raise DataError(
            f"{folder} is not in {root} and cannot be downloaded ({_first_line(error)}). Put "
            f"torchvision's files there (for MNIST: {root}/MNIST/raw/*.gz; for CIFAR-10: "
            f"{root}/cifar-10-batches-py; for SVHN: {root}/test_32x32.mat), or name the folder "
            "that has them with --data or BENCH_DATA. Without any data, --dataset digits "
            "always works."
        ) from error
    finally:
        for empty in (root / folder / "raw", root / folder, root):  # of a failed download
            with suppress(OSError):
                empty.rmdir()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
