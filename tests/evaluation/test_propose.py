"""What an attack proposed: stored, shared, judged again, and what it may not be."""

from __future__ import annotations

import dataclasses
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.core.networks import frozen
from bench.core.passes import count_passes
from bench.core.protocols import View
from bench.core.rng import Rng
from bench.core.threat import Access, ThreatModel
from bench.errors import AttackWarning, PluginError
from bench.evaluation import propose
from bench.evaluation.run import Prepared, run_cell
from bench.results.progress import finish
from bench.results.table import collect, with_worst_case
from bench.results.workspace import Workspace
from bench_attacks.autoattack import AutoAttack
from bench_attacks.pgd import Pgd
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity

from ..cells import (
    CPU,
    Counting,
    about,
    assert_equal,
    at,
    classifier,
    langevin,
    prepared,
    proposals,
    rows,
)


def test_images_that_are_there_are_judged_as_if_just_made(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(prepared(), workspace)
    expected = about(prepared(), workspace)
    folder = workspace.store.cell(prepared().cell.key())
    (folder / "outcomes.parquet").unlink()
    monkeypatch.setattr(Pgd, "__call__", None)
    assert_equal(rows(prepared(), workspace), first)
    again = about(prepared(), workspace)
    for name in ("attack passes", "attack seconds", "judge passes", "flags"):
        assert again[name] == expected[name]


def test_more_images_go_on_from_fewer(workspace: Workspace, tmp_path: Path) -> None:
    fewer = rows(prepared(n=8), workspace)
    stamps = {path: path.stat().st_mtime_ns for path in proposals(workspace)}
    assert len(stamps) == 2
    made = prepared(n=16)
    with count_passes({"classifier": made.defense.classifier}) as counts:
        more = rows(made, workspace)
    alone = rows(prepared(n=16), at(tmp_path / "alone"))
    assert_equal(more, alone)
    assert_equal(more[:8], fewer)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(proposals(workspace)) == 4
    # Of the attack the last two shards alone: 4 evaluations and 2 votes of 2 draws; of the
    # judge all.
    attacked, judged = 8 * (4 + 2) * 2, 16 * 2 * 5
    assert counts["classifier forward"] == attacked + judged


def test_a_shard_that_is_cut_short_is_attacked_anew(workspace: Workspace) -> None:
    finish(run_cell(prepared(n=6), workspace=workspace))
    finish(run_cell(prepared(n=8), workspace=workspace))
    names = [path.name.partition(".")[0] for path in proposals(workspace)]
    assert names == ["000000-000004", "000004-000006", "000004-000008"]


def test_more_draws_of_the_judge_attack_nothing_anew(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(run_cell(prepared(draws=5), workspace=workspace))
    monkeypatch.setattr(Pgd, "__call__", None)
    found = rows(prepared(draws=9), workspace)
    assert all(votes.sum() == 9 for votes in found["votes"])
    with pytest.raises(
        PluginError, match="the attack Pgd failed"
    ):  # another seed is another attack
        finish(run_cell(prepared(seed=1), workspace=workspace))


def test_images_stay_float64_on_the_disk(workspace: Workspace) -> None:
    finish(run_cell(prepared(n=2, dtype=torch.float64), workspace=workspace))
    (path,) = proposals(workspace)
    assert load_file(path)["x_adv"].dtype == torch.float64


@pytest.mark.parametrize(("access", "made"), [(Access.TRANSFER, 3), (Access.BPDA, 6)])
def test_purifiers_share_the_images_of_a_transfer_attack_alone(
    access: Access, made: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "made", [])
    one = prepared(langevin(), Counting(), name="langevin", access=access)
    other = prepared(Gaussian(0.2), Counting(), name="gaussian", access=access)
    assert one.cell.key() != other.cell.key()
    assert (one.cell.proposal_key() == other.cell.proposal_key()) == (made == 3)
    # Each with a store of its own, as two processes have it.
    finish(run_cell(one, workspace=at(tmp_path)))
    finish(run_cell(other, workspace=at(tmp_path)))
    assert len(Counting.made) == made
    assert len(proposals(at(tmp_path))) == made


def test_a_transfer_attack_does_not_touch_the_purifier(workspace: Workspace) -> None:
    made = prepared(access=Access.TRANSFER)
    finish(run_cell(made, workspace=workspace))
    assert set(about(made, workspace)["attack passes"]) == {
        "classifier forward", "classifier backward"
    }  # fmt: skip


def adversarial(made: Prepared, workspace: Workspace, start: int, stop: int) -> Tensor:
    return load_file(workspace.store.proposal(made.cell.proposal_key(), start, stop))["x_adv"]


def test_the_clock_stops_when_the_device_is_done(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device that works for ten seconds after an attack has returned."""
    now = [100.0]
    busy = [5.0]  # left over from what was done before the attack

    def settle(device: torch.device) -> None:
        now[0] += busy[0]
        busy[0] = 10.0

    monkeypatch.setattr(propose.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(propose, "synchronize", settle)
    made = prepared(n=2, shard=2)
    finish(run_cell(made, workspace=workspace))
    assert about(made, workspace)["attack seconds"] == 10.0


@pytest.mark.usefixtures("short_autoattack")
@pytest.mark.parametrize("eps", [Fraction(1, 10), Fraction(2, 5)])
def test_autoattack_in_the_harness_is_autoattack_alone(
    eps: Fraction, workspace: Workspace
) -> None:
    """Image by image, in two shards, with images that break and images that do not."""
    made = prepared(Identity(), AutoAttack(), name="none", access=Access.TRANSFER, eps=eps, n=8)
    found = rows(made, workspace)
    for start in (0, 4):
        block = made.pixels.images(start, start + 4)
        seed = Rng.seeded(made.cell.seed, block.indices).fork("attack").integer()
        with torch.random.fork_rng(devices=[]):
            library = pyautoattack.AutoAttack(
                frozen(classifier()), device=CPU, eps=float(eps), norm="Linf", seed=seed,
                version="standard",
            )  # fmt: skip
            expected = library.run_standard_evaluation(block.x, block.y, batch_size=4)[0]
        assert torch.equal(adversarial(made, workspace, start, start + 4), expected)
        wrong = frozen(classifier())(expected).argmax(1) != block.y
        assert found["robust"][start : start + 4].tolist() == (~wrong).tolist()
    assert found["legal"].all()
    assert found["clean"].sum() > 0
    assert found["robust"].sum() < found["clean"].sum()
    assert any(
        flag.startswith("pyautoattack 0.2.0 standard")
        for flag in about(made, workspace)["flags"]
    )


@dataclasses.dataclass(frozen=True)
class Scripted(Counting):
    """Returns what a script makes of its images; ``faults`` may warn."""

    script: str = "outside"

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        far = torch.zeros_like(x)
        if self.script == "outside":
            far[1::2] = 1.0
        elif self.script == "nan":
            far[1::2] = torch.nan
        elif self.script == "out of the box":
            far[1::2] = -0.01 - x[1::2]
        elif self.script == "warns":
            warnings.warn(f"image {int(rng._images[0])} is odd", AttackWarning, stacklevel=1)
            warnings.warn("said by all", AttackWarning, stacklevel=1)
        return x + far


@pytest.mark.parametrize("script", ["outside", "nan", "out of the box"])
def test_an_attack_that_leaves_the_ball_voids_its_cell(
    script: str, workspace: Workspace
) -> None:
    made = prepared(Identity(), Scripted(script=script), name="none", access=Access.TRANSFER)
    found = rows(made, workspace)
    assert found["legal"].tolist() == [True, False] * 6
    assert found["robust"].equals(found["clean"]), "no broken image, and no robust one made"
    assert len(found) == 12
    honest = prepared(
        Identity(), Scripted(script="honest"), name="none", access=Access.TRANSFER
    )
    finish(run_cell(honest, workspace=workspace))
    table = collect(workspace.store).set_index("key")
    row = table.loc[made.cell.key()]
    assert row["state"] == "void"
    said = (
        "the attack returned NaN for 6 images"
        if script == "nan"
        else "6 images outside the ball"
    )
    assert row["note"] == said
    assert row[["clean", "robust"]].isna().all(), "nothing was measured"
    assert table.loc[honest.cell.key()]["state"] == "done"
    joined = with_worst_case(collect(workspace.store), workspace.store)
    (worst,) = joined[joined["attack"] == "worst case"]["note"]
    assert worst == "minimum per image over Scripted"


def test_warnings_of_an_attack_become_flags(workspace: Workspace) -> None:
    made = prepared(Identity(), Scripted(script="warns"), name="none", access=Access.TRANSFER)
    finish(run_cell(made, workspace=workspace))
    expected = [f"image {start} is odd" for start in (0, 4, 8)] + ["said by all"]
    assert about(made, workspace)["flags"] == expected
    assert collect(workspace.store)["note"][0] == "; ".join(expected)
    workspace.store.outcomes(made.cell.key()).unlink()
    finish(run_cell(made, workspace=workspace))
    assert about(made, workspace)["flags"] == expected, "they are kept beside the images"


@dataclasses.dataclass(frozen=True)
class Shouting(Counting):
    """Warns of something that is no AttackWarning."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        warnings.warn("for the user and not for the table", UserWarning, stacklevel=1)
        return x


def test_other_warnings_are_passed_on_and_are_no_flags(workspace: Workspace) -> None:
    made = prepared(Identity(), Shouting(), name="none", access=Access.TRANSFER, n=4)
    with pytest.warns(UserWarning, match="for the user"):
        finish(run_cell(made, workspace=workspace))
    assert about(made, workspace)["flags"] == []


@dataclasses.dataclass(frozen=True)
class Returns(Counting):
    """Returns something else than images of the same shape."""

    what: str = "fewer"

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        wrong: Any = {"fewer": x[1:], "none": None, "integers": x.long()}[self.what]
        return wrong


@pytest.mark.parametrize("what", ["fewer", "none", "integers"])
def test_an_attack_that_returns_no_images_is_an_error(what: str, workspace: Workspace) -> None:
    made = prepared(Identity(), Returns(what=what), name="none", access=Access.TRANSFER)
    with pytest.raises(PluginError, match="the attack Returns returned"):
        finish(run_cell(made, workspace=workspace))
    assert collect(workspace.store)["state"].tolist() == ["unfinished"]


@dataclasses.dataclass(frozen=True)
class Forger(Pgd):
    """A cheating attack: it overwrites the images and labels that it is judged against."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        x.fill_(0.5)
        y.fill_(3)
        return x


def test_an_attack_cannot_overwrite_what_it_is_judged_against(workspace: Workspace) -> None:
    honest = rows(prepared(Identity(), Pgd(steps=1, eot=1), name="none"), workspace)
    forged = rows(prepared(Identity(), Forger(steps=1, eot=1), name="none"), workspace)
    assert forged["label"].tolist() == honest["label"].tolist()
    assert forged["distance"].min() > 0.15
    assert not forged["legal"].any()
    # Nor does it reach the data set, which later cells of the same process read.
    again = rows(prepared(Identity(), Pgd(steps=2, eot=1), name="none"), workspace)
    assert again["clean"].tolist() == honest["clean"].tolist()


@dataclasses.dataclass(frozen=True)
class Root(Identity):
    """Its slope is infinite where a pixel is black: at all pixels, or at one of the first."""

    black: bool = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        if self.black:
            return x.pow(0.5)
        bent = x.clone()
        bent[0, 0, 0, 0] = x[0, 0, 0, 0].pow(0.5)
        return bent


@pytest.mark.parametrize("black", [True, False])
def test_a_cell_says_that_many_pixels_had_no_gradient(
    workspace: Workspace, black: bool
) -> None:
    made = prepared(Root(black), attack=Pgd(steps=2, random_start=False), n=4)
    rows(made, workspace)
    flags = about(made, workspace)["flags"]
    assert ["NaN or infinite" in flag for flag in flags] == ([True] if black else [])
