"""Histograms of the energy of clean, attacked and purified images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from bench.figures.images import Attacked, attacked, energies, prepared_for, purified
from bench.figures.style import COLOURS, page
from bench.prepare import Plugins, Prepared
from bench.progress import Work
from bench.workspace import Workspace

KINDS = ("clean", "adversarial", "purified clean", "purified adversarial")
_LINES = ("-", "-", "--", "--")
_BINS = 40


def collect(
    pairs: Sequence[Plugins], *, space: Workspace
) -> Work[tuple[pd.DataFrame, list[Prepared]]]:
    """Measure the energies of each defense on the first n images; raises BenchError.

    A row per defense, image and kind; ``auroc`` is the chance that a random image of its kind
    has more energy than a random clean one, ties counting half.
    """
    frames, used = [], []
    for plugins in pairs:
        prepared = yield from prepared_for(plugins, space=space, figure="energies")
        made = yield from attacked(prepared, count=plugins.request.n, space=space)
        frames.append(rows(made))
        used.append(prepared)
    return pd.concat(frames, ignore_index=True), used


def rows(made: Attacked) -> pd.DataFrame:
    """Measure the energies of all four kinds of images: columns defense to auroc."""
    prepared, x = made.prepared, made.images.x
    # The same noise for both that are purified: they differ in the attack alone.
    images = [
        x,
        made.x_adv,
        *(purified(prepared, z, rng=made.streams) for z in (x, made.x_adv)),
    ]
    shown = dict(zip(KINDS, images, strict=True))
    found = {kind: energies(prepared, z) for kind, z in shown.items()}
    frames = [
        pd.DataFrame(
            {
                "defense": prepared.cell.defense.name,
                "index": made.images.indices.cpu().numpy(),
                "label": made.images.y.cpu().numpy(),
                "kind": kind,
                "energy": values,
                "auroc": auroc(values, found["clean"]),
            }
        )
        for kind, values in found.items()
    ]
    return pd.concat(frames, ignore_index=True)


def auroc(values: np.ndarray, clean: np.ndarray) -> float:
    """Return the area under the ROC curve of telling values (N,) from clean ones (M,)."""
    labels = np.repeat([1, 0], [len(values), len(clean)])
    return float(roc_auc_score(labels, np.concatenate([values, clean])))


def draw(frame: pd.DataFrame) -> Figure:
    """Draw a panel per defense: clean images filled, the other kinds as outlines."""
    panels = frame.groupby("defense", sort=False)
    figure = page(0.2 + 2.3 * len(panels))
    all_axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (defense, of_defense) in zip(all_axes, panels, strict=True):
        edges = np.histogram_bin_edges(of_defense["energy"], bins=_BINS)
        for number, kind in enumerate(KINDS):
            of_kind = of_defense[of_defense["kind"] == kind]
            said = "" if kind == "clean" else f", AUROC {of_kind['auroc'].iloc[0]:.2f}"
            counts, _ = np.histogram(of_kind["energy"], edges)
            look = {"color": COLOURS[number], "label": kind + said}
            if kind == "clean":
                axes.stairs(counts, edges, fill=True, alpha=0.4, **look)
            else:
                axes.stairs(counts, edges, linestyle=_LINES[number], linewidth=1.2, **look)
        axes.set_title(str(defense))
        axes.set_ylabel("images")
        axes.legend(loc="upper right")
    all_axes[-1].set_xlabel("energy")
    return figure
