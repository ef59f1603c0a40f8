"""Load data sets: images in [0, 1] in their order, with the digest of all pixels and labels.

The test set is never trained on; the training set's last tenth is held out for validation.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.core.border import blamed
from bench.core.protocols import Images, Pixels
from bench.data import checks
from bench.data.arrays import digest, lazy, pixels_of
from bench.data.datasets import DATASETS, DatasetInfo, dataset_info
from bench.data.files import read_split, stamp
from bench.data.folders import FolderInfo, decoded, folder_info
from bench.data.given import given, is_given
from bench.data.names import (
    VALIDATION,
    corruption_of,
    file_of,
    folder_of,
    in_source,
    trained_on,
)
from bench.data.published import read_corrupted, read_published
from bench.errors import PluginError, UsageError
from bench.plugins.catalogue import build
from bench.plugins.files import load


def load_test(name: str, *, root: Path, first: int = 0) -> Pixels:
    """Load the images to test on; raises DataError where they are missing or damaged.

    The ``first`` images of a folder are decoded to see that they can be.
    """
    if name.endswith(VALIDATION):
        dataset_info(name)
        return _held_out(trained_on(name), root=root, stamp=_stamp(name))
    if is_given(name):
        return given(name)
    pixels = _load(name, train=False, root=root, stamp=_stamp(name))
    if isinstance(pixels.x, FolderRows):
        pixels.x.try_out(first)
    return pixels


def load_train(name: str, *, root: Path) -> tuple[Images, Images, str]:
    """Load the training set, its held-out last tenth, and its digest; raises BenchError."""
    require_training_images(name, what="a training")
    pixels = _load(name, train=True, root=root, stamp=_stamp(name))
    cut = len(pixels) - dataset_info(name).held_out
    return pixels.images(0, cut), pixels.images(cut, len(pixels)), pixels.digest


def digest_of_train(name: str, *, root: Path) -> str:
    """Return the digest of the training set, and keep no image of it; raises BenchError."""
    require_training_images(name, what="a training")
    return _digest_of_train(name, root=root, stamp=_stamp(name))


def require_training_images(name: str, *, what: str) -> DatasetInfo:
    """Describe a data set that ``what`` is to be trained on; raises UsageError."""
    info = dataset_info(name)
    if not info.held_out:
        raise UsageError(
            f"{what} needs images to train on, and {info.name} has none. Choose a classifier "
            "with weights (--classifier mine.py:make or torchvision:resnet18=weights.pth) and "
            "a defense that is not trained; an .npz file may have x_train and y_train."
        )
    return info


def _stamp(name: str) -> Hashable:
    """Tell one content of the user's files from the next, so that none is read from memory."""
    if path := file_of(name):
        return stamp(path)
    if folder := folder_of(name):
        return folder_info(folder).digest
    if path := in_source(name):
        return load(str(path)).digest
    return None


@functools.lru_cache(maxsize=16)
def _digest_of_train(name: str, *, root: Path, stamp: Hashable) -> str:  # noqa: ARG001 - as below
    return _read(name, train=True, root=root).digest


@functools.lru_cache(maxsize=4)
def _load(name: str, *, train: bool, root: Path, stamp: Hashable) -> Pixels:  # noqa: ARG001 - part of the cache's key
    return _read(name, train=train, root=root)


def _read(name: str, *, train: bool, root: Path) -> Pixels:
    if path := file_of(name):
        ends = ("_train'", "_train'") if train else ("'", "'")
        named = (f"'x{ends[0]} of {path}", f"'y{ends[1]} of {path}")
        return pixels_of(*read_split(path, train=train), named=named)
    if folder := folder_of(name):
        return _folder(folder_info(folder))
    if part := corruption_of(name):
        named = (f"x of {name}", f"y of {name}")
        return pixels_of(*read_corrupted(part, root=root), named=named)
    info = dataset_info(name)
    if name not in DATASETS:
        return _plugin(name, train=train, root=root)
    found = read_published(name, train=train, root=root)
    whole, y = torch.from_numpy(found[0].reshape(-1, *info.shape)), torch.from_numpy(found[1])
    return Pixels(whole, y, found[2], digest(whole, y))


@functools.lru_cache(maxsize=4)
def _held_out(name: str, *, root: Path, stamp: Hashable) -> Pixels:
    """Return the held-out training images, counted from 0 again."""
    pixels = _load(name, train=True, root=root, stamp=stamp)
    last = dataset_info(name).held_out
    x, y = pixels.x[-last:], pixels.y[-last:]
    return Pixels(x, y, pixels.top, digest(x, y))


def _plugin(name: str, *, train: bool, root: Path) -> Pixels:
    info = dataset_info(name)
    what = f"the data set '{name}'"
    with blamed(what):
        x, y = build("datasets", name, {}).load(root=root, train=train)
        pixels = pixels_of(x, y, named=(f"x of {what}", f"y of {what}"))
    wanted = (info.train_images if train else info.test_images, *info.shape)
    if tuple(pixels.x.shape) != wanted:
        raise PluginError(
            f"{what} loads images of the shape {tuple(pixels.x.shape)}, but declares {wanted}. "
            "Correct one of them."
        )
    if int(pixels.y.max()) >= info.classes:
        raise PluginError(
            f"{what} has the label {int(pixels.y.max())}, but declares {info.classes} classes. "
            "Correct one of them: labels count from 0."
        )
    return pixels


class FolderRows:
    """The images of a folder, decoded when they are asked for: bytes (N, C, H, W)."""

    def __init__(self, info: FolderInfo) -> None:
        self._info, self._tried = info, 0
        self.shape: checks.Shape = (len(info.files), *info.shape)

    def __getitem__(self, rows: slice) -> Tensor:
        files = self._info.files[rows]
        found = np.empty((len(files), *self._info.shape), np.uint8)
        for number, file in enumerate(files):
            found[number] = decoded(file, self._info)
        return torch.from_numpy(found)

    def try_out(self, first: int) -> None:
        """Decode the first images once, one by one; raises DataError where one cannot be."""
        for file in self._info.files[self._tried : first]:
            decoded(file, self._info)
        self._tried = max(self._tried, first)


def _folder(info: FolderInfo) -> Pixels:
    y = torch.tensor([file.label for file in info.files])
    return lazy(FolderRows(info), y, 255, info.digest)
