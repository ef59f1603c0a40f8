"""Results folders of many small cells, for the commands that read them. Imports no torch."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.threat import Access, Norm, ThreatModel
from bench.results.cell import Cell, Part
from bench.results.digests import DIGESTS, sealed
from bench.results.files import read_json, write_json
from bench.results.provenance import origin
from bench.results.settings import NOTHING_SET
from bench.results.store import Store

RIVAL = "gaussian"  # the defense of one cell
_IMAGES = 10


def fill(root: Path, cells: int) -> list[Cell]:
    """Write finished cells that differ in their seed and share their outcomes.

    The second one differs from the first in its purifier: they can be compared.
    """
    store, classifier, defense = Store(root), Part("small_cnn", {}, 1), Part("none", {}, 1)
    first = Cell(
        "digits", "benchmark", _IMAGES, _IMAGES, classifier, defense, Part("noise", {}, 1),
        ThreatModel(Norm.LINF, Fraction(1, 10), Access.QUERY), 0, 1,
    )  # fmt: skip
    store.open(first, NOTHING_SET)
    store.append(first, 0, _outcomes(), _about())
    store.finish(first, lambda shards: shards[0])
    outcomes = store.outcomes(first.key())
    about = read_json(outcomes.with_name("provenance.json"))
    images = about.pop(DIGESTS)["images"]
    others = [dataclasses.replace(first, defense=Part(RIVAL, {}, 1))]
    others += [dataclasses.replace(first, seed=seed) for seed in range(1, cells - 1)]
    for cell in others:
        other = store.cell(cell.key())
        other.mkdir(parents=True)
        content = {**cell.canonical(), **NOTHING_SET.stored()}
        write_json(other / "cell.json", content)
        (other / outcomes.name).write_bytes(outcomes.read_bytes())
        write_json(other / "provenance.json", sealed(content, about, outcomes, images))
    return [first, *others]


def _outcomes() -> dict[str, Any]:
    votes = [np.array([1, 0]), np.array([0, 1])] * (_IMAGES // 2)
    right = [True, False] * (_IMAGES // 2)
    return {
        "index": list(range(_IMAGES)),
        "label": [0] * _IMAGES,
        "distance": [0.0] * _IMAGES,
        "legal": [True] * _IMAGES,
        "clean": right,
        "robust": right,
        "clean_votes": votes,
        "votes": votes,
        "clean_logits": votes,
        "logits": votes,
    }


def _about() -> dict[str, Any]:
    return {
        **origin(),
        "attack passes": {"classifier forward": 1},
        "judge passes": {"classifier forward": 2},
        "attack seconds": 0.1,
        "judge seconds": 0.1,
        "flags": [],
        "devices": ["cpu"],
        "peak memory MiB": 1,
    }
