"""The data sets: shapes, classes and the field's usual radii. Imports no torch.

Some have names: those that ship, those of plugins, the parts of CIFAR-10-C. The others are the
user's files and folders (``bench.data.names``).
"""

from __future__ import annotations

import functools
import inspect
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from bench.data.given import given, is_given
from bench.data.names import VALIDATION, cell_name, corruption_of, file_of, folder_of, in_source
from bench.errors import PluginError, UsageError, unknown_name
from bench.plugins.catalogue import blocked, build, catalogue


@dataclass(frozen=True)
class DatasetInfo:
    """A data set: images (C, H, W), classes, its sizes, one line for the listing."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    train_images: int
    test_images: int
    summary: str

    @property
    def held_out(self) -> int:
        """Count the training images that nothing is trained on: the last tenth."""
        return self.train_images // 10


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "digits", (1, 8, 8), 10, 1297, 500, "scikit-learn's handwritten digits, embedded"
        ),
        DatasetInfo(
            "mnist", (1, 28, 28), 10, 60_000, 10_000, "handwritten digits; usual Linf 0.3, L2 2"
        ),
        DatasetInfo(
            "fashion_mnist", (1, 28, 28), 10, 60_000, 10_000, "clothes; usual Linf 0.1, L2 1.5"
        ),
        DatasetInfo(
            "cifar10", (3, 32, 32), 10, 50_000, 10_000, "objects; usual Linf 8/255, L2 0.5"
        ),
        DatasetInfo(
            "cifar100", (3, 32, 32), 100, 50_000, 10_000, "objects; usual Linf 8/255, L2 0.5"
        ),
        DatasetInfo(
            "svhn", (3, 32, 32), 10, 73_257, 26_032, "house numbers; usual Linf 8/255, L2 0.5"
        ),
    )
}
# What a listing says of data sets that have no name of their own.
OTHERS = {
    "cifar10c:KIND:SEVERITY": "CIFAR-10 with one of the corruptions of CIFAR-10-C, at 1 to 5",
    "file.py:NAME": "a class in a file of yours: `bench new dataset NAME` writes one",
    "file.npz": "your images x and labels y; x_train and y_train where a training is meant",
    "folder:PATH": "your images, a folder for each class",
}


def dataset_info(name: str) -> DatasetInfo:
    """Find a data set by its name or path; raises BenchError where it is none.

    ``mnist:validation`` has the last tenth of MNIST's training images, on which no network is
    trained, in place of the test set: recipes are chosen there.
    """
    base = name.removesuffix(VALIDATION)
    info = _info(base)
    if base == name:
        return info
    if not info.held_out:
        raise UsageError(f"{info.name} has no training images, and so none to validate on.")
    return replace(info, name=cell_name(name), test_images=info.held_out)


def held_out(name: str) -> str:
    """Name the held-out images of a data set; the data set itself where it has none."""
    is_own = name.endswith(VALIDATION) or not dataset_info(name).held_out
    return name if is_own else f"{name}{VALIDATION}"


def first_images(*names: str) -> int:
    """Count the images of a run on these data sets that says no number.

    `digits` shows the program and concludes nothing: it takes less.
    """
    return 200 if set(names) == {"digits"} else 500


def check_known(name: str) -> str:
    """Return what results call a data set, without opening its files; raises UsageError."""
    base = name.removesuffix(VALIDATION)
    own = is_given(base) or file_of(name) or folder_of(base)
    if not (own or corruption_of(base) or base in DATASETS):
        _plugin(base)
    return cell_name(name)


def _info(base: str) -> DatasetInfo:
    known = cell_name(base)
    if path := file_of(base):
        from bench.data.files import file_info

        file = file_info(path)
        numbers = file.train_images, file.test_images
        return DatasetInfo(known, file.shape, file.classes, *numbers, str(path))
    if folder := folder_of(base):
        from bench.data.folders import folder_info

        found = folder_info(folder)
        numbers = 0, len(found.files)
        return DatasetInfo(known, found.shape, found.classes, *numbers, str(folder.path))
    if is_given(base):
        pixels = given(base)
        _, c, h, w = pixels.x.shape
        classes = int(pixels.y.max()) + 1
        return DatasetInfo(known, (c, h, w), classes, 0, len(pixels), "a script's own images")
    if corruption_of(base):
        return DatasetInfo(known, (3, 32, 32), 10, 0, 10_000, OTHERS["cifar10c:KIND:SEVERITY"])
    if base not in DATASETS:
        return _plugin(base)
    if base in _claimed(tuple(sys.path)):
        raise PluginError(
            f"the data set '{base}' is one that ships, and a plugin has the same name. "
            "Uninstall that plugin or rename its entry point."
        )
    return DATASETS[base]


@functools.cache  # a plan asks for the same names again and again
def _claimed(_path: tuple[str, ...]) -> frozenset[str]:
    """Name the data sets of plugins."""
    return frozenset({*catalogue("datasets"), *blocked("datasets")})


def _plugin(name: str) -> DatasetInfo:
    """Read what a plugin says of its data set; raises BenchError."""
    known = in_source(name) or name in catalogue("datasets") or name in blocked("datasets")
    if not known:
        if Path(name).is_dir():
            raise UsageError(
                f"'{name}' is a folder. Write --dataset folder:{name} for its images."
            )
        raise unknown_name("data set", name, {*DATASETS, *catalogue("datasets"), *OTHERS})
    made = build("datasets", name, {})
    shape, train = made.shape, getattr(made, "train_images", 0)
    numbers = (made.classes, train, made.test_images)
    if not (isinstance(shape, tuple) and len(shape) == 3 and all(map(_is_count, shape))):
        fault = f"its shape is {shape!r}, not (channels, height, width)"
    elif not (_is_count(made.classes) and _is_count(made.test_images)):
        fault = f"classes is {made.classes!r} and test_images {made.test_images!r}, not counts"
    elif train != 0 and not _is_count(train):
        fault = f"train_images is {train!r}, not a count"
    else:
        line = (inspect.getdoc(type(made)) or "").partition("\n")[0]
        return DatasetInfo(cell_name(name), shape, *numbers, line)
    raise PluginError(
        f"the data set '{name}': {fault}. See 'Add a data set' in docs/plugins.md."
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0
