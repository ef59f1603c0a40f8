"""Evaluate objects of a script or a notebook, as `bench run` evaluates what has a name."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.data.datasets import first_images
from bench.experiments import matrix
from bench.results.rows import write_runs
from bench.scripting.question import question, run
from bench.scripting.row import Row


def evaluate(
    purifier: Any,
    classifier: Any = "small_cnn",
    x: Any = None,
    y: Any = None,
    *,
    dataset: str | None = None,
    attack: Any = "apgd",
    access: str | None = None,
    norm: str = "Linf",
    eps: str | float | Fraction | None = "8/255",
    n: int | None = None,
    seed: int = 0,
    draws: int = 50,
    shard: int = 100,
    sequential: bool = False,
    search: str = "float32",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    results: str | Path | None = None,
    data: str | Path | None = None,
    zoo: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Row:
    """Measure a purifier before a classifier under an attack; raises BenchError.

    A purifier is an nn.Module, a function, an object with ``purify`` or a name; None is none. A
    classifier is an nn.Module from images in [0, 1] to logits, a function or a name. Images x
    are bytes or floats in [0, 1], (N, C, H, W) or (N, H, W, C), with labels y (N,); ``dataset``
    names others. What is finished is found in ``results``, and an interrupted call goes on.
    """
    most = first_images(dataset) if dataset else None
    asked = question(
        purifier, classifier, x, y, dataset=dataset, attack=attack, access=access, norm=norm,
        eps=eps, n=n, most=most, seed=seed, draws=draws, shard=shard,
        sequential=sequential, search=search, settings=settings, results=results, data=data,
        zoo=zoo, device=device,
    )  # fmt: skip
    with asked.at_work() as workspace:
        key = run(matrix.evaluate(asked.request, workspace=workspace), progress=progress)
        write_runs(workspace.store)
    return Row(key, asked)
