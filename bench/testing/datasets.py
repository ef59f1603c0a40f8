"""The contract of a data set: images in [0, 1] and labels, the same each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.protocols import Pixels
from bench.data.arrays import pixels_of
from bench.data.datasets import DatasetInfo, dataset_info
from bench.data.load import load_test, load_train
from bench.plugins.catalogue import catalogue
from bench.plugins.names import parsed
from bench.testing.outcome import Check, Fails, NotApplicable
from bench.testing.things import label_of, made

_LEAK = 0.1  # of the test images: published sets have a few that are training images, too
_LOOKED_AT = 10_000  # test images that are looked for among the training images
_NAMES = {False: "test", True: "training"}


@dataclass(frozen=True)
class DatasetSubject:
    """What a data set says of itself, and how its images (``train`` or not) are read."""

    label: str
    info: DatasetInfo
    read: Callable[[bool], Pixels]

    def count(self, train: bool) -> int:
        """Say how many images there should be."""
        return self.info.train_images if train else self.info.test_images

    def splits(self) -> list[bool]:
        """List what there is: False for test images, True for training images."""
        return [False, True] if self.info.train_images else [False]


def dataset_subject(
    thing: object, *, data: Path, settings: Mapping[str, Any]
) -> DatasetSubject:
    """Find a data set by its name, or make it of a plugin; raises BenchError."""
    if isinstance(thing, str) and not parsed(thing) and thing not in catalogue("datasets"):
        info = dataset_info(thing)

        def named(train: bool) -> Pixels:
            if not train:
                return load_test(thing, root=data)
            found, held_out, digest = load_train(thing, root=data)
            return Pixels(found.x, found.y, 1, f"{digest} {len(held_out)}")

        # What is held out is not among the images that a training gets.
        given = info.train_images - info.held_out
        kept = DatasetInfo(
            info.name, info.shape, info.classes, given, info.test_images, info.summary
        )
        return DatasetSubject(label_of(thing), kept, named)
    plugin = made("datasets", thing, dataset="", settings=settings)
    label = label_of(thing)
    info = DatasetInfo(
        label, plugin.shape, plugin.classes, getattr(plugin, "train_images", 0),
        plugin.test_images, "",
    )  # fmt: skip

    def read(train: bool) -> Pixels:
        x, y = plugin.load(root=data, train=train)
        return pixels_of(x, y, named=(f"x of {label}", f"y of {label}"))

    return DatasetSubject(label, info, read)


def says_what_it_has(subject: DatasetSubject) -> None:
    """Look at the shape and the numbers that it declares."""
    info = subject.info
    shape = info.shape
    if not (isinstance(shape, tuple) and len(shape) == 3 and all(map(_is_count, shape))):
        raise Fails(
            "shape to be (channels, height, width)", found=repr(shape), remedy="Correct it."
        )
    counts = {"classes": info.classes, "test_images": info.test_images}
    if info.train_images != 0:
        counts["train_images"] = info.train_images
    for name, value in counts.items():
        if not _is_count(value):
            raise Fails(
                f"{name} to be a whole number above 0", found=repr(value), remedy="Correct it."
            )


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def has_what_it_says(subject: DatasetSubject) -> None:
    """Compare what is loaded with what is declared: pixels and labels are looked at, too."""
    for train in subject.splits():
        found, wanted = subject.read(train), (subject.count(train), *subject.info.shape)
        if tuple(found.x.shape) != wanted:
            raise Fails(
                f"{_NAMES[train]} images {wanted}, as it declares",
                found=f"{tuple(found.x.shape)}",
                remedy="Correct load or what is declared.",
            )
        most = int(found.y.max())
        if most >= subject.info.classes:
            raise Fails(
                f"labels from 0 to {subject.info.classes - 1}, as it declares",
                found=f"the label {most} among the {_NAMES[train]} images",
                remedy="Count classes from 0, or declare more.",
            )


def images_are_images(subject: DatasetSubject) -> None:
    """Look whether pixels differ, and whether images do."""
    x = subject.read(False).images(0, min(subject.info.test_images, 100)).x
    if float(x.max()) == float(x.min()):
        raise Fails(
            "images of more than one gray",
            found=f"{float(x.max()):.3g} in every pixel of the first {len(x)}",
            remedy="Look at how load reads and scales them.",
        )
    if len(x) > 1 and bool((x == x[:1]).all()):
        raise Fails(
            "images that differ",
            found=f"the same one {len(x)} times",
            remedy="Look at how load reads them.",
        )


def the_same_each_time(subject: DatasetSubject) -> None:
    """Load it twice and compare the digests."""
    for train in subject.splits():
        if subject.read(train).digest != subject.read(train).digest:
            raise Fails(
                f"the same {_NAMES[train]} images and labels, in the same order, each time",
                found="others the second time",
                remedy="Sort file names, and shuffle or draw with a seed of its own only.",
            )


def test_images_are_new(subject: DatasetSubject) -> None:
    """Look for test images among the training images."""
    if not subject.info.train_images:
        raise NotApplicable("it has no training images")
    train = subject.read(True)
    known = {hash(row.tobytes()) for row in _rows(train, len(train))}
    looked = _rows(subject.read(False), min(subject.info.test_images, _LOOKED_AT))
    seen = sum(hash(row.tobytes()) in known for row in looked)
    if seen > _LEAK * len(looked):
        raise Fails(
            "test images on which nothing was trained",
            found=f"that {seen} of {len(looked)} are training images",
            remedy="Split the images before they are loaded.",
        )


def _rows(pixels: Pixels, n: int) -> Any:
    return pixels.images(0, n).x.numpy()


DATASETS: tuple[Check[DatasetSubject], ...] = (
    Check("it says its shape and numbers", says_what_it_has, needed=True),
    Check("images and labels are as it says", has_what_it_says, needed=True),
    Check("images differ", images_are_images),
    Check("it is the same each time", the_same_each_time),
    Check("test images are no training images", test_images_are_new),
)
