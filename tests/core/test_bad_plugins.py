"""Plugins that misbehave: one message that names the plugin and its distribution."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bench.results.store import Store

from ..command import TINY, Bench, is_one_clear_message, runs

FAKE = '''
import torch
from dataclasses import dataclass
from typing import ClassVar
from bench.api import Access, Calls, Norm

@dataclass(frozen=True)
class Far:
    """Leaves the ball."""
    revision: ClassVar[int] = 1
    norms: ClassVar = (Norm.LINF, Norm.L2)
    accesses: ClassVar = (Access.TRANSFER,)
    unbounded: ClassVar[bool] = False
    by: float = 0.5
    def __call__(self, view, x, y, *, threat, rng):
        return (x + self.by).clamp(0, 1)
    def calls(self, *, stochastic, classes):
        return Calls()

class Unreal(Far):
    """Returns NaN for one image and leaves the ball with another."""
    def __call__(self, view, x, y, *, threat, rng):
        x[0] = float("nan")
        x[1] = (x[1] + self.by).clamp(0, 1)
        return x

class Astray(Far):
    """Breaks images within the ball, and leaves it with the last one."""
    def __call__(self, view, x, y, *, threat, rng):
        x = x + torch.where(x > 0.5, -threat.radius, threat.radius)
        x[-1] += 1
        return x

class Short(Far):
    """Returns too few images."""
    def __call__(self, view, x, y, *, threat, rng):
        return x[1:]

class Text(Far):
    """Returns no images."""
    def __call__(self, view, x, y, *, threat, rng):
        return "x"

@dataclass(frozen=True)
class Nan:
    """Returns NaN."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    def purify(self, x, *, rng):
        return x * float("nan")

class Flat(Nan):
    """Changes the shape."""
    def purify(self, x, *, rng):
        return x.flatten(1)

