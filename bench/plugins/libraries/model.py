"""What another library attacks in place of a network: the view of a defense."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access, Norm
from bench.errors import PluginError


class ViewModel(nn.Module):
    """A view as a module from images (M, C, H, W) to logits (M, K), the mean of ``draws``.

    Every call draws afresh, unless ``steady``. A row's noise belongs to its place in the call,
    since a library attacks subsets of its images, or many candidates at once, and does not say
    which. ``forward_rows`` and ``backward_rows`` count what was asked.
    """

    def __init__(
        self, view: View, x: Tensor, *, draws: int, rng: Rng, norm: Norm, steady: bool
    ) -> None:
        super().__init__()
        self.view, self.draws, self.rng, self.steady = view, draws, rng, steady
        # Libraries ask the first parameter for the device.
        self.device_of = nn.Parameter(x.new_empty(0), requires_grad=False)
        # Libraries divide an L2 gradient by its length; of a Linf one they take the sign.
        self.infinite = 0.0 if norm is Norm.L2 else None
        self.calls = self.forward_rows = self.backward_rows = 0
        self.pixels = 0
        self.lost: Tensor | int = 0  # pixels without a gradient, counted on the device
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits with the gradient that the view's access grants."""
        x = x.to(self.device_of)  # a library may hand in float64
        streams = self.rng if self.steady else self.rng.fork("call", self.calls)
        self.calls += 1
        self.forward_rows += len(x)
        if len(x) > len(streams):  # many candidates of an image
            streams = streams.repeat(-(-len(x) // len(streams)))
        differentiated = x.requires_grad and torch.is_grad_enabled()
        if differentiated:
            x = x.view_as(x)  # so that the hook is that of this call
            x.register_hook(self._finite)  # type: ignore[no-untyped-call]  # torch's has no types
        logits = self.view(x, rng=streams[: len(x)].repeat(self.draws))
        access = self.view.access
        if differentiated and not logits.requires_grad and access is not Access.QUERY:
            raise PluginError(
                f"no gradient passes the defense under {access} access: a purifier or "
                "classifier detaches its images, or runs under no_grad. Let gradients pass, or "
                "set `differentiable = False` and attack with --access bpda."
            )
        if self.draws == 1:
            return logits
        return logits.reshape(len(x), self.draws, -1).mean(1)

    def _finite(self, gradient: Tensor) -> Tensor:
        self.backward_rows += len(gradient)
        self.pixels += gradient.numel()
        self.lost = self.lost + (~gradient.isfinite()).sum()
        return gradient.nan_to_num(nan=0.0, posinf=self.infinite, neginf=self.infinite)

    def share_lost(self) -> float:
        """Return the share of the pixels of all gradients that were NaN or infinite."""
        return float(self.lost) / max(1, self.pixels)
