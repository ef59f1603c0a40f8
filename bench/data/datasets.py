"""The data sets by name: shapes, classes and the field's usual radii. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.errors import unknown_name

VALIDATION = ":validation"  # after a data set's name: its held-out training images


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
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """Find a data set by its name; raises UsageError.

    ``mnist:validation`` has the last tenth of MNIST's training images, on which no network is
    trained, in place of the test set: recipes are chosen there.
    """
    base = trained_on(name)
    if base not in DATASETS:
        raise unknown_name("data set", base, DATASETS)
    info = DATASETS[base]
    return info if name == base else replace(info, name=name, test_images=info.held_out)


def trained_on(name: str) -> str:
    """Name the data set whose training images belong to a name."""
    return name.removesuffix(VALIDATION)
