"""Strips of pictures: clean, attacked, and purified after several steps, with energies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bench.evaluation.run import Prepared
from bench.experiments.prepare import Plugins
from bench.figures.images import Attacked, attacked, energies, path, predictions, prepared_for
from bench.figures.style import RIGHT, WRONG, page
from bench.results.progress import Work
from bench.results.workspace import Workspace

_SHARES = (0.1, 0.2, 0.5, 1.0)  # of all K steps, at which a strip shows the image


def collect(
    plugins: Plugins, *, count: int, workspace: Workspace
) -> Work[tuple[pd.DataFrame, np.ndarray, Prepared]]:
    """Purify the attack's images step by step; raises BenchError.

    Returns a row per picture and the pictures (rows, H, W, C) in [0, 1] in the same order.
    """
    prepared = yield from prepared_for(plugins, workspace=workspace, figure="strips")
    made = yield from attacked(prepared, count=count, workspace=workspace)
    frame, pictures = rows(made)
    return frame, pictures, prepared


def rows(made: Attacked) -> tuple[pd.DataFrame, np.ndarray]:
    """Measure energy and class of every picture of the strips, image by image.

    ``steps`` is -1 for the clean image, 0 for the attacked one and k after k steps of it.
    """
    prepared, images = made.prepared, made.images
    stages = {-1: images.x, 0: made.x_adv}
    stages |= dict(enumerate(path(prepared, made.x_adv, rng=made.streams), 1))
    steps = [-1, 0, *chosen(max(stages))]
    frames = []
    for k in steps:
        x, label = stages[k], images.y.cpu().numpy()
        seen = predictions(prepared, x)
        kind = "clean" if k < 0 else "adversarial" if k == 0 else "purified"
        frames.append(
            pd.DataFrame(
                {
                    "defense": prepared.cell.defense.name,
                    "index": images.indices.cpu().numpy(),
                    "label": label,
                    "kind": kind,
                    "steps": k,
                    "energy": energies(prepared, x),
                    "predicted": seen,
                    "right": seen == label,
                }
            )
        )
    order = np.arange(len(steps) * len(images)).reshape(len(steps), -1).T.ravel()
    pictures = np.concatenate([shown(stages[k]) for k in steps])
    return pd.concat(frames, ignore_index=True).iloc[order].reset_index(drop=True), pictures[
        order
    ]


def chosen(total: int) -> list[int]:
    """Choose the steps to show: a tenth, a fifth, a half and all of ``total``."""
    return sorted({max(1, round(share * total)) for share in _SHARES})


def shown(x: Tensor) -> np.ndarray:
    """Turn images (N, C, H, W) to pictures (N, H, W, C) in [0, 1]."""
    return x.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def draw(frame: pd.DataFrame, pictures: np.ndarray) -> Figure:
    """Draw a strip per image; under each picture its energy and the class that is seen."""
    columns = list(dict.fromkeys(frame["steps"]))
    lines = len(frame) // len(columns)
    figure = page(0.15 + 0.78 * lines)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    grid = figure.subplots(lines, len(columns), squeeze=False).ravel()
    for number, (axes, picture) in enumerate(zip(grid, pictures, strict=True)):
        row = frame.iloc[number]
        bare(axes, picture)
        energy = f"{row['energy']:#.3g}".replace("-", "\N{MINUS SIGN}")
        mark = "" if row["right"] else " ✗"
        axes.set_xlabel(
            f"E {energy}\nclass {row['predicted']}{mark}",
            fontsize=6, labelpad=1.5, linespacing=1.0,
            color=RIGHT if row["right"] else WRONG,
            fontweight="normal" if row["right"] else "bold",
        )  # fmt: skip
        if number < len(columns):
            axes.set_title(_head(int(row["steps"])), fontsize=6.5, pad=2)
    return figure


def bare(axes: Axes, picture: np.ndarray) -> None:
    """Show a picture (H, W, C) in axes without ticks."""
    axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _head(steps: int) -> str:
    return {-1: "clean", 0: "adversarial"}.get(
        steps, f"{steps} steps" if steps > 1 else "1 step"
    )
