"""A cell from attack to rows: bit-identity, shared proposals, and what goes wrong."""

from __future__ import annotations

import dataclasses
import random
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyautoattack
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import bench.run
from bench.cell import Cell, Part
from bench.data import Pixels, load_test
from bench.defense import Defense
from bench.errors import AttackWarning, PluginError
from bench.judge import Outcomes, judge
from bench.passes import count_passes
from bench.prepare import Prepared
from bench.progress import Progress, finish
from bench.protocols import Calls, Images, View
from bench.rng import Rng
from bench.run import run_cell
from bench.store import Store, read_json
from bench.table import collect, with_worst_case, write_runs
from bench.threat import Access, Norm, ThreatModel
from bench.workspace import Workspace
from bench_attacks.autoattack import AutoAttack
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd
from bench_defenses.energy import EnergyNet
from bench_defenses.gaussian import Gaussian
from bench_defenses.langevin import LangevinPurifier
from bench_defenses.none import Identity
from bench_defenses.small_cnn import SmallCnnNet

CPU = torch.device("cpu")


def seeded(make: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(dtype).eval()


_FITTED: dict[torch.dtype, dict[str, Tensor]] = {}


def classifier(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small network fitted to digits in a second, so that some images are right."""
    net = seeded(lambda: SmallCnnNet((1, 8, 8), classes=10, width=4), torch.float32)
    if not _FITTED:
        images = load_test("digits", root=Path()).images(100, 500)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images.x), images.y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        _FITTED[torch.float32] = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(_FITTED[torch.float32])
    return net.to(dtype)


def langevin(dtype: torch.dtype = torch.float32, noise: float = 0.05) -> LangevinPurifier:
    energy = seeded(lambda: EnergyNet((1, 8, 8), width=2), dtype)
    return LangevinPurifier(energy, steps=2, step_size=5.0, noise=noise)


@dataclasses.dataclass(frozen=True)
class DoublePixels(Pixels):
    """A test set whose images come in float64."""

    def images(self, start: int, stop: int) -> Images:
        block = super().images(start, stop)
        return Images(block.indices, block.x.double(), block.y)


def prepared(
    purifier: Any = None,
    attack: Any = None,
    *,
    name: str = "langevin",
    access: Access = Access.FULL,
    eps: Fraction = Fraction(15, 100),
    n: int = 12,
    shard: int = 4,
    draws: int = 5,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Prepared:
    """Build by hand what `prepare` builds from a request."""
    attack = attack or Pgd(steps=3, eot=2)
    pixels = load_test("digits", root=Path())
    if dtype == torch.float64:
        pixels = DoublePixels(pixels.x, pixels.y, pixels.top, pixels.digest)
    cell = Cell(
        dataset="digits",
        data=pixels.digest,
        n=n,
        shard=shard,
        classifier=Part("small_cnn", {"dtype": str(dtype)}, 1, "fitted"),
        defense=Part(name, {}, 1),
        attack=Part(type(attack).__name__, dataclasses.asdict(attack), 1),
        threat=ThreatModel(Norm.LINF, eps, access),
        seed=seed,
        draws=draws,
    )
    return Prepared(
        cell, Defense(purifier or langevin(dtype), classifier(dtype)), attack, pixels
    )


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return at(tmp_path / "results")


def at(root: Path) -> Workspace:
    return Workspace(Store(root), root, root, CPU)


def rows(made: Prepared, space: Workspace) -> pd.DataFrame:
    finish(run_cell(made, space=space))
    return pd.read_parquet(space.store.outcomes(made.cell.key()))


def assert_equal(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def proposals(space: Workspace) -> list[Path]:
    return sorted((space.store.root / "images").rglob("*.safetensors"))


def about(made: Prepared, space: Workspace) -> dict[str, Any]:
    return read_json(space.store.cell(made.cell.key()) / "provenance.json")


def stop_after(made: Prepared, space: Workspace, shards: int) -> None:
    """Run a cell and stop it once so many shards are there."""
    for k, _ in enumerate(run_cell(made, space=space)):
        if k == shards:
            return


def test_a_row_is_what_the_judge_said(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = prepared(n=6, shard=4), []

    def spied(*args: Any, **rest: Any) -> Outcomes:
        said.append(judge(*args, **rest))
        return said[-1]

    monkeypatch.setattr(bench.run, "judge", spied)
    found = rows(made, space)
    assert found["index"].tolist() == list(range(6))
    assert found["label"].tolist() == made.pixels.y[:6].tolist()
    for name in ("distance", "legal", "clean", "robust"):
        assert found[name].tolist() == torch.cat([getattr(o, name) for o in said]).tolist()
    for name in ("clean_votes", "votes"):
        expected = torch.cat([getattr(o, name) for o in said]).numpy()
        assert np.array_equal(np.stack(list(found[name])), expected)
        assert (expected.sum(1) == 5).all()
    assert (found["distance"] <= 0.15 + 1e-6).all()
    assert found["robust"].sum() < found["clean"].sum(), "the case tells nothing"


def test_rows_of_a_shard_depend_on_no_other_shard(space: Workspace, tmp_path: Path) -> None:
    """Whatever is there already, and in whatever order it came."""
    whole = rows(prepared(), space)
    for k, present in enumerate([{0}, {4}, {8}, {0, 8}, {4, 8}, set()]):
        part = at(tmp_path / f"part{k}")
        made = prepared()
        stop_after(made, part, shards=3)  # all shards, not yet joined
        for start in {0, 4, 8} - present:
            part.store.shard(made.cell.key(), start).unlink()
            if k % 2:  # the images of the attack are made again as well
                part.store.proposal(made.cell.proposal_key(), start, start + 4).unlink()
        assert_equal(rows(prepared(), part), whole)


def test_shards_that_are_there_are_not_done_again(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(prepared(), space, shards=2)
    calls: list[int] = []
    monkeypatch.setattr(
        bench.run, "judge", lambda *args, **rest: calls.append(1) or judge(*args, **rest)
    )
    with count_passes({"classifier": (made := prepared()).defense.classifier}) as counts:
        finish(run_cell(made, space=space))
        assert len(calls) == 1
        first = dict(counts)
        finish(run_cell(made, space=space))
        assert dict(counts) == first, "a finished cell asks no network anything"
    assert not (space.store.cell(made.cell.key()) / "shards").exists()


@pytest.mark.parametrize("shards", [0, 1, 2, 3])
def test_a_run_that_another_process_overtakes_ends_as_that_one(
    shards: int, space: Workspace, tmp_path: Path
) -> None:
    slow = run_cell(prepared(), space=space)
    for _ in range(shards + 1):
        next(slow)
    quick = rows(prepared(), at(space.store.root))
    finish(slow)
    assert_equal(rows(prepared(), space), quick)
    assert not (space.store.cell(prepared().cell.key()) / "shards").exists()


def test_images_that_are_there_are_judged_as_if_just_made(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(prepared(), space)
    expected = about(prepared(), space)
    folder = space.store.cell(prepared().cell.key())
    (folder / "outcomes.parquet").unlink()
    monkeypatch.setattr(Pgd, "__call__", None)
    assert_equal(rows(prepared(), space), first)
    again = about(prepared(), space)
    for name in ("attack passes", "attack seconds", "judge passes", "flags"):
        assert again[name] == expected[name]


def test_more_images_go_on_from_fewer(space: Workspace, tmp_path: Path) -> None:
    fewer = rows(prepared(n=8), space)
    stamps = {path: path.stat().st_mtime_ns for path in proposals(space)}
    assert len(stamps) == 2
    made = prepared(n=16)
    with count_passes({"classifier": made.defense.classifier}) as counts:
        more = rows(made, space)
    alone = rows(prepared(n=16), at(tmp_path / "alone"))
    assert_equal(more, alone)
    assert_equal(more[:8], fewer)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(proposals(space)) == 4
    # Of the attack the last two shards alone: 4 evaluations of 2 draws; of the judge all.
    attacked, judged = 8 * 4 * 2, 16 * 2 * 5
    assert counts["classifier forward"] == attacked + judged


def test_a_shard_that_is_cut_short_is_attacked_anew(space: Workspace) -> None:
    finish(run_cell(prepared(n=6), space=space))
    finish(run_cell(prepared(n=8), space=space))
    names = [path.name.partition(".")[0] for path in proposals(space)]
    assert names == ["000000-000004", "000004-000006", "000004-000008"]


def test_more_draws_of_the_judge_attack_nothing_anew(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(run_cell(prepared(draws=5), space=space))
    monkeypatch.setattr(Pgd, "__call__", None)
    found = rows(prepared(draws=9), space)
    assert all(votes.sum() == 9 for votes in found["votes"])
    with pytest.raises(TypeError):  # another seed is another attack
        finish(run_cell(prepared(seed=1), space=space))


@pytest.mark.parametrize("access", [Access.FULL, Access.BPDA, Access.TRANSFER])
def test_in_float64_the_size_of_shards_changes_nothing(access: Access, tmp_path: Path) -> None:
    found = {
        shard: rows(
            prepared(shard=shard, access=access, eps=Fraction(1, 20), dtype=torch.float64),
            at(tmp_path / str(shard)),
        )
        for shard in (1, 5, 12)
    }
    exact = ["index", "label", "legal", "clean", "robust", "clean_votes", "votes"]
    for shard in (1, 5):
        assert_equal(found[shard][exact], found[12][exact])
        difference = (found[shard]["distance"] - found[12]["distance"]).abs()
        assert difference.max() < 1e-9
    assert 0 < found[12]["robust"].sum() < 12


def test_images_stay_float64_on_the_disk(space: Workspace) -> None:
    finish(run_cell(prepared(n=2, dtype=torch.float64), space=space))
    (path,) = proposals(space)
    assert load_file(path)["x_adv"].dtype == torch.float64


@dataclasses.dataclass(frozen=True)
class Counting:
    """Bright noise as an attack; counts its calls."""

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    accesses: ClassVar[tuple[Access, ...]] = (Access.TRANSFER, Access.BPDA)
    unbounded: ClassVar[bool] = False
    made: ClassVar[list[int]] = []

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        self.made.append(len(x))
        return (x + threat.radius * rng.uniform_like(x)).clamp(0, 1)

    def calls(self, *, stochastic: bool, classes: int) -> Calls:
        return Calls()


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
    finish(run_cell(one, space=at(tmp_path)))
    finish(run_cell(other, space=at(tmp_path)))
    assert len(Counting.made) == made
    assert len(proposals(at(tmp_path))) == made


def test_a_transfer_attack_does_not_touch_the_purifier(space: Workspace) -> None:
    made = prepared(access=Access.TRANSFER)
    finish(run_cell(made, space=space))
    assert set(about(made, space)["attack passes"]) == {
        "classifier forward", "classifier backward"
    }  # fmt: skip


def adversarial(made: Prepared, space: Workspace, start: int, stop: int) -> Tensor:
    return load_file(space.store.proposal(made.cell.proposal_key(), start, stop))["x_adv"]


@pytest.mark.parametrize("eps", [Fraction(1, 10), Fraction(2, 5)])
def test_autoattack_in_the_harness_is_autoattack_alone(eps: Fraction, space: Workspace) -> None:
    """Image by image, in two shards, with images that break and images that do not."""
    made = prepared(Identity(), AutoAttack(), name="none", access=Access.TRANSFER, eps=eps, n=8)
    found = rows(made, space)
    for start in (0, 4):
        block = made.pixels.images(start, start + 4)
        seed = Rng.seeded(made.cell.seed, block.indices).fork("attack").integer()
        with torch.random.fork_rng(devices=[]):
            library = pyautoattack.AutoAttack(
                classifier(), device=CPU, eps=float(eps), norm="Linf", seed=seed,
                version="standard",
            )  # fmt: skip
            expected = library.run_standard_evaluation(block.x, block.y, batch_size=4)[0]
        assert torch.equal(adversarial(made, space, start, start + 4), expected)
        wrong = classifier()(expected).argmax(1) != block.y
        assert found["robust"][start : start + 4].tolist() == (~wrong).tolist()
    assert found["legal"].all()
    assert found["clean"].sum() > 0
    assert found["robust"].sum() < found["clean"].sum()
    assert any(
        flag.startswith("pyautoattack 0.2.0 standard") for flag in about(made, space)["flags"]
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
            warnings.warn(f"image {int(rng.images[0])} is odd", AttackWarning, stacklevel=1)
            warnings.warn("said by all", AttackWarning, stacklevel=1)
        return x + far


@pytest.mark.parametrize("script", ["outside", "nan", "out of the box"])
def test_an_attack_that_leaves_the_ball_voids_its_cell(script: str, space: Workspace) -> None:
    made = prepared(Identity(), Scripted(script=script), name="none", access=Access.TRANSFER)
    found = rows(made, space)
    assert found["legal"].tolist() == [True, False] * 6
    assert found["robust"].equals(found["clean"]), "no broken image, and no robust one made"
    assert len(found) == 12
    honest = prepared(
        Identity(), Scripted(script="honest"), name="none", access=Access.TRANSFER
    )
    finish(run_cell(honest, space=space))
    table = collect(space.store).set_index("key")
    row = table.loc[made.cell.key()]
    assert row["state"] == "void"
    assert row["note"] == "6 images outside the ball"
    assert row["robust"] == row["clean"]
    assert table.loc[honest.cell.key()]["state"] == "done"
    joined = with_worst_case(collect(space.store), space.store)
    (worst,) = joined[joined["attack"] == "worst case"]["note"]
    assert worst == "minimum per image over Scripted"


def test_warnings_of_an_attack_become_flags(space: Workspace) -> None:
    made = prepared(Identity(), Scripted(script="warns"), name="none", access=Access.TRANSFER)
    finish(run_cell(made, space=space))
    expected = [f"image {start} is odd" for start in (0, 4, 8)] + ["said by all"]
    assert about(made, space)["flags"] == expected
    assert collect(space.store)["note"][0] == "; ".join(expected)
    space.store.outcomes(made.cell.key()).unlink()
    finish(run_cell(made, space=space))
    assert about(made, space)["flags"] == expected, "they are kept beside the images"


@dataclasses.dataclass(frozen=True)
class Shouting(Counting):
    """Warns of something that is no AttackWarning."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        warnings.warn("for the user and not for the table", UserWarning, stacklevel=1)
        return x


def test_other_warnings_are_passed_on_and_are_no_flags(space: Workspace) -> None:
    made = prepared(Identity(), Shouting(), name="none", access=Access.TRANSFER, n=4)
    with pytest.warns(UserWarning, match="for the user"):
        finish(run_cell(made, space=space))
    assert about(made, space)["flags"] == []


class Sick(nn.Module):
    """A purifier that returns NaN for one image of the test set, known by its pixels."""

    stochastic = False
    differentiable = True

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        hit = ((x - self.x).abs().flatten(1).amax(1) < 0.3).reshape(-1, 1, 1, 1)
        return torch.where(hit, torch.nan, x)


@pytest.mark.parametrize("attack", [Pgd(steps=2, eot=1), Noise(tries=2)])
def test_nan_from_a_defense_is_an_error_and_earlier_shards_are_kept(
    attack: Any, space: Workspace
) -> None:
    access = attack.accesses[0]
    image = load_test("digits", root=Path()).images(9, 10).x
    given = {"attack": attack, "name": "sick", "access": access}
    sick = prepared(Sick(image), **given)
    with pytest.raises(PluginError, match="returned NaN for images of the box"):
        finish(run_cell(sick, space=space))
    key = sick.cell.key()
    kept = {start: space.store.shard(key, start) for start in (0, 4)}
    stamps = {start: path.stat().st_mtime_ns for start, path in kept.items()}
    assert not space.store.shard(key, 8).exists()
    assert not space.store.done(sick.cell)
    assert collect(space.store)["state"].tolist() == ["unfinished"]
    for _ in run_cell(prepared(Identity(), **given), space=space):
        assert all(path.stat().st_mtime_ns == stamps[start] for start, path in kept.items())
    assert collect(space.store)["state"].tolist() == ["done"]


def test_provenance_says_how_and_nothing_of_whom(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "/home/someone/on/this/machine"
    monkeypatch.setattr(
        sys, "argv", [f"{secret}/bin/bench", "run", "--results", f"{secret}/results", "-n", "4"]
    )
    made = prepared(n=4)
    finish(run_cell(made, space=space, settings="attack.steps=3"))
    write_runs(space.store)
    found = about(made, space)
    assert found["command"] == "bench run --results results -n 4"
    assert found["commit"] is None or len(found["commit"].rstrip("+")) == 40
    assert {"python", "purifybench", "torch", "numpy", "pyautoattack"} <= found[
        "versions"
    ].keys()
    assert len(found["devices"]) == 1
    assert found["devices"][0].startswith("cpu ")
    assert "threads" in found["devices"][0]
    assert found["attack seconds"] > 0
    assert found["judge seconds"] > 0
    assert found["peak memory MiB"] > 10
    # PGD: 3 gradients and a last look, 2 draws each, 2 steps each; the replay adds (1, 2).
    assert found["attack passes"] == {
        "classifier forward": 4 * 8, "classifier backward": 4 * 6,
        "energy forward": 4 * (16 + 12), "energy backward": 4 * (16 + 24),
    }  # fmt: skip
    assert found["judge passes"] == {
        "classifier forward": 4 * 10, "energy forward": 4 * 20, "energy backward": 4 * 20,
    }  # fmt: skip
    hidden = [secret, str(space.store.root), str(Path.home()), socket.gethostname()]
    for path in space.store.root.rglob("*"):
        if path.suffix in (".json", ".csv"):
            text = path.read_text()
            assert not [word for word in hidden if word in text], path


@pytest.mark.parametrize("word", ["--results=/home/someone/results", "-o/home/someone/x.md"])
def test_a_path_behind_an_equals_sign_is_cut_too(
    word: str, space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "run", word])
    made = prepared(n=4)
    finish(run_cell(made, space=space))
    assert "someone" not in about(made, space)["command"]


def test_costs_are_those_of_all_shards(space: Workspace, tmp_path: Path) -> None:
    whole, part = prepared(n=12), prepared(n=4)
    other = at(tmp_path / "other")
    finish(run_cell(whole, space=space))
    finish(run_cell(part, space=other))
    for name in ("attack passes", "judge passes"):
        once = about(part, other)[name]
        assert about(whole, space)[name] == {key: 3 * count for key, count in once.items()}


@dataclasses.dataclass(frozen=True)
class Guessing(Counting):
    """Foresees all of the judge's noise, if their streams have a root in common."""

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        for purpose in ("clean", "adversarial"):
            rng.fork(purpose).repeat(5).normal_like(x.repeat_interleave(5, dim=0))
            rng.fork("judge").fork(purpose).repeat(5).normal_like(x.repeat_interleave(5, dim=0))
        return x


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[tuple[int, int]]]]:
    """Collect the streams, by key and image, that attack and judge draw bits from."""
    used: dict[str, set[tuple[int, int]]] = {"attack": set(), "judge": set()}
    who = "attack"
    bits = Rng.bits

    def spied(self: Rng, shape: Any) -> Tensor:
        used[who] |= {(self.key, int(image)) for image in self.images}
        return bits(self, shape)

    def judging(*args: Any, **rest: Any) -> Outcomes:
        nonlocal who
        who = "judge"
        try:
            return judge(*args, **rest)
        finally:
            who = "attack"

    with monkeypatch.context() as patch:
        patch.setattr(Rng, "bits", spied)
        patch.setattr(bench.run, "judge", judging)
        yield used


