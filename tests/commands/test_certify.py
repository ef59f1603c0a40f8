"""bench certify: what it prints, keeps and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.results.store import Store

from ..command import TINY, Bench, is_one_clear_message, never

SMALL = (TINY[0], "-n", "4", "--draws=40")
CERTIFY = ("certify", "--defense=gaussian", "--set=defense.sigma=0.1", *SMALL)
ATTACK = ("run", "--defense=gaussian", "--set=defense.sigma=0.1", "--attack=noise",
          "--set=attack.tries=1", "--norm=L2", "--eps=0.05", *TINY)  # fmt: skip
MAKES = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Makes:
    revision = 1
    kind = "filter"
    source = "a test"
    stochastic = True
    differentiable = True
    def purifier(self, *, shape):
        return Noisy()
"""
FILE = """
class Noisy:
    stochastic = True
    differentiable = True
    def purify(self, x, *, rng):
        return x + 0.1 * rng.normal_like(x)
"""


def test_a_certificate_is_made_once_and_stands_beside_robust(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked = bench(*ATTACK, "--json")
    assert attacked.rows[0]["certified"] is None
    assert "certified" not in bench("table").out
    said = bench(*CERTIFY, "--radius=0.05", "--radius=0.0", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["n"], found["draws"], found["sigma"]) == (4, 40, 0.1)
    assert [row["radius"] for row in found["certified"]] == [0.05, 0.0]
    assert found["certified"][0]["certified"] <= found["certified"][1]["certified"]
    never(monkeypatch, "bench.certification.run.drawn")
    again = bench(*CERTIFY)
    assert again.code == 0
    assert "noise 0.1, 40 draws, each radius at 99.9 %" in " ".join(again.out.split())
    assert found["key"] in again.out
    (row,) = bench(*ATTACK, "--json").rows
    assert row["certified"] == found["certified"][0]["certified"]
    assert "certified" in bench("table").out
    assert len(Store(tmp_path / "results").cells()) == 1, "a certificate is no attack's cell"


def test_the_votes_of_a_certificate_are_drawn_again(bench: Bench, tmp_path: Path) -> None:
    assert bench(*CERTIFY).code == 0
    said = bench("verify", "--votes")
    assert (said.code, said.err.count("WRONG")) == (0, 0)
    assert "NOT CHECKED" not in said.out
    own = Store(tmp_path / "results" / "certificates")
    (key,) = own.finished()
    own.outcomes(key).write_bytes(b"no table")
    said = bench("verify")
    assert said.code == 1
    assert f"certificate {key}" in said.out


def test_a_defense_without_a_certificate_is_refused_before_it_is_trained(
    bench: Bench, tmp_path: Path
) -> None:
    for name in ("ebm", "jpeg", "none"):
        said = bench("certify", f"--defense={name}", *SMALL)
        is_one_clear_message(said, f"{name} has no certificate", "gaussian, dds", code=2)
    assert not (tmp_path / "results" / "checkpoints").exists()
    said = bench(*CERTIFY, "--set=attack.steps=3")
    is_one_clear_message(said, "holds for every attack", code=2)
    said = bench(*CERTIFY, "--radius=inf")
    is_one_clear_message(said, "a certified radius is finite", code=2)


@pytest.mark.parametrize(
    ("says", "code", "parts"),
    [("", 2, ("mine.py:Noisy has no certificate",)),
     ("None", 2, ("has no certificate",)),
     ("0.1", 0, ()),
     ("0.2", 1, ("first adds noise of deviation 0.2", "Draw the noise from rng.normal_like")),
     ("-1", 1, ("is -1, not a deviation. Return a finite number above 0",))],
)  # fmt: skip
def test_a_purifier_in_a_file_says_how_much_noise_it_adds(
    bench: Bench, tmp_path: Path, says: str, code: int, parts: tuple[str, ...]
) -> None:
    method = f"    def certified_noise(self):\n        return {says}\n" if says else ""
    (tmp_path / "mine.py").write_text(FILE + method)
    said = bench("certify", "--defense=mine.py:Noisy", *SMALL)
    if code:
        is_one_clear_message(said, *parts, code=code)
    else:
        assert said.code == 0, said.err
        assert bench("verify", "--votes").code == 0


@pytest.mark.parametrize("who", ["plugin", "purifier"])
def test_a_plugin_that_makes_its_purifier_by_shape_says_it_itself_or_by_that(
    bench: Bench, install: Callable[..., Path], who: str
) -> None:
    says = "    def certified_noise(self):\n        return 0.1\n"
    parts = (says, MAKES) if who == "purifier" else (MAKES, says)
    points = "[bench.defenses]\nmakes = makes_bench:Makes\n"
    install("makes", "makes_bench", FILE + "".join(parts), points)
    said = bench("certify", "--defense=makes", *SMALL)
    assert said.code == 0, said.err
