"""Every attack on every defense, in small cells: on the CPU, on the device, and there again."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
import traceback
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .common import (
    ASKED,
    CPU,
    CUDA,
    NAME,
    device,
    late,
    say,
)


def small_cells(name: str, made: Any, short: dict[str, list[dict[str, Any]]]) -> Any:
    """Yield attack, parameters, access, norm and search of every cell of a defense."""
    from bench.core.access import unsupported
    from bench.core.threat import Access, Norm
    from bench.plugins.catalogue import plugin
    from bench.results.cell import Search

    steps = hasattr(made, "coarser") or hasattr(made, "training")  # trained ones are coarsened
    for attack_name, variants in short.items():
        for params in variants if CUDA else variants[:1]:
            attack = plugin("attacks", attack_name)(**params)
            coarse = bool(params.get("surrogate"))
            for access in attack.accesses if CUDA else attack.accesses[:1]:
                if unsupported(differentiable=made.differentiable, access=access):
                    continue
                if coarse and (not steps or access is Access.TRANSFER):
                    continue
                if attack_name == "autoattack" and (
                    access is not Access.TRANSFER or name not in ("none", "gaussian")
                ):
                    continue  # thousands of calls
                low = attack_name == "bpda_eot" and made.stochastic
                for norm in attack.norms if name in ("none", "ebm") else (Norm.LINF,):
                    for search in Search if low else (Search.FLOAT32,):
                        yield attack_name, params, access, norm, search


def cells() -> dict[str, Any]:
    """Small cells of every attack, access, norm and defense: on the CPU, on the device, and there again."""
    import pandas as pd
    from safetensors.torch import load_file

    from bench.core.defense import Defense
    from bench.core.threat import Norm, ThreatModel
    from bench.data.load import load_test
    from bench.evaluation.run import Prepared, run_cell
    from bench.models.trainable import Task
    from bench.plugins.catalogue import plugin, sorts
    from bench.results.cell import Cell, Part
    from bench.results.progress import finish
    from bench.results.store import Store
    from bench.results.workspace import Workspace
    from tests.cells import classifier

    pixels = load_test("digits", root=Path())
    n = 24 if CUDA else 8
    where = device()
    tiny = {
        "iterations": 30,
        "epochs": 1,
        "batch": 16,
        "bank": 64,
        "width": 4,
        "images": 16,
        "chain_steps": 4,
    }

    def purifier(name: str) -> Any:
        made: Any = plugin("defenses", name)()
        if not hasattr(made, "training"):
            return made
        known = {field.name for field in dataclasses.fields(made.training)}
        training = dataclasses.replace(
            made.training, **{k: v for k, v in tiny.items() if k in known}
        )
        steps = {"steps": 5} if hasattr(made, "steps") else {}
        made = dataclasses.replace(made, **steps, training=training)
        block = pixels.images(100, 400)
        task = Task(block, block, 10, CPU, classifier(), block.x[:16].flip(0))
        run = made.start(task)
        for _ in range(run.total):
            run.advance()
        return made.load(run.weights(), shape=(1, 8, 8))

    short: dict[str, list[dict[str, Any]]] = {
        "adaptive": [{"steps": 11, "eot": 3}], "apgd": [{"steps": 12, "eot": 3}, {"steps": 6, "eot": 2, "surrogate": 2, "loss": "dlr"}],
        "apgd_t": [{"steps": 6, "eot": 2, "surrogate": 2}], "rays": [{"queries": 12}],
        "autoattack": [{}], "bpda_eot": [{"steps": 11, "eot": 3}], "noise": [{"tries": 8, "eot": 2}],
        "pgd": [{"steps": 11, "eot": 3, "loss": "margin"}], "square": [{"queries": 52, "eot": 2}],
    }  # fmt: skip

    def run(
        purifier: Any, attack: Any, cell: Cell, on: torch.device, root: Path
    ) -> tuple[Any, Tensor]:
        workspace = Workspace(Store(root), root, root, on)
        defense = Defense(copy.deepcopy(purifier), classifier()).to(on)
        finish(run_cell(Prepared(cell, defense, attack, pixels), workspace=workspace))
        rows = pd.read_parquet(workspace.store.outcomes(cell.key()))
        images = [
            load_file(workspace.store.proposal(cell.proposal_key(), a, b))["x_adv"]
            for a, b in cell.shards()
        ]
        return rows, torch.cat(images)

    results: list[dict[str, Any]] = []
    skipped = 0
    first = ["ebm", "none", "gaussian", "median", "tv_min", "jpeg", "bit_depth", "nl_means"]
    # Without those that read weights which others published.
    ours = [name for name, kind in sorts("defenses").items() if kind != "museum"]
    names = sorted(ours, key=lambda name: first.index(name) if name in first else 99)
    part, parts = ASKED["part"]
    whole = [
        (name, what)
        for name in (names if CUDA else ["gaussian", "jpeg", "ebm", "dae"])
        for what in small_cells(name, plugin("defenses", name)(), short)
    ]
    # Thousands of short calls: on a GPU more than a minute, for which no other cell waits.
    whole.sort(key=lambda one: one[1][0] == "autoattack")
    known: dict[str, Any] = {}
    for name, what in whole[part::parts]:
        if late():
            skipped += 1
            continue
        if name not in known:
            known[name] = purifier(name)
        made = known[name]
        attack_name, params, access, norm, search = what
        attack = plugin("attacks", attack_name)(**params)
        eps = Fraction(3, 20) if norm is Norm.LINF else Fraction(1)
        cell = Cell(
            "digits", pixels.digest, n, n // 2, Part("c", {}, 1, "f"), Part(name, {}, 1),
            Part(attack_name, dataclasses.asdict(attack), 1), ThreatModel(norm, eps, access),
            0, 12, sequential=attack_name == "noise", search=search,
        )  # fmt: skip
        entry: dict[str, Any] = {"what": f"{name} {attack_name} {access} {norm} {search.value}"}
        try:
            with tempfile.TemporaryDirectory() as folder:
                root, begun = Path(folder), time.perf_counter()
                here, x_here = run(made, attack, cell, CPU, root / "a")
                middle = time.perf_counter()
                there, x_there = run(made, attack, cell, where, root / "b")
                end = time.perf_counter()
                again, x_again = run(made, attack, cell, where, root / "c")
                entry |= {"cpu s": middle - begun, "device s": end - middle}
            apart = (x_here - x_there).abs().flatten(1).amax(1)
            votes, others = (np.stack(list(one["votes"])) for one in (here, there))
            logits, same = (np.stack(list(one["logits"])) for one in (there, again))
            entry |= {
                "images that differ": int((apart > 1e-5).sum()),
                "apart": float(apart.max()),
                "verdicts that differ": int((here["robust"] != there["robust"]).sum()),
                "votes that differ": int((votes != others).any(1).sum()),
                "robust": [int(here["robust"].sum()), int(there["robust"].sum())],
                "illegal": int((~there["legal"]).sum()),
                "again the same": torch.equal(x_there, x_again)
                and bool(np.array_equal(logits, same)),
            }
            print(
                f"     {entry['what']}: {entry['verdicts that differ']} verdicts and "
                f"{entry['votes that differ']} votes of {n} differ, again the same: "
                f"{entry['again the same']}, cpu {entry['cpu s']:.2f} s, "
                f"device {entry['device s']:.2f} s",
                flush=True,
            )
        except Exception as error:
            spot = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({spot.filename}:{spot.lineno})"
            entry["error"] = text[:400]
            say("BAD", f"{entry['what']}: {entry['error']}")
        results.append(entry)
    good = [one for one in results if "error" not in one]
    total = n * len(good)
    differ = sum(one["verdicts that differ"] for one in good)
    restless = [one["what"] for one in good if not one["again the same"]]
    illegal = [one["what"] for one in good if one["illegal"]]
    say(
        "BAD" if len(good) < len(results) else "ok",
        f"{len(results)} small cells, {len(results) - len(good)} failed, {skipped} left out for time",
    )
    say(
        "SEE",
        f"verdicts that differ between CPU and {NAME}: {differ} of {total}; robust {sum(o['robust'][0] for o in good)} and {sum(o['robust'][1] for o in good)}",
    )
    for one in sorted(good, key=lambda one: -one["verdicts that differ"])[:8]:
        if one["verdicts that differ"]:
            say(
                "SEE",
                f"  {one['what']}: verdicts {one['verdicts that differ']}, images {one['images that differ']} of {n}, robust {one['robust']}",
            )
    say(
        "BAD" if restless else "ok",
        f"cells whose second run on {NAME} is not the same to the bit: {restless or 'none'}",
    )
    say(
        "BAD" if illegal else "ok",
        f"cells with images outside the ball on {NAME}: {illegal or 'none'}",
    )
    return {"cells": results}
