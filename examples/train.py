"""Stands for your own trainings: writes linear.pth and denoiser.pth beside the examples.

python examples/train.py
"""

from collections.abc import Callable
from pathlib import Path

import torch
from classifier_with_weights import Linear
from purifier_with_weights import Denoiser
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

found = load_digits()  # of which bench tests on the last 500
x, y = (
    torch.tensor(found.images[:1000]).float()[:, None] / 16,
    torch.tensor(found.target[:1000]),
)


def train(net: nn.Module, loss: Callable[[Tensor], Tensor], *, noise: float) -> None:
    """Train on images with noise, and write the weights."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        loss(net(x + noise * torch.randn_like(x))).backward()
        optimizer.step()
    name = {Linear: "linear", Denoiser: "denoiser"}[type(net)]
    torch.save(net.state_dict(), Path(__file__).with_name(f"{name}.pth"))


torch.manual_seed(0)
train(Linear(), lambda logits: F.cross_entropy(logits, y), noise=0.0)
train(Denoiser(), lambda clean: F.mse_loss(clean, x), noise=0.2)
