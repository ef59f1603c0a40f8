"""Non-local means (Buades et al. 2005), as a defense in Xu et al. 2018, section III-B.

scikit-image: a compiled loop per image on the CPU, the only library found that has the method
for any number of channels (OpenCV's works only on 8-bit images).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench.api import Rng


@dataclass(frozen=True)
class NlMeans:
    """Average every pixel with those whose surroundings look alike.

    Patches of ``patch`` pixels are compared within ``distance`` pixels; ``strength`` is the
    difference, in the pixel range [0, 1], at which a pixel stops counting. The windows are Xu
    et al.'s (3 and 11 across); their strength, 4/255, is too weak for 8/255.
    """

    patch: Annotated[int, Field(ge=1)] = 3
    distance: Annotated[int, Field(ge=1)] = 5
    strength: Annotated[float, Field(gt=0)] = 0.1

    revision: ClassVar[int] = 1
    kind: ClassVar[str] = "filters"
    source: ClassVar[str] = "Xu, Evans and Qi 2018, Feature Squeezing, arXiv 1704.01155"
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False  # leaves torch

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return smoothed images (N, C, H, W), computed in float64 on the CPU."""
        from skimage.restoration import denoise_nl_means

        images = x.detach().cpu().double().permute(0, 2, 3, 1).numpy()
        smooth = [
            denoise_nl_means(
                image,
                patch_size=self.patch,
                patch_distance=self.distance,
                h=self.strength,
                channel_axis=-1,
            )
            for image in images
        ]
        # scikit-image drops the axis of a single channel. An average of pixels is in the box;
        # its rounding need not be.
        cleaned = torch.from_numpy(np.stack(smooth).reshape(images.shape))
        return cleaned.permute(0, 3, 1, 2).clamp(0, 1).to(x)
