"""Perceptually aligned gradients: whether targeted perturbations look like their target.

Descriptive: an adversarially trained classifier shows them, and so does randomized smoothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bench.core.access import TransferView, unsupported, view_of
from bench.core.protocols import Images, View
from bench.core.rng import Rng
from bench.core.threat import ThreatModel
from bench.data.datasets import dataset_info
from bench.data.load import load_train
from bench.data.names import trained_on
from bench.errors import UsageError
from bench.evaluation.run import Prepared
from bench.experiments.prepare import Plugins, prepare, prepare_classifier, resolve
from bench.figures.alignment import (
    class_means,
    cosine,
    high_frequency_share,
    targeted,
    targets,
    towards,
)
from bench.figures.strips import bare, shown
from bench.figures.style import page
from bench.models.trainable import Trainable
from bench.results.progress import Progress, Work
from bench.results.workspace import Workspace

COLUMNS = ["subject", "index", "label", "target", "seen", "hit", "cosine", "high_frequency"]


@dataclass(frozen=True)
class Effort:
    """The ball, the steps, the draws a step of a stochastic view, and the pictures shown."""

    threat: ThreatModel
    steps: int
    draws: int
    pictures: int


@dataclass(frozen=True)
class Aligned:
    """Rows and pictures (subjects + 1, images, H, W, C), clean first; and what was used."""

    frame: pd.DataFrame
    pictures: np.ndarray
    used: list[Prepared]
    checkpoints: Mapping[str, str]


def collect(
    pairs: Sequence[Plugins], *, control: str | None, effort: Effort, workspace: Workspace
) -> Work[Aligned]:
    """Attack the first n images towards wrong classes and measure; raises BenchError.

    The subjects are the bare classifier, a control classifier where one is named, and every
    defense. A classifier of the same recipe with another training seed judges what is seen.
    """
    request, threat = pairs[0].request, effort.threat
    if not threat.bounded:
        raise UsageError("the figure 'pag' needs a bound: give a finite --eps, such as 0.5.")
    for pair in pairs:
        fault = unsupported(differentiable=pair.defense.differentiable, access=threat.access)
        if fault:
            raise UsageError(f"{pair.request.defense}: {fault}.")
    workspace.store.probe()
    judge, part = yield from prepare_classifier(_other_seed(pairs[0]), workspace=workspace)
    checkpoints = {"independent classifier": part.checkpoint or ""}
    used = []
    for pair in pairs:
        used.append((yield from prepare(pair, workspace=workspace)))
    views: dict[str, View] = {request.classifier: TransferView(used[0].defense.classifier)}
    if control is not None:
        plain = {k: v for k, v in request.settings.items() if k != "classifier"}
        other = resolve(dataclasses.replace(request, classifier=control, settings=plain))
        network, part = yield from prepare_classifier(other, workspace=workspace)
        views[f"{control} (control)"] = TransferView(network)
        checkpoints["control classifier"] = part.checkpoint or ""
    for one in used:
        views[one.cell.defense.name] = view_of(one.defense, threat.access)
    train, _, _ = load_train(trained_on(request.dataset), root=workspace.data)
    classes = dataset_info(request.dataset).classes
    means = class_means(train, classes=classes).to(workspace.device)
    images = used[0].pixels.images(0, request.n).to(workspace.device)
    streams = Rng.seeded(request.seed, images.indices).fork("pag")
    frames, pictures = [], [images.x]
    for number, (name, view) in enumerate(views.items()):
        yield Progress(f"targeted attack on {name}", number, len(views), unit="networks")
        frame, x_adv = measure(
            name, view, judge, images, means=means, effort=effort, rng=streams
        )
        frames.append(frame)
        pictures.append(x_adv)
    grid = np.stack([shown(x[: effort.pictures]) for x in pictures])
    return Aligned(pd.concat(frames, ignore_index=True), grid, used, checkpoints)


def _other_seed(plugins: Plugins) -> Plugins:
    """Ask for the same classifier, trained with the next seed."""
    classifier = plugins.classifier
    if not isinstance(classifier, Trainable):
        raise UsageError(
            f"{plugins.request.classifier} is not trained here, so there is no second one with "
            "another seed to judge the targets. Choose small_cnn or resnet18."
        )
    # A plugin that is trained is a frozen dataclass, and so is its recipe: no protocol has it.
    training = classifier.training
    again = dataclasses.replace(training, seed=training.seed + 1)  # type: ignore[type-var, attr-defined]
    return dataclasses.replace(
        plugins,
        classifier=dataclasses.replace(classifier, training=again),  # type: ignore[type-var]
    )


def measure(
    name: str,
    view: View,
    judge: nn.Module,
    images: Images,
    *,
    means: Tensor,
    effort: Effort,
    rng: Rng,
) -> tuple[pd.DataFrame, Tensor]:
    """Attack one view and measure every image: rows of COLUMNS, and images (N, C, H, W).

    ``hit``: the independent classifier sees the target. ``cosine``: of the gradient towards the
    target at the clean image with the target class's mean minus that image. ``high_frequency``:
    the share of the perturbation's energy above half of Nyquist.
    """
    x, target = images.x, targets(images, classes=len(means))
    draws = effort.draws if view.stochastic else 1
    gradient = towards(view, x, target, draws=draws, rng=rng.fork("gradient"))
    x_adv = targeted(
        view, x, target, threat=effort.threat, steps=effort.steps, draws=draws, rng=rng
    )
    with torch.no_grad():
        seen = judge(x_adv).argmax(1)
    columns = [
        images.indices, images.y, target, seen, seen == target,
        cosine(gradient, means[target] - x), high_frequency_share(x_adv - x),
    ]  # fmt: skip
    values = [column.cpu().numpy() for column in columns]
    return pd.DataFrame({"subject": name, **dict(zip(COLUMNS[1:], values, strict=True))}), x_adv


def draw(frame: pd.DataFrame, pictures: np.ndarray) -> Figure:
    """Draw a row per image and a column per subject, with its means above."""
    subjects = list(dict.fromkeys(frame["subject"]))
    first = frame[frame["subject"] == subjects[0]].reset_index(drop=True)
    lines = pictures.shape[1]
    side = 3.25 / (len(subjects) + 1)  # inches, beside the labels of the rows
    figure = page(0.6 + (side + 0.02) * lines)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    grid = figure.subplots(lines, len(subjects) + 1, squeeze=False)
    for place, subject in enumerate([None, *subjects]):
        for line in range(lines):
            bare(grid[line, place], pictures[place, line])
        # Names as long as adv_ebm_plus have to fit above the pictures of six columns.
        size = min(6.5, 31 / (len(subjects) + 1))
        grid[0, place].set_title(_head(frame, subject), fontsize=size, pad=3)
    for line in range(lines):
        label, target = first.loc[line, "label"], first.loc[line, "target"]
        grid[line, 0].set_ylabel(f"{label} \N{RIGHTWARDS ARROW} {target}", fontsize=7)
    return figure


def _head(frame: pd.DataFrame, subject: str | None) -> str:
    if subject is None:
        return "clean\n\nseen as target\ncosine\nhigh freq."
    rows = frame[frame["subject"] == subject]
    name, _, role = subject.partition(" ")
    return (
        f"{name}\n{role}\n{100 * rows['hit'].mean():.0f} %\n{rows['cosine'].mean():.2f}\n"
        f"{100 * rows['high_frequency'].mean():.0f} %"
    ).replace("-", "\N{MINUS SIGN}")
