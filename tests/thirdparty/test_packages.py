"""Packages of strangers through all commands: counts right, nothing changed, rows repeated."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ..cells import classifier
from ..command import TINY, Bench

HERE = Path(__file__).parent
POINTS = {
    "diffusion": "[bench.defenses]\nddpm = diffusion_x:Diffusion\n",
    "stateful": "[bench.defenses]\nstateful = stateful_x:Stateful\n",
    "pretrained": "[bench.classifiers]\npretrained = pretrained_x:Pretrained\n",
}
SMALL = ("-n", "4", "--draws=3", "--eps=0.1")
PRETRAINED = ("--classifier=pretrained", "--set=classifier.training.epochs=1")
PGD = ("--attack=pgd", "--set=attack.steps=2", "--set=attack.eot=2")

PLAN = (
    "{defenses: [none, %s], attacks: {name: pgd, set: {steps: 2, eot: 2}}, "
    "threats: {eps: 0.1}, n: 4, draws: 3, "
    "classifiers: {name: pretrained, set: {training: {epochs: 1}}}}"
)


@pytest.fixture
def packages(install: Callable[..., Path]) -> None:
    for name, points in POINTS.items():
        source = (HERE / f"{name}.py").read_text()
        site = install(f"{name}-x", f"{name}_x", source, points)
        if name == "pretrained":
            weights = classifier().state_dict()
            torch.save({f"module.{k}": v for k, v in weights.items()}, site / "pretrained.pth")


def cell(key: str, name: str, results: str = "results") -> Any:
    return json.loads(Path(results, "cells", key, name).read_text())


def outcomes(key: str, results: str = "results") -> bytes:
    return Path(results, "cells", key, "outcomes.parquet").read_bytes()


@pytest.mark.parametrize("defense", ["ddpm", "stateful"])
@pytest.mark.usefixtures("packages")
def test_all_commands_run_and_the_rows_repeat(bench: Bench, defense: str) -> None:
    plan = PLAN % defense
    Path("plan.yaml").write_text(f"{plan}\n")
    Path("table.yaml").write_text(f"title: T\nlayout: gain\nbaseline: none\nruns: [{plan}]\n")
    run = ("run", *PRETRAINED, *SMALL, *PGD, "--json")
    found = {}
    for name in (defense, "none"):
        said = bench(*run, f"--defense={name}")
        assert said.code == 0, said
        (found[name],) = said.rows
        assert found[name]["state"] == "done"
    row = found[defense]
    assert row["clean"] >= 75, "a network in training mode, or of other weights, knows nothing"
    (again,) = bench(*run, f"--defense={defense}", "--results=again").rows
    assert again["key"] == row["key"]
    assert outcomes(row["key"]) == outcomes(row["key"], "again")
    about = cell(row["key"], "provenance.json")
    # An image: two steps of two draws forward and back, and what the attack looks at after.
    seen = {name: count for name, count in about["attack passes"].items() if count}
    assert seen["classifier backward"] == 4 * 2 * 2
    judged = about["judge passes"]
    assert judged["classifier forward"] == 4 * 2 * 3
    if defense == "ddpm":
        (unet,) = {name.rpartition(" ")[0] for name in seen} - {"classifier"}
        assert seen[f"{unet} forward"] == 2 * seen["classifier forward"]
        assert seen[f"{unet} backward"] == 2 * seen["classifier backward"]
        assert judged[f"{unet} forward"] == 2 * judged["classifier forward"]
    for words in (
        ("compare", defense, "none", "--eps=0.1", "--json"),
        ("report", f"--defense={defense}", "--eps=0.1"),
        ("table", "--format=md"),
        ("judge", row["key"], "--draws=5", "--json"),
        ("verify", "--votes"),
        ("matrix", "plan.yaml"),
        ("paper", "table.yaml"),
        ("figure", "curves", "--attack=pgd"),
        (
            "figure",
            "pag",
            f"--defense={defense}",
            *PRETRAINED,
            "--steps=1",
            "-n",
            "4",
            "-m",
            "1",
        ),
    ):
        said = bench(*words)
        assert said.code == 0, (words, said)
        assert "Traceback" not in said.err
        if words[0] == "verify":
            # The sampler draws from torch's generator: noise, and so votes, go by the block.
            assert ("noise by block" in said.out) == (defense == "stateful")


@pytest.mark.usefixtures("packages")
def test_a_search_in_low_precision_calls_the_network_by_keyword(bench: Bench) -> None:
    run = ("run", *PRETRAINED, *SMALL, *PGD, "--defense=ddpm", "--search=bfloat16")
    said = bench(*run, "--json")
    assert said.code == 0, said
    assert said.rows[0]["state"] == "done"


@pytest.mark.usefixtures("packages")
def test_what_a_stranger_brought_is_as_it_was(bench: Bench) -> None:
    assert bench("run", *TINY, *PGD, "--defense=ddpm").code == 0
    module = sys.modules["diffusion_x"]
    made = module.Diffusion()
    unet, before = made.sampler.unet, {}
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    from bench.core.defense import Defense
    from bench.core.rng import Rng

    whole = Defense(made, classifier())
    x = torch.rand(3, 1, 8, 8)
    whole.classify(whole.purify(x, rng=Rng.seeded(0, torch.arange(3))))
    assert unet.training
    assert all(parameter.requires_grad for parameter in unet.parameters())
    assert all(torch.equal(before[k], v) for k, v in unet.state_dict().items())
    (copied,) = [m for m in whole.networks().values() if type(m) is type(unet)]
    assert not copied.training


@pytest.mark.usefixtures("packages", "short_autoattack")
@pytest.mark.parametrize("defense", [pytest.param("ddpm", marks=pytest.mark.slow), "stateful"])
def test_an_audit_of_a_stranger_runs_every_check(
    bench: Bench, defense: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.audit.attacks.QUERIES", 10)
    monkeypatch.setattr("bench.audit.attacks.TRIES", 10)
    said = bench("audit", *PRETRAINED, *SMALL, f"--defense={defense}", "--set=attack.steps=3",
                 "--set=attack.eot=2", "--json")  # fmt: skip
    assert said.code == 0, said
    findings = json.loads(said.out)["findings"]
    assert [f["check"] for f in findings] == [f"C{k}" for k in range(1, 30)]
    assert not [f for f in findings if "could not be run" in f["reason"]]
