"""The data sets by name: shapes, classes and the field's usual radii. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import unknown_name


@dataclass(frozen=True)
class DatasetInfo:
    """A data set: images (C, H, W), classes, its test set's size, one line for the listing."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    test_images: int
    summary: str


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "digits", (1, 8, 8), 10, 500, "scikit-learn's handwritten digits, embedded"
        ),
        DatasetInfo(
            "mnist", (1, 28, 28), 10, 10_000, "handwritten digits; usual Linf 0.3, L2 2"
        ),
        DatasetInfo(
            "fashion_mnist", (1, 28, 28), 10, 10_000, "clothes; usual Linf 0.1, L2 1.5"
        ),
        DatasetInfo("cifar10", (3, 32, 32), 10, 10_000, "objects; usual Linf 8/255, L2 0.5"),
        DatasetInfo("cifar100", (3, 32, 32), 100, 10_000, "objects; usual Linf 8/255, L2 0.5"),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """Look a data set up by name; raises UsageError."""
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name]
