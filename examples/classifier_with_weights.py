r"""A classifier with weights from a file, under AutoPGD without and with a purifier.

python examples/train.py   (writes the weights; take your own file in its place)
python examples/classifier_with_weights.py
bench run --classifier examples/classifier_with_weights.py:classifier --defense none \
    --attack apgd --eps 0.1
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from bench import api


class Linear(nn.Module):
    """From images (N, 1, 8, 8) in [0, 1] to logits (N, 10); it normalizes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.fc((x.flatten(1) - 0.3) / 0.4)


def classifier() -> nn.Module:
    """Make the network and load its weights."""
    net = Linear()
    net.load_state_dict(torch.load(Path(__file__).with_name("linear.pth"), weights_only=True))
    return net


if __name__ == "__main__":
    for purifier in (None, "median"):
        print(api.evaluate(purifier, classifier(), dataset="digits", eps="0.1", n=50, draws=10))
