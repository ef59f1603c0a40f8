"""Networks that a defense calls and does not hold: neither its key nor its passes know them.

A plugin may keep a network in a global of its module, in a cache, or make it at each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

SAID = "networks that the defense does not hold"  # in every flag about them


@contextmanager
def strangers(defense: nn.Module) -> Iterator[list[str]]:
    """Collect a flag on the first network with weights that is called and not held.

    A network around a held one, without weights of its own, is none.
    """
    known, flags = {id(module) for module in defense.modules()}, list[str]()
    held = {id(weights) for weights in chain(defense.parameters(), defense.buffers())}

    def before(module: nn.Module, _: Any) -> None:
        if flags or id(module) in known:  # the first one is the outermost of its parts
            return
        if any(id(one) not in held for one in chain(module.parameters(), module.buffers())):
            flags.append(
                f"{SAID} were called ({type(module).__name__}): its weights are not part of "
                "the cell's key and its passes not of the cost. Make it in __post_init__ and "
                "keep it as an attribute."
            )

    handle = register_module_forward_pre_hook(before)
    try:
        yield flags
    finally:
        handle.remove()
