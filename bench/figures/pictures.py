"""Images of one cell side by side: clean, attacked, and purified once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bench.core.geometry import rounded
from bench.evaluation.run import Prepared
from bench.figures.images import attacked, predictions, purified
from bench.figures.strips import bare, shown
from bench.figures.style import RIGHT, WRONG, page
from bench.results.progress import Work
from bench.results.workspace import Workspace

STAGES = ("clean", "attacked", "purified")


@dataclass(frozen=True)
class Pictured:
    """Images (N, C, H, W) in [0, 1] by stage; ``purified`` after one pass with its own noise.

    ``seen`` (N,) is the class that the bare classifier sees in what is purified.
    """

    stages: dict[str, Tensor]
    seen: np.ndarray


def collect(
    prepared: Prepared, indices: Sequence[int], *, workspace: Workspace
) -> Work[Pictured]:
    """Read these images of a cell, and purify them; raises BenchError."""
    made = yield from attacked(prepared, count=max(indices) + 1, workspace=workspace)
    chosen = torch.tensor(indices, device=made.x_adv.device)
    x, x_adv = made.images.x[chosen], made.x_adv[chosen]
    if bits := prepared.cell.bits:
        x_adv = rounded(x_adv, x, bits)
    found = purified(prepared, x_adv, rng=made.streams[chosen])
    stages = dict(zip(STAGES, (x, x_adv, found), strict=True))
    return Pictured(stages, predictions(prepared, found))


def rows(made: Pictured, outcomes: pd.DataFrame) -> pd.DataFrame:
    """Say what every picture is taken for: by the votes, what is purified by the classifier.

    ``outcomes`` has a line per image, in their order.
    """
    votes = {"clean": "clean_votes", "attacked": "votes"}
    frames = [
        pd.DataFrame(
            {
                "index": outcomes["index"].to_numpy(),
                "label": outcomes["label"].to_numpy(),
                "stage": stage,
                "class": np.stack(list(outcomes[votes[stage]])).argmax(1)
                if stage in votes
                else made.seen,
            }
        )
        for stage in STAGES
    ]
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame, made: Pictured) -> Figure:
    """Draw a line of pictures per image, with the class that each is taken for."""
    lines = len(frame) // len(STAGES)
    figure = page(0.25 + 1.15 * lines)
    grid = figure.subplots(lines, len(STAGES), squeeze=False).T.ravel()
    pictures = np.concatenate([shown(made.stages[stage]) for stage in STAGES])
    for number, (axes, picture) in enumerate(zip(grid, pictures, strict=True)):
        row = frame.iloc[number]
        bare(axes, picture)
        right = row["class"] == row["label"]
        axes.set_xlabel(
            f"class {row['class']}" + ("" if right else " ✗"),
            fontsize=7,
            color=RIGHT if right else WRONG,
            fontweight="normal" if right else "bold",
        )
        if number % lines == 0:
            axes.set_title(row["stage"])
        if row["stage"] == STAGES[0]:
            axes.set_ylabel(f"image {row['index']}", fontsize=7)
    return figure
