"""Measure which checkpoints suit Auto-PGD better: its paper's or its authors' code's.

python scripts/apgd_checkpoints.py [--device cuda] [-n 500] [--jobs 6] [--output DIR]

Each shipped energy of MNIST is attacked through the full gradient with both schedules and
judged on validation images. The table goes to stdout and, with apgd_checkpoints.json, to the
folder --output or $OUT, rewritten after every cell. purifybench need not be installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "defenses"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "attacks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import bench_attacks.apgd
from bench.core.access import view_of
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel, parse_eps
from bench.evaluation.judge import judge
from bench.experiments.prepare import Plugins, outline, prepare
from bench.plugins.catalogue import build_dataclass
from bench.results.cell import Request
from bench.results.progress import finish
from bench.results.provenance import provenance
from bench.results.stats import mcnemar, wilson
from bench.results.store import Store
from bench.results.workspace import Workspace, open_device
from bench_defenses.adv_ebm import AdvEbm
from bench_defenses.adv_ebm_plus import AdvEbmPlus
from bench_defenses.classifiers.small_cnn import SmallCnn
from bench_defenses.ebm import Ebm

Cell = tuple[str, int, str]  # energy, steps, schedule

RESULTS = Path(__file__).resolve().parents[1] / "results"
ENERGIES = {"ebm": Ebm, "adv_ebm": AdvEbm, "adv_ebm_plus": AdvEbmPlus}
SEED, DRAWS = 0, 50


def of_paper(steps: int) -> dict[int, int]:
    """Map checkpoints ceil(p_j steps) to the steps since the last, in whole hundredths p_j."""
    before, p, windows = 0, 22, {}
    while p <= 100:
        at, since = -(-p * steps // 100), -(-before * steps // 100)
        if at > since:  # short runs round two checkpoints to one
            windows[at] = at - since
        before, p = p, p + max(p - before - 3, 6)
    return windows


def of_code(steps: int) -> dict[int, int]:
    """Map the checkpoints of the authors' code, which rounds every length down first."""
    window, least, shrink = (max(share * steps // 100, 1) for share in (22, 6, 3))
    windows, at = {}, window
    while at <= steps:
        windows[at] = window
        window = max(window - shrink, least)
        at += window
    return windows


SCHEDULES: dict[str, Callable[[int], dict[int, int]]] = {"code": of_code, "paper": of_paper}


def measured(cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """Attack and judge one energy with one schedule; JSON values."""
    name, steps, schedule = cell
    torch.set_num_threads(1)
    bench_attacks.apgd.checkpoints = SCHEDULES[schedule]
    device = open_device(args.device)
    workspace = Workspace(Store(RESULTS), args.data, args.data, device)
    energy = ENERGIES[name]
    plugins = Plugins(
        Request(name, "apgd", "mnist:validation", eps="0.3", n=args.n, seed=SEED, draws=DRAWS),
        build_dataclass(SmallCnn, SmallCnn.recipe("mnist"), where="classifier"),
        build_dataclass(energy, energy.recipe("mnist"), where="defense"),
        bench_attacks.apgd.Apgd(steps=steps, eot=args.eot),
        ThreatModel(Norm.LINF, parse_eps("0.3", Norm.LINF), Access.FULL),
        impossible=None,
    )
    if untrained := outline(plugins, workspace)[1]:
        sys.exit(f"no checkpoint of {' and '.join(untrained)} in {RESULTS}")
    prepared = finish(prepare(plugins, workspace=workspace))
    defense, threat = prepared.defense, plugins.threat
    images = prepared.pixels.images(0, args.n).to(device)
    rng = Rng.seeded(SEED, images.indices)
    begun = time.perf_counter()
    with count_passes(defense.networks()) as passes:
        x_adv = plugins.attack(
            view_of(defense, Access.FULL), images.x.clone(), images.y,
            threat=threat, rng=rng.fork("attack"),
        )  # fmt: skip
    x_adv = x_adv.cpu().to(device)  # the clock stops when the device is done
    seconds = time.perf_counter() - begun
    verdict = judge(
        defense, images.x, images.y, x_adv, threat=threat, draws=DRAWS, rng=rng.fork("judge")
    )
    right = verdict.votes.gather(1, images.y[:, None])[:, 0] / verdict.votes.sum(1)
    return {
        "energy": name, "steps": steps, "schedule": schedule,
        "checkpoints": list(SCHEDULES[schedule](steps)),
        "clean": verdict.clean.tolist(), "robust": verdict.robust.tolist(),
        "illegal": int((~verdict.legal).sum()), "wrong draws": float((1 - right).mean()),
        "attack passes": dict(passes), "attack seconds": round(seconds, 2),
        "digests": {
            "classifier": prepared.cell.classifier.checkpoint,
            "energy": prepared.cell.defense.checkpoint,
            "data": prepared.cell.data,
        },
        **provenance(device),
    }  # fmt: skip


def table(found: dict[Cell, dict[str, Any]], n: int) -> str:
    """Compare the two schedules on the same images."""
    head = (
        "energy", "steps", "robust: code", "robust: paper", "broken: code only", "paper only",
        "p", "wrong draws: code", "paper", "passes per image: code", "paper",
    )  # fmt: skip
    rows = [head, ("---",) * len(head)]
    for energy, steps in dict.fromkeys((cell[0], cell[1]) for cell in sorted(found)):
        both = ((energy, steps, schedule) for schedule in SCHEDULES)
        pair = [found[cell] for cell in both if cell in found]
        if len(pair) < len(SCHEDULES):
            continue
        code, paper = (entry["robust"] for entry in pair)
        only_code = sum(p and not c for c, p in zip(code, paper, strict=True))
        only_paper = sum(c and not p for c, p in zip(code, paper, strict=True))
        rows.append((
            energy, str(steps), share(code), share(paper), str(only_code), str(only_paper),
            f"{mcnemar(only_code, only_paper):.2g}",
            *(f"{100 * entry['wrong draws']:.2f} %" for entry in pair),
            *(f"{sum(entry['attack passes'].values()) / n:,.0f}" for entry in pair),
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def share(right: list[bool]) -> str:
    """Write an accuracy with its 95 % interval."""
    low, high = wilson(sum(right), len(right))
    return f"{100 * sum(right) / len(right):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def say(*words: object) -> None:
    """Write a line at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure all cells, the long ones first."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("-n", type=int, default=500, help="validation images, the first ones")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 20])
    parser.add_argument("--eot", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="parallel processes")
    parser.add_argument("--data", type=Path, default=os.environ.get("BENCH_DATA", "data"))
    parser.add_argument("--output", type=Path, default=os.environ.get("OUT", "."))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    todo = itertools.product(ENERGIES, args.steps, SCHEDULES)
    found: dict[Cell, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        jobs = {
            pool.submit(measured, cell, args): cell
            for cell in sorted(todo, key=lambda cell: -cell[1])
        }
        for job in as_completed(jobs):
            cell = jobs[job]
            found[cell] = entry = job.result()
            say(*cell, share(entry["robust"]), entry["attack seconds"], "s")
            cells = [found[key] for key in sorted(found)]
            about = {"n": args.n, "eot": args.eot, "seed": SEED, "draws": DRAWS, "cells": cells}
            (args.output / "apgd_checkpoints.json").write_text(json.dumps(about, indent=1))
            (args.output / "apgd_checkpoints.md").write_text(table(found, args.n) + "\n")
    say(table(found, args.n))


if __name__ == "__main__":
    main()
