r"""A diffusion model of diffusers as a purifier (DiffPure): some noise, and the way back.

python examples/diffusers_pipeline.py   (after pip install diffusers and examples/train.py)
bench run --defense examples/diffusers_pipeline.py:DiffPure --attack apgd --eps 0.1 \
    --classifier examples/classifier_with_weights.py:classifier
"""

import torch
from classifier_with_weights import classifier
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from bench import api


class DiffPure:
    """Diffuse images to ``level`` of the 1,000 steps, and denoise them in ``steps`` steps."""

    def __init__(self, level: int = 100, steps: int = 2) -> None:
        self.level, self.steps = level, steps
        # Random weights; yours: UNet2DModel.from_pretrained("...").
        self.unet = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
            block_out_channels=(8, 8), norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )  # fmt: skip

    def purify(self, x: Tensor, *, generator: torch.Generator) -> Tensor:
        """Clean x (N, C, H, W) in [0, 1]; diffusion models work in [-1, 1]."""
        scheduler = DDPMScheduler()
        times = torch.linspace(self.level, self.level / self.steps, self.steps).long().tolist()
        scheduler.set_timesteps(timesteps=times)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        image = scheduler.add_noise(2 * x - 1, noise, torch.tensor([self.level]))
        for time in times:
            predicted = self.unet(image, time).sample
            image = scheduler.step(predicted, time, image, generator=generator).prev_sample
        return ((image + 1) / 2).clamp(0, 1)


if __name__ == "__main__":
    torch.manual_seed(0)
    settings = {"attack": {"steps": 3, "eot": 1}}
    print(
        api.evaluate(
            DiffPure(), classifier(), dataset="digits", access="full", eps="0.1", n=10,
            draws=5, settings=settings,
        )
    )  # fmt: skip