@dataclass(frozen=True)
class Mute:
    """Purifies nothing."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

class Plain:
    """Is no dataclass."""

@dataclass(frozen=True)
class Bare:
    """Says nothing of itself."""

def function():
    """Makes nothing."""
'''
POINTS = """
[bench.attacks]
far = fake_errors:Far
unreal = fake_errors:Unreal
astray = fake_errors:Astray
short = fake_errors:Short
text = fake_errors:Text
bare_attack = fake_errors:Bare
[bench.defenses]
nan = fake_errors:Nan
flat = fake_errors:Flat
mute = fake_errors:Mute
plain = fake_errors:Plain
bare = fake_errors:Bare
function = fake_errors:function
absent = fake_errors:Absent
nowhere = fake_errors_nowhere:Absent
broken = fake_errors_broken:Broken
"""


@pytest.fixture
def fakes(install: Callable[..., Path]) -> None:
    """An installed distribution whose plugins misbehave, each in one way."""
    site = install("bad-plugins", "fake_errors", FAKE, POINTS, version="3.1")
    (site / "fake_errors_broken.py").write_text("raise RuntimeError('no GPU, no import')\n")


PLUGINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "breaks on import": (("--defense=broken",),
                         ("'broken'", "bad-plugins 3.1", "RuntimeError: no GPU,", "Repair")),
    "has no module": (("--defense=nowhere",),
        ("'nowhere'", "bad-plugins 3.1", "No module", "Repair")),
    "has no such class": (("--defense=absent",),
        ("'absent'", "bad-plugins 3.1", "Absent", "Repair")),
    "is no dataclass": (("--defense=plain",),
        ("'plain'", "bad-plugins 3.1", "purifies nothing")),
    "makes nothing": (("--defense=function",),
        ("function is a NoneType, not a purifier", "Name a function purify(x")),
    "has no purify": (("--defense=mute",), ("'mute'", "purify", "docs/plugins.md")),
    "says nothing of itself": (("--defense=bare",),
        ("'bare'", "bad-plugins 3.1", "revision", "docs/plugins.md")),
    "is no attack": (("--attack=bare_attack",),
                     ("'bare_attack'", "bad-plugins 3.1", "accesses", "docs/plugins.md")),
    "returns NaN": (("--defense=nan",), ("the purifier Nan returned NaN", "step size")),
    "changes the shape": (("--defense=flat",),
        ("the purifier Flat returned shape (4, 64)", "one image of the same shape for each")),
    "loses images": (("--attack=short",),
        ("the attack Short returned shape", "one image of the same shape")),
    "returns text": (("--attack=text",),
        ("the attack Text returned a str, not images", "Return one tensor")),
}  # fmt: skip


@pytest.mark.parametrize(("words", "parts"), PLUGINS.values(), ids=list(PLUGINS))
@pytest.mark.usefixtures("fakes")
def test_a_plugin_that(bench: Bench, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    base = ("run", "--defense=none", "--attack=noise", *TINY)
    is_one_clear_message(bench(*base, *words), *parts, code=1)


@pytest.mark.usefixtures("fakes")
def test_an_attack_that_leaves_the_ball_voids_the_cell_and_fails_the_command(
    bench: Bench,
) -> None:
    said = bench("run", "--defense=none", "--attack=far", *TINY)
    assert said.code == 1
    assert "void" in said.out
    assert "none under far: void: 4 images outside the ball" in said.err


LADDER = """
datasets: digits
classifiers: {name: small_cnn, set: {training: {epochs: 1}}}
defenses: none
attacks: [{name: noise, set: {tries: 1}}, astray, {name: square, set: {queries: 5, eot: 1}}]
threats: {eps: 0.4}
n: 12
draws: 3
ladder: listed
"""


@pytest.mark.usefixtures("fakes")
def test_what_a_void_cell_broke_is_attacked_again(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(LADDER)
    assert bench("matrix", "plan.yaml").code == 1
    found = {row["attack"]: row for row in runs(tmp_path)}
    assert found["astray"]["state"] == "void"
    left = round(float(found["noise"]["robust"]) * 12 / 100)
    outcomes = Store(tmp_path / "results").outcomes(found["astray"]["key"])
    assert pd.read_parquet(outcomes)["robust"].sum() < left, "the case tells nothing"
    assert int(found["square"]["attacked"]) == left
    table = bench("table", "--worst-case", "--format=csv").out
    (worst,) = [one for one in csv.DictReader(table.splitlines()) if "worst" in one["attack"]]
    assert float(worst["robust"]) == float(found["square"]["robust"])
    assert "3 done" in bench("status", "plan.yaml").out
    planned = json.loads(bench("matrix", "plan.yaml", "--dry-run", "--json").out)
    assert {cell["key"] for cell in planned} == {row["key"] for row in found.values()}


@pytest.mark.usefixtures("fakes")
def test_a_void_row_has_no_number_anywhere(bench: Bench, tmp_path: Path) -> None:
    (row,) = bench("run", "--defense=none", "--attack=far", *TINY, "--json").rows
    numbers = [name for name in row if name.startswith(("clean", "robust"))]
    assert len(numbers) == 10
    assert [row[name] for name in numbers] == [None] * 10
    assert bench("run", "--defense=none", "--attack=noise", *TINY).code == 0
    for words in ((), ("--rule=vote",), ("--rule=single", "--worst-case")):
        said = bench("table", "--format=csv", *words)
        (void,) = [one for one in csv.DictReader(said.out.splitlines())
                   if one["state"] == "void"]  # fmt: skip
        assert "".join(void[name] for name in numbers) == ""
    assert [runs(tmp_path)[k]["robust"] for k in (0, 1)].count("") == 1
    page = bench("report", "--defense=none", "--eps=8/255").out
    (line,) = [line for line in page.splitlines() if line.startswith("|") and "| far |" in line]
    assert "| void | | |" in line
    assert "0 wrong, 1 void" in bench("verify").out


@pytest.mark.usefixtures("fakes")
def test_runs_of_an_earlier_version_with_a_number_of_a_void_row_are_not_wrong(
    bench: Bench, tmp_path: Path
) -> None:
    assert bench("run", "--defense=none", "--attack=far", *TINY).code == 1
    path = tmp_path / "results" / "runs.csv"
    frame = pd.read_csv(path)
    frame["robust"], frame["audit"] = 50.0, "stands"
    frame.to_csv(path, index=False)
    assert "0 wrong in runs.csv" in bench("verify").out


@pytest.mark.usefixtures("fakes")
def test_nan_is_named_as_nan_and_not_as_outside_the_ball(bench: Bench) -> None:
    said = bench("run", "--defense=none", "--attack=unreal", *TINY, "--json")
    note = "1 images outside the ball; the attack returned NaN for 1 images"
    assert (said.rows[0]["state"], said.rows[0]["note"]) == ("void", note)
    is_one_clear_message(
        bench("report", "--defense=none", "--eps=8/255"), f"is void ({note})", code=2
    )
    assert f"none under unreal (void: {note}): ok" in bench("verify").out


@pytest.mark.parametrize("name", ["broken", "plain", "bare", "absent"])
@pytest.mark.usefixtures("fakes")
def test_a_broken_plugin_is_shown_as_an_error(bench: Bench, name: str) -> None:
    is_one_clear_message(bench("show", name), f"'{name}'", "bad-plugins 3.1", code=1)
