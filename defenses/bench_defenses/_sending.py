"""What a training draws on the host reaches a device by one copy an iteration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sent(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Bring tensors of the host to a device; those of larger types come first.

    A GPU gets them as one pinned block, so that the host does not wait for it.
    """
    if device.type == "cpu":
        return list(parts)
    block = torch.cat([part.contiguous().flatten().view(torch.uint8) for part in parts])
    if device.type == "cuda":
        block = block.pin_memory()
    block = block.to(device, non_blocking=True)
    lengths = [part.numel() * part.element_size() for part in parts]
    return [
        piece.view(part.dtype).reshape(part.shape)
        for piece, part in zip(torch.split_with_sizes(block, lengths), parts, strict=True)
    ]
