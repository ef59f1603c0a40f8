"""JPEG compression (Guo et al. 2018, section 3; Dziugaite et al. 2016).

Pillow's codec. torchvision's gives the same pixels and is 2.6 times as fast, but is deprecated
since 0.29 and will be removed; a differentiable approximation (kornia) is another function.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from bench.api import PluginError, Rng


@dataclass(frozen=True)
class Jpeg:
    """Write every image as a JPEG file of a quality and read it back."""

    quality: Annotated[int, Field(ge=1, le=100)] = 75

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "filters"
    source: ClassVar[str] = "Guo et al. 2018, arXiv 1711.00117"
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False  # rounds to 8 bits, and leaves torch

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return decoded images (N, C, H, W), gray or RGB; raises PluginError for other C."""
        if x.shape[1] not in (1, 3):
            raise PluginError(
                f"JPEG supports gray and RGB images; these have {x.shape[1]} channels. Use "
                "another defense for this data set."
            )
        pixels = (x.detach() * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
        decoded = np.stack([self._decoded(image) for image in pixels.numpy()])
        # Divided here: CUDA divides by a number through its reciprocal, which rounds otherwise.
        return (torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x.dtype) / 255).to(x.device)

    def _decoded(self, image: np.ndarray) -> np.ndarray:
        """Compress and read one image, uint8 (H, W, C)."""
        gray = image.shape[2] == 1  # Pillow wants these without the axis
        file = io.BytesIO()
        Image.fromarray(image[:, :, 0] if gray else image).save(
            file, "JPEG", quality=self.quality
        )
        return np.asarray(Image.open(file)).reshape(image.shape)
