"""The layout of the museum: claims beside what attacks leave, also without weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ..command import Bench, is_one_clear_message

PLAN = """
title: A museum
layout: museum
runs:
  - datasets: mine.npz
    classifiers: {name: small_cnn, set: {width: 4, training.epochs: 1}}
    defenses: [none, bit_depth, lippe_ebm]
    attacks:
      - {name: noise, access: transfer, set: {tries: 1}}
      - {name: pgd, access: bpda, set: {steps: 3, eot: 1}}
    threats: {norm: Linf, eps: 0.3}
    n: 6
    draws: 1
    claims:
      bit_depth: {who: Xu, year: 2018, claim: 90 %, access: gray box}
      lippe_ebm: {who: Lippe, year: 2022, claim: nothing, access: none}
"""


def table(text: str) -> list[dict[str, str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    heads, _, *body = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(heads, row, strict=False)) for row in body]


@pytest.fixture
def plan(tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BENCH_WEIGHTS", raising=False)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", x=x[:10], y=y[:10], x_train=x, y_train=y)
    path = tmp_path / "museum.yaml"
    path.write_text(PLAN)
    return path


def test_a_claim_stands_beside_every_access_and_the_worst_case(
    bench: Bench, plan: Path, tmp_path: Path
) -> None:
    said = bench("paper", str(plan))
    assert said.code == 1, "a row has no number"
    assert "wrote " in said.out, said.err
    folder = tmp_path / "results" / "paper"
    none, bits, lippe = table((folder / "museum.md").read_text())
    assert (none["who"], bits["who"], bits["year"]) == ("", "Xu", "2018")
    assert bits["access of the claim"] == "gray box"
    for row in (none, bits):
        shares = {level: float(row[level].split()[0]) for level in ("transfer", "bpda")}
        assert float(row["worst case"].split()[0]) <= min(shares.values())
        lowest = "noise, transfer" if shares["transfer"] <= shares["bpda"] else "pgd, bpda"
        assert row["least left by"] == lowest
        assert row["state"] == "done"
    assert (lippe["state"], lippe["worst case"], lippe["clean"]) == ("failed", "", "")
    assert lippe["claim"] == "nothing"
    assert "lippe_mnist_ebm.ckpt is not there and cannot be downloaded" in lippe["note"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert bench("paper", "--rebuild").code == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    sidecar = json.loads(before["museum.json"])
    assert sidecar["runs"][0]["claims"]["bit_depth"]["claimed_access"] == "gray box"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("bit_depth: {who", "jpeg: {who", "claims names jpeg, which is none of the defenses"),
     ("      bit_depth: {who", "      #", "claims says nothing of bit_depth"),
     ("draws: 1", "ladder: true", "no access has a number of its own"),
     ("year: 2018, ", "", "claims, bit_depth: the key 'year' is missing"),
     ("{who: Xu", "{whoo: Xu", "there is no key 'whoo'. Did you mean 'who'?"),
     ("layout: museum", "layout: attacks", "'claims' is a key of the layouts museum and l")],
)  # fmt: skip
def test_a_museum_without_its_claims_is_refused(
    bench: Bench, plan: Path, old: str, new: str, said: str
) -> None:
    plan.write_text(PLAN.replace(old, new))
    is_one_clear_message(bench("paper", str(plan), "--dry-run"), said, code=2)
