"""Parameters that a plugin got after cells of it had been published."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_ADDED = "added"


def added(default: Any) -> Any:
    """Give a field of a dataclass a default with which the plugin does what it did before.

    Such a field is written down only where it has another value: cells from before the field
    keep their keys, and what they measured needs no other revision.
    """
    return dataclasses.field(default=default, metadata={_ADDED: True})


def as_before(plugin: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a plugin's written parameters what it has as it did before the field."""
    silent = {
        field.name: field.default
        for field in dataclasses.fields(plugin)
        if field.metadata.get(_ADDED)
    }
    return {
        name: value
        for name, value in values.items()
        if name not in silent or value != silent[name]
    }
