"""Histograms of the energy of clean, attacked and purified images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from bench.evaluation.run import Prepared
from bench.experiments.prepare import Plugins
from bench.figures.images import Attacked, attacked, energies, prepared_for, purified
from bench.figures.style import COLOURS, page
from bench.results.progress import Work
from bench.results.workspace import Workspace

KINDS = ("clean", "adversarial", "purified clean", "purified adversarial")
_LINES = ("-", "-", "--", ":")
_BINS = 30


def collect(
    pairs: Sequence[Plugins], *, workspace: Workspace
) -> Work[tuple[pd.DataFrame, list[Prepared]]]:
    """Measure the energies of each defense on the first n images; raises BenchError.

    A row per defense, image and kind; ``auroc`` is the chance that a random image of its kind
    has more energy than a random clean one, ties counting half.
    """
    frames, used = [], []
    for plugins in pairs:
        prepared = yield from prepared_for(plugins, workspace=workspace, figure="energies")
        made = yield from attacked(prepared, count=plugins.request.n, workspace=workspace)
        frames.append(rows(made))
        used.append(prepared)
    return pd.concat(frames, ignore_index=True), used


def rows(made: Attacked) -> pd.DataFrame:
    """Measure the energies of all four kinds of images: columns defense to auroc."""
    prepared, x = made.prepared, made.images.x
    # The same noise for both that are purified: they differ only in the attack.
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
    """Draw two panels per defense: clean images before others as attacked and as purified.

    Each has its own scale, since attacked images can lie far from all the others.
    """
    defenses = list(dict.fromkeys(frame["defense"]))
    figure = page(0.2 + 3.4 * len(defenses))
    all_axes = figure.subplots(2 * len(defenses), squeeze=False)[:, 0]
    for place, axes in enumerate(all_axes):
        defense = defenses[place // 2]
        kinds = KINDS[:1] + (KINDS[2:] if place % 2 else KINDS[1:2])
        shown = frame[(frame["defense"] == defense) & frame["kind"].isin(kinds)]
        edges = np.histogram_bin_edges(shown["energy"], bins=_BINS)
        for kind in kinds:
            of_kind = shown[shown["kind"] == kind]
            counts, _ = np.histogram(of_kind["energy"], edges)
            colour, line = COLOURS[KINDS.index(kind)], _LINES[KINDS.index(kind)]
            if kind == "clean":
                axes.stairs(counts, edges, fill=True, alpha=0.4, color=colour, label=kind)
            else:
                label = f"{kind}, AUROC {of_kind['auroc'].iloc[0]:.2f}"
                axes.stairs(counts, edges, linestyle=line, lw=1.2, color=colour, label=label)
        axes.set_ylim(top=axes.get_ylim()[1] * 1.8)  # room for the legend
        axes.set_title(f"{defense}, {'purified' if place % 2 else 'attacked'}")
        axes.set_ylabel("images")
        axes.set_xlabel("energy")
        axes.legend(loc="upper right")
    return figure
