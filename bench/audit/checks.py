"""The catalogue of checks, in order: an audit runs them all."""

from __future__ import annotations

from collections.abc import Callable

from bench.audit import gradients
from bench.audit.findings import Finding
from bench.audit.subject import Subject

Check = Callable[[Subject], Finding]

CHECKS: tuple[Check, ...] = (gradients.gradient_exists,)