def test_the_judge_draws_on_streams_that_the_attack_never_saw(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch) as used:
        finish(run_cell(prepared(), space=space))
    assert {image for _, image in used["attack"]} == set(range(12))
    assert {image for _, image in used["judge"]} == set(range(12))
    assert not used["attack"] & used["judge"]
    # Each of the judge's two votes with two steps of noise of its own.
    assert len({key for key, _ in used["judge"]}) == 4


def test_an_attack_that_knows_the_names_of_the_judges_streams_cannot_open_them(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared(Gaussian(0.2), Guessing(), name="gaussian", access=Access.BPDA)
    with recorded(monkeypatch) as used:
        finish(run_cell(made, space=space))
    assert len(used["judge"]) == 2 * 12
    assert len(used["attack"]) == 4 * 12
    assert not used["attack"] & used["judge"]


def states() -> tuple[Any, ...]:
    kind, keys, place, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), kind, list(keys), place, rest


@pytest.mark.parametrize("attack", [Pgd(steps=2, eot=2), AutoAttack()])
def test_a_run_leaves_the_global_generators_alone_and_heeds_them_not(
    attack: Any, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"attack": attack, "n": 4, "access": Access.TRANSFER}
    given["eps"] = Fraction(2, 5)  # large, so that AutoAttack is soon done
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = states()
        found.append(rows(prepared(**given), at(tmp_path / str(seed))))
        assert states() == before
    assert_equal(*found)


