"""Which purifiers have a certificate: those that begin with Gaussian noise of a known size."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from bench.errors import PluginError
from bench.plugins.as_defense import HeldPurifier


@runtime_checkable
class CertifiedPurifier(Protocol):
    """A purifier that adds Gaussian noise to its images before it does anything else.

    What follows may be any map, also a random one, that sees the noisy image only. A plugin
    that is trained says so itself, not only the purifier that it loads.
    """

    def certified_noise(self) -> float | None:
        """Return the noise's deviation in pixels of [0, 1]; None where it has another form."""
        ...


def noise_of(defense: object, *, name: str) -> float | None:
    """Return the deviation of the noise that a purifier begins with; raises PluginError.

    None where it does not say that it begins with Gaussian noise.
    """
    one = defense.held if isinstance(defense, HeldPurifier) else defense
    if not isinstance(one, CertifiedPurifier):
        return None
    found = one.certified_noise()
    if found is None:
        return None
    if not (isinstance(found, int | float) and math.isfinite(found) and found > 0):
        raise PluginError(
            f"certified_noise of {name} is {found!r}, not a deviation. Return a finite number "
            "above 0, in pixels of [0, 1], or None."
        )
    return float(found)
