"""Data sets with one fault each: the check for it fails, no other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from bench.testing import check_dataset

from .test_planted_others import failing

CALLS: list[int] = []


@dataclass(frozen=True)
class Noise:
    """Images of noise."""

    shape: ClassVar[Any] = (1, 4, 4)
    classes: ClassVar[Any] = 2
    test_images: ClassVar[int] = 20
    train_images: ClassVar[int] = 30

    def load(self, *, root: Path, train: bool) -> Any:
        n = 30 if train else 20
        return self.drawn(n, int(train)), np.arange(n) % 2

    def drawn(self, n: int, seed: int) -> Any:
        return np.random.default_rng(seed).random((n, 4, 4), dtype=np.float32)


class Flat(Noise):
    shape: ClassVar[Any] = [1, 4, 4]


class Countless(Noise):
    test_images: ClassVar[int] = 0


class Short(Noise):
    def drawn(self, n: int, seed: int) -> Any:
        return super().drawn(n, seed)[:, 1:]


class Classes(Noise):
    classes: ClassVar[Any] = 1


class Percent(Noise):
    def drawn(self, n: int, seed: int) -> Any:
        return 100 * super().drawn(n, seed)


class Gray(Noise):
    def drawn(self, n: int, seed: int) -> Any:
        return np.full((n, 4, 4), 0.5, np.float32) + 0 * seed


class Same(Noise):
    def drawn(self, n: int, seed: int) -> Any:
        return np.broadcast_to(super().drawn(1, seed), (n, 4, 4)).copy()


class Reshuffled(Noise):
    def drawn(self, n: int, seed: int) -> Any:
        CALLS.append(1)
        return super().drawn(n, 2 * len(CALLS) + seed)


class Leaking(Noise):
    def drawn(self, n: int, seed: int) -> Any:
        return super().drawn(n, 0)


DATASETS: dict[type[Any], tuple[str, str]] = {
    Flat: ("it says its shape and numbers", "(channels, height, width)"),
    Countless: ("it says its shape and numbers", "test_images"),
    Short: ("images and labels are as it says", "(20, 1, 3, 4)"),
    Classes: ("images and labels are as it says", "the label 1"),
    Percent: ("images and labels are as it says", "within [0, 1]"),
    Gray: ("images differ", "every pixel"),
    Same: ("images differ", "the same one"),
    Reshuffled: ("it is the same each time", "Sort file names"),
    Leaking: ("test images are no training images", "20 of 20"),
}


@pytest.mark.parametrize("cls", DATASETS, ids=lambda cls: cls.__name__)
def test_exactly_the_check_for_a_data_sets_fault_fails(cls: type[Any]) -> None:
    name, part = DATASETS[cls]
    wrong = failing("datasets", cls)
    assert name in wrong, wrong
    assert len(wrong) == 1 + (cls in (Gray,)), wrong  # gray images are those of the training
    assert part in wrong[name]


def test_a_good_data_set_passes() -> None:
    assert [one.state for one in check_dataset(Noise)] == ["ok"] * 6
