"""What a GPU does and a CPU does not: it works on by itself, runs out of memory, is lost."""

from __future__ import annotations

import torch

# CUDA's driver, cuDNN and cuBLAS each report lack of memory in words of their own, none of them
# as torch.OutOfMemoryError.
_NO_MEMORY = ("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was asked to: clocks read earlier show less."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the device is full: fewer rows may fit."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _NO_MEMORY)


def lost(error: BaseException) -> bool:
    """Whether an error may have cost the process its device: every later call would fail too.

    Such as an illegal address in a kernel, known by torch.AcceleratorError (torch >= 2.8).
    """
    kind = getattr(torch, "AcceleratorError", None)
    return kind is not None and isinstance(error, kind) and not lacks_memory(error)
