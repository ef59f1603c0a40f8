"""PluginName, a data set. Replace the inside of load by your own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PluginName:
    """Bars on a noisy ground: class 0 is horizontal, class 1 vertical."""

    shape: ClassVar[tuple[int, int, int]] = (1, 16, 16)  # channels, height, width
    classes: ClassVar[int] = 2
    train_images: ClassVar[int] = 400  # 0: without any, nothing can be trained on it
    test_images: ClassVar[int] = 200

    def load(self, *, root: Path, train: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Read images (N, H, W) or (N, C, H, W), bytes or floats in [0, 1], and labels (N,).

        ``root`` is the folder of data sets (--data), for files of your own.
        """
        n = self.train_images if train else self.test_images
        rng = np.random.default_rng(int(train))  # the same images each time
        x = rng.integers(0, 100, (n, *self.shape), dtype=np.uint8)
        y = rng.integers(0, self.classes, n)
        for image, label, place in zip(x, y, rng.integers(0, 16, n), strict=True):
            bar = image[0, place, :] if label == 0 else image[0, :, place]
            bar[:] = 255
        return x, y
