"""Keep a figure: NAME.csv with its numbers, NAME.png, NAME.json about both. No torch."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bench.figures.style import style
from bench.results.files import write_json
from bench.results.output import delivered
from bench.results.provenance import origin
from bench.results.render import csv_text, unescaped


def keep(
    folder: Path,
    name: str,
    frame: pd.DataFrame,
    draw: Callable[[pd.DataFrame], Figure],
    about: Mapping[str, Any],
) -> list[Path]:
    """Write the rows, the picture drawn from them, and where both come from.

    ``about`` has the seed, the checkpoints and n. Raises StoreError.
    """
    paths = [folder / f"{name}.{ending}" for ending in ("csv", "png", "json")]
    text = csv_text(frame)
    with delivered(paths[0]) as temporary:
        temporary.write_text(text)
    # Drawn from what was written, so that the CSV by itself gives the same picture again.
    picture = render(draw, read(io.StringIO(text)))
    with delivered(paths[1]) as temporary:
        temporary.write_bytes(picture)
    source = origin()
    source["versions"] = {**source["versions"], "matplotlib": version("matplotlib")}
    write_json(paths[2], {"figure": name, **about, **source})
    return paths


def read(path: Path | io.StringIO) -> pd.DataFrame:
    """Read a figure's rows; 'none' and 'inf' are names, and only an empty field is missing."""
    return unescaped(pd.read_csv(path, keep_default_na=False, na_values=[""]))


def render(draw: Callable[[pd.DataFrame], Figure], frame: pd.DataFrame) -> bytes:
    """Draw rows as a PNG; equal rows give equal bytes."""
    buffer = io.BytesIO()
    with style():
        draw(frame).savefig(buffer, format="png", backend="agg")
    return buffer.getvalue()


def file_name(*words: str) -> str:
    """Join words to a file's name: 'curves', 'mnist', '8/255' to 'curves-mnist-8_255'."""
    return "-".join(re.sub(r"[^\w.]+", "_", word) for word in words if word)
