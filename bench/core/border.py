"""The border to plugins: what they return is checked where it comes in, in one sentence.

Nothing here waits for the device: what has to look at values, such as NaN and the range, is
checked by the judge, which waits for its votes anyway.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core.device import lacks_memory, lost
from bench.core.protocols import Purifier, SharingPurifier, fits
from bench.core.rng import Rng
from bench.errors import BenchError, PluginError

DETACHED = (
    "a purifier or classifier detaches its images, or runs under no_grad. Let gradients pass, "
    "or set `differentiable = False` and attack with --access bpda."
)
# Networks that were found not to run channels last; they run as their authors wrote them.
_contiguous: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def logits_of(classifier: nn.Module, x: Tensor) -> Tensor:
    """Return a classifier's logits (N, K) of x (N, C, H, W), cast to the type of x.

    Raises PluginError where it returns anything else.
    """
    name = f"the classifier {type(classifier).__name__}"
    with blamed(name):
        found = _laid_out(classifier, lambda plain: classifier(x.contiguous() if plain else x))
    if not isinstance(found, Tensor):
        raise PluginError(
            f"{name} returned {_article(found)}, not logits. Wrap it so that it returns one "
            "tensor (N, K)."
        )
    if found.dim() != 2 or len(found) != len(x):
        raise PluginError(
            f"{name} returned shape {tuple(found.shape)} for {len(x)} images. Logits have "
            "shape (N, K): one row for each image, one column for each class."
        )
    return _cast(found, x, f"{name} returned")


def purified(purifier: Purifier, x: Tensor, *, rng: Rng) -> Tensor:
    """Clean x (N, C, H, W) once per stream of rng (N * draws), draws side by side.

    The purifier gets a copy, into which it may write; what it returns is cast to the type of
    x. Raises PluginError where it returns anything but images of the same shape.
    """
    draws = _draws(x, rng)

    def call(plain: bool) -> Tensor:
        # In the layout of the images, whatever network they came out of.
        images = x.contiguous() if plain else x
        if draws > 1 and fits(purifier, SharingPurifier):
            return purifier.purify_draws(images.clone(), rng=rng)
        rows = images.repeat_interleave(draws, dim=0) if draws > 1 else images.clone()
        return purifier.purify(rows, rng=rng)

    name = f"the purifier {type(purifier).__name__}"
    with blamed(name):
        found = _laid_out(purifier, call) if isinstance(purifier, nn.Module) else call(False)
    return images_like(found, x, rows=len(rng), whose=name)


def images_like(found: object, x: Tensor, *, rows: int, whose: str) -> Tensor:
    """Check images (rows, C, H, W) that a plugin made of x, and cast them to the type of x."""
    if not isinstance(found, Tensor):
        raise PluginError(
            f"{whose} returned {_article(found)}, not images. Return one tensor (N, C, H, W)."
        )
    expected = (rows, *x.shape[1:])
    if found.shape != expected:
        raise PluginError(
            f"{whose} returned shape {tuple(found.shape)} for images {expected}. Return one "
            "image of the same shape for each."
        )
    return _cast(found, x, f"{whose} returned images of")


def plain_images(found: object, x: Tensor, *, rows: int, whose: str) -> Tensor:
    """Check images as ``images_like``, and return them as a tensor of no other class.

    A subclass might answer for itself: what is compared and stored are its numbers.
    """
    with torch._C.DisableTorchFunctionSubclass():
        if isinstance(found, Tensor) and type(found) is not Tensor:
            found = found.detach().as_subclass(Tensor)
        return images_like(found, x, rows=rows, whose=whose).detach()


def _draws(x: Tensor, rng: Rng) -> int:
    draws, rest = divmod(len(rng), max(1, len(x)))
    if rest or draws < 1 <= len(x):
        raise PluginError(
            f"{len(rng)} streams of random numbers for {len(x)} images. Give a purifier "
            "one per image, or as many for each: see Rng.repeat."
        )
    return draws


def _cast(found: Tensor, x: Tensor, said: str) -> Tensor:
    if not found.is_floating_point():
        raise PluginError(
            f"{said} type {str(found.dtype).removeprefix('torch.')}. Return floating-point "
            "numbers; images are in [0, 1]."
        )
    if found.device != x.device:
        raise PluginError(f"{said} device {found.device} for images on {x.device}.")
    return found.to(x.dtype)


def _article(found: object) -> str:
    name = type(found).__name__
    article = "an" if name[0] in "aeiou" else "a"
    return "nothing (None)" if found is None else f"{article} {name}"


def _laid_out(network: nn.Module, call: Callable[[bool], Tensor]) -> Tensor:
    """Call a network channels last, or as it was written where it cannot run like that."""
    if network in _contiguous:
        return call(True)
    try:
        return call(False)
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
    network.to(memory_format=torch.contiguous_format)
    _contiguous.add(network)
    return call(True)


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """Name the plugin in what its code raises; lack of memory and our own errors stay."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, BenchError) or lacks_memory(error) or lost(error):
            raise
        if "does not have a grad_fn" in str(error):  # who asked for a gradient is not to blame
            raise PluginError(f"no gradient passes the defense: {DETACHED}") from error
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            f"{name} failed: {type(error).__name__}: {error} "
            f"({Path(where.filename).name}:{where.lineno}). Run with --debug to see more."
        ) from error
