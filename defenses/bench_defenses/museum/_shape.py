"""The only images that networks of fixed size take."""

from __future__ import annotations

from bench.api import PluginError


def check_shape(shape: tuple[int, ...], *, name: str) -> None:
    """Refuse images of another shape than (1, 28, 28); raises PluginError."""
    if shape != (1, 28, 28):
        raise PluginError(
            f"{name} was trained on 1 x 28 x 28 images; these are "
            f"{' x '.join(map(str, shape))}. Use it on the data set that it was published for."
        )