class Careless(nn.Module):
    """A purifier that draws on torch's global generator, which the contract forbids."""

    stochastic = True
    differentiable = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + 0.5 * torch.randn_like(x)


def test_noise_of_the_global_generator_is_not_repeatable_as_ours_is(tmp_path: Path) -> None:
    """The check of bit-identity finds the fault that the purifier contract forbids."""

    def two(purifier: Any) -> list[pd.DataFrame]:
        return [
            rows(
                prepared(purifier, Noise(tries=1), access=Access.QUERY),
                at(tmp_path / type(purifier).__name__ / str(k)),
            )
            for k in range(2)
        ]

    assert_equal(*two(Gaussian(0.5)))
    with torch.random.fork_rng(devices=[]), pytest.raises(AssertionError):
        assert_equal(*two(Careless()))


def test_progress_counts_images(space: Workspace) -> None:
    told: list[Progress] = list(run_cell(prepared(), space=space))
    assert [now.done for now in told] == [0, 4, 8, 12]
    assert {now.total for now in told} == {12}
    assert {now.what for now in told} == {"langevin under Pgd"}
    assert list(run_cell(prepared(), space=space)) == []


@dataclasses.dataclass(frozen=True)
class Returns(Counting):
    """Returns something else than images of the same shape."""

    what: str = "fewer"

    def __call__(
        self, view: View, x: Tensor, y: Tensor, *, threat: ThreatModel, rng: Rng
    ) -> Tensor:
        wrong: Any = {"fewer": x[1:], "none": None, "integers": x.long()}[self.what]
        return wrong  # type: ignore[no-any-return]


@pytest.mark.parametrize("what", ["fewer", "none", "integers"])
def test_an_attack_that_returns_no_images_is_an_error(what: str, space: Workspace) -> None:
    made = prepared(Identity(), Returns(what=what), name="none", access=Access.TRANSFER)
    with pytest.raises(PluginError, match="the attack returned"):
        finish(run_cell(made, space=space))
    assert collect(space.store)["state"].tolist() == ["unfinished"]
