r"""A purifier with weights from a file: a denoiser before the classifier of the other example.

python examples/train.py   (writes the weights; take your own file in its place)
python examples/purifier_with_weights.py
bench run --defense examples/purifier_with_weights.py:purifier --attack apgd --eps 0.1 \
    --classifier examples/classifier_with_weights.py:classifier
"""

from pathlib import Path

import torch
from classifier_with_weights import classifier
from torch import Tensor, nn

from bench import api


class Denoiser(nn.Module):
    """From images (N, 1, 8, 8) to cleaner ones of the same shape, in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv2d(1, 8, 3, padding=1)
        self.back = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images without what the network takes for noise."""
        return (x + self.back(self.into(x).relu())).clamp(0, 1)


def purifier() -> nn.Module:
    """Make the network and load its weights."""
    net = Denoiser()
    net.load_state_dict(torch.load(Path(__file__).with_name("denoiser.pth"), weights_only=True))
    return net


if __name__ == "__main__":
    row = api.evaluate(
        purifier(), classifier(), dataset="digits", attack="apgd", access="full", eps="0.1",
        n=50,
    )  # fmt: skip
    print(row)
    row.show([0, 1, 2, 3]).save("denoiser.png")
