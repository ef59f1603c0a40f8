"""Threat models as data: norm, radius and access. Imports no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from bench.errors import UsageError, unknown_name

_WRITTEN = re.compile(r"[+-]?(\d+/\d+|(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?)", re.A | re.I)
_LONGEST = 30  # characters of a radius, typed and as its cell keeps it


class Norm(StrEnum):
    """The norm that bounds a perturbation, in pixels of [0, 1]."""

    LINF = "Linf"
    L2 = "L2"


class Access(StrEnum):
    """What the attacker may see and differentiate.

    ``transfer``: the bare classifier. ``bpda``: the purifier forwards, the identity
    backwards. ``full``: the exact gradient through the purifier. ``query``: only logits.
    ``label``: only the class of each draw.
    """

    TRANSFER = "transfer"
    BPDA = "bpda"
    FULL = "full"
    QUERY = "query"
    LABEL = "label"


@dataclass(frozen=True)
class ThreatModel:
    """A ball and an access; ``eps`` is an exact fraction of the pixel range, None unbounded."""

    norm: Norm
    eps: Fraction | None
    access: Access

    @property
    def radius(self) -> float:
        """Radius as a float, infinity when unbounded."""
        return math.inf if self.eps is None else float(self.eps)

    @property
    def bounded(self) -> bool:
        """Whether a ball limits the attack beside the box [0, 1]."""
        return self.eps is not None


def parse_norm(text: str) -> Norm:
    """Read a norm by its name, whatever its case; raises UsageError."""
    for norm in Norm:
        if norm.value.lower() == text.lower():
            return norm
    raise unknown_name("norm", text, [norm.value for norm in Norm])


def parse_access(text: str) -> Access:
    """Read an access by its name; raises UsageError."""
    try:
        return Access(text.lower())
    except ValueError:
        raise unknown_name("access", text, [access.value for access in Access]) from None


def parse_eps(text: str | float, norm: Norm) -> Fraction | None:
    """Read '8/255', '0.3' or 'inf' exactly (None is unbounded); raises UsageError."""
    return _radius(str(text).strip(), norm)


@lru_cache  # a plan has one for all of its cells
def _radius(shown: str, norm: Norm) -> Fraction | None:
    if shown.lower() in {"inf", ".inf", "infinity"}:
        return None
    try:
        if len(shown) > _LONGEST or not _WRITTEN.fullmatch(shown):
            raise ValueError
        eps = Fraction(shown)
        whole = (eps == 0) == (float(eps) == 0) and len(format_eps(eps)) <= _LONGEST
    except (ValueError, ArithmeticError):
        raise UsageError(
            f"eps '{shown[:_LONGEST]}' is not a number that a cell can keep. Write a fraction "
            "such as 8/255, a decimal such as 0.3, or inf."
        ) from None
    near = eps.limit_denominator(255)
    if not whole or ("/" not in shown and near and 0 < abs(eps - near) < 1e-9):
        raise UsageError(
            f"eps {shown} is too small or has too many digits. Did you mean {format_eps(near)}?"
        )
    if eps < 0:
        raise UsageError(f"eps {shown} is negative. A radius is 0 or larger.")
    if norm is Norm.LINF and eps > 1:
        raise UsageError(
            f"eps {shown} is larger than the whole pixel range: pixels are in [0, 1]. "
            f"Did you mean {shown}/255? For no bound at all write inf."
        )
    return eps


def format_eps(eps: Fraction | None) -> str:
    """Write a radius the way the field does: '0.3', '8/255' or 'inf'."""
    if eps is None:
        return "inf"
    decimal = f"{float(eps):g}"
    if Fraction(decimal) == eps:
        return decimal
    if 255 % eps.denominator == 0:
        return f"{eps.numerator * (255 // eps.denominator)}/255"
    return str(eps)
