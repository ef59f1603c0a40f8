"""Trainings on the device: the same twice, and how fast."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .common import (
    CUDA,
    device,
    say,
    wait,
)


def train() -> dict[str, Any]:

    from bench.core.networks import frozen
    from bench.core.protocols import Images
    from bench.models import train as training
    from bench.models.trainable import Task
    from bench_defenses.adv_ebm_plus import AdvEbmPlus
    from bench_defenses.classifiers.resnet18 import ResNet18
    from bench_defenses.classifiers.robust_cnn import RobustCnn
    from bench_defenses.classifiers.small_cnn import SmallCnn
    from bench_defenses.ebm import Ebm

    where, found = device(), {}
    generator = torch.Generator().manual_seed(0)
    count = 2000 if CUDA else 64
    side, channels = (28, 1) if CUDA else (8, 1)
    x = torch.rand(count, channels, side, side, generator=generator)
    images = Images(torch.arange(count), x, torch.arange(count) % 10).to(where)
    net = frozen(SmallCnn().start(Task(images, images, 10, where)).net)
    task = Task(images, images, 10, where, net, images.x[:200].flip(0))
    plugins: list[tuple[str, Any]] = [
        ("small_cnn", SmallCnn()),
        ("robust_cnn", RobustCnn()),
        ("ebm", Ebm()),
        ("adv_ebm_plus", AdvEbmPlus()),
    ]
    if CUDA:
        plugins.append(("resnet18", ResNet18(width=16)))
    half = 20 if CUDA else 2

    def weights(run: Any) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in run.weights().items()}

    for name, plugin in plugins:
        entry: dict[str, Any] = {}
        whole = plugin.start(task)
        for _ in range(half):
            whole.advance()
        wait()
        begun = time.perf_counter()
        for _ in range(half):
            whole.advance()
        wait()
        entry["ms an iteration"] = 1000 * (time.perf_counter() - begun) / half
        part = plugin.start(task)
        for _ in range(half):
            part.advance()
        packed = io.BytesIO()
        torch.save({"run": part.state(), "seconds": 1.0}, packed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.pt"
            path.write_bytes(packed.getvalue())
            again: Any = training._resumed(plugin, task, path)[0]
        steps = {value["step"].device.type for value in again.optimizer.state.values()}
        wait()
        begun = time.perf_counter()
        left = whole.step - again.step  # to be resumed takes a step
        for _ in range(left):
            again.advance()
        wait()
        entry["ms an iteration, resumed"] = 1000 * (time.perf_counter() - begun) / left
        one, other = weights(whole), weights(again)
        entry["resumed is the same"] = all(torch.equal(one[key], other[key]) for key in one)
        entry["step counters of the resumed optimiser on"] = sorted(steps)
        entry["metrics"], entry["evaluated"] = whole.metrics(), whole.evaluate()
        found[name] = entry
        say(
            "ok" if entry["resumed is the same"] else "BAD",
            f"training {name}: {entry['ms an iteration']:.2f} ms an iteration, {entry['ms an iteration, resumed']:.2f} once resumed (steps on {sorted(steps)}); resumed weights the same: {entry['resumed is the same']}",
        )
    return found
