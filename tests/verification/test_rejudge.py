"""Stored images judged again: rounding, more draws, another defense, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.geometry import project, rounded, size
from bench.core.threat import Norm
from bench.data.load import load_test
from bench.results.store import Store
from bench.verification.recompute import _rounded as rounded_again
from bench.verification.rejudge import count_changes

from ..command import Bench
from .one_cell import RUN, TINY, only

cases = st.tuples(
    st.integers(0, 2**31), st.sampled_from(list(Norm)), st.sampled_from([1, 2, 4, 8])
)


def images_near(seed: int, norm: Norm, bits: int, *, on_grid: bool) -> tuple[Tensor, ...]:
    """Clean images, on the grid of ``bits`` or not, and legal proposals at a radius."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 2, 3, 3, generator=generator)
    x = ((x * 3) - 1).clamp(0, 1)
    top = 2**bits - 1
    if on_grid:
        x = (x * top).round() / top
    radius = torch.rand((), generator=generator)
    if seed % 3 == 0:  # a radius of whole levels, where float32 just misses the grid
        radius = (radius * top).round() / top
    wild = x + 3 * torch.randn(x.shape, generator=generator)
    return x, project(wild, x, norm, float(radius)), radius


@settings(deadline=None)
@given(case=cases, on_grid=st.booleans())
def test_a_rounded_pixel_is_the_best_level_by_exhaustion(
    case: tuple[int, Norm, int], on_grid: bool
) -> None:
    """Every level is tried; the tolerance is that of float32 alone."""
    x, x_adv, _ = images_near(*case, on_grid=on_grid)
    top = 2 ** case[2] - 1
    levels = (torch.arange(top + 1).double() / top).float()
    found = rounded(x_adv, x, case[2])
    assert torch.isin(found, levels).all()
    away = (levels.double() - x_adv[..., None].double()).abs()
    slack = 2.0**-23
    reach = (x_adv.double() - x.double()).abs()[..., None] + slack
    allowed = (levels.double() - x[..., None].double()).abs() <= reach
    allowed |= ~allowed.any(-1, keepdim=True)
    best = torch.where(allowed, away, torch.inf).amin(-1)
    assert torch.allclose((found.double() - x_adv.double()).abs(), best, rtol=0, atol=1e-7)
    farther = (found.double() - x.double()).abs() > reach[..., 0]
    assert ((x_adv - x).abs()[farther] < 1 / top).all(), "only where no level is that near"


@settings(deadline=None)
@given(case=cases)
def test_a_legal_image_stays_legal_where_clean_pixels_are_on_the_grid(
    case: tuple[int, Norm, int],
) -> None:
    x, x_adv, radius = images_near(*case, on_grid=True)
    found = rounded(x_adv, x, case[2])
    assert ((found >= 0) & (found <= 1)).all()
    assert (size(found.double() - x.double(), case[1]) <= float(radius) + 1e-6).all()
    assert torch.equal(rounded(found, x, case[2]), found), "done again it changes nothing"
    assert torch.equal(rounded(x, x, case[2]), x)


@settings(deadline=None)
@given(case=cases, on_grid=st.booleans())
def test_the_verifier_rounds_alike(case: tuple[int, Norm, int], on_grid: bool) -> None:
    x, x_adv, _ = images_near(*case, on_grid=on_grid)
    found = rounded_again(x_adv.numpy(), x.numpy(), case[2])
    assert torch.equal(torch.from_numpy(found), rounded(x_adv, x, case[2]))


def test_whole_levels_survive_float32() -> None:
    """x + 8/255 in float32 may lie a rounding error short of its level: that is the level."""
    short = 0
    for steps in (*range(-40, 0), *range(1, 41)):
        k = torch.arange(40, 216)
        x = (k / 255).reshape(1, 1, 11, 16)
        moved, level = x + steps / 255, ((k + steps) / 255).reshape(x.shape)
        short += int(((moved - x).abs() < (level - x).abs()).sum())
        short += int(((moved - level) * steps < 0).sum())
        assert torch.equal(rounded(moved, x, 8), level)
    assert short, "the case tells nothing"


def test_rounding_goes_towards_the_clean_image() -> None:
    x = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.4]).reshape(1, 1, 1, 5)
    x_adv = torch.tensor([0.9, 0.3, 0.1, 0.6, 0.45]).reshape(1, 1, 1, 5)
    # With one level in between (2 bits: 0, 1/3, 2/3, 1); the last lies within one level.
    expected = torch.tensor([2 / 3, 0, 1 / 3, 2 / 3, 1 / 3]).reshape(1, 1, 1, 5)
    assert torch.allclose(rounded(x_adv, x, 2), expected)


@pytest.fixture
def key(folder: Path) -> str:
    return only(folder).name


def no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*args: object, **rest: object) -> None:
        pytest.fail("attacked again")

    monkeypatch.setattr("bench_attacks.noise.Noise.__call__", called)


def rejudged(bench: Bench, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Judge again; the new cell and what was printed."""
    said = bench("judge", *words, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    new = found["rows"][1]["key"]
    return json.loads(Path(f"results/cells/{new}/cell.json").read_text()), found


def rows_of(key: str, results: str = "results") -> pd.DataFrame:
    return pd.read_parquet(Store(Path(results)).outcomes(key))


def test_more_draws_are_what_a_run_with_those_draws_finds(
    bench: Bench, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        no_attack(patch)
        cell, found = rejudged(bench, key[:6], "--draws=7")
    assert cell["draws"] == 7
    assert "images" not in cell
    assert cell["settings"] == "attack.tries=2 classifier.training.epochs=1"
    assert [row["key"] for row in found["rows"]] == [key, found["rows"][1]["key"]]
    assert bench(*RUN, "--draws=7", "--results=fresh").code == 0
    new = found["rows"][1]["key"]
    pd.testing.assert_frame_equal(rows_of(new), rows_of(new, "fresh"), check_exact=True)
    (fresh,) = Store(Path("fresh")).cells()
    assert (fresh / "cell.json").read_text() == Path(
        f"results/cells/{new}/cell.json"
    ).read_text()


def test_images_on_the_grid_are_judged_alike(bench: Bench, key: str) -> None:
    """The stored images are replaced by rounded ones, and the cell is judged on those."""
    shutil.rmtree(Path("results/cells"))
    pixels = load_test("digits", root=Path())
    for path in Path("results/images").rglob("*.safetensors"):
        start, stop = map(int, path.stem.split("-"))
        x = pixels.images(start, stop).x
        about = {"about": json.dumps({"flags": [], "passes": {}, "seconds": 0.0})}
        save_file({"x_adv": rounded(load_file(path)["x_adv"], x, 8)}, path, about)
    assert bench(*RUN).code == 0
    cell, found = rejudged(bench, key, "--bits=8")
    assert cell["bits"] == 8
    assert cell["settings"].endswith(".epochs=1 8 bits")
    new = found["rows"][1]["key"]
    pd.testing.assert_frame_equal(rows_of(new), rows_of(key), check_exact=True)
    assert (found["lost"], found["gained"], found["p"]) == (0, 0, 1.0)


def test_rounded_images_are_what_the_judge_sees(bench: Bench, key: str) -> None:
    cell, found = rejudged(bench, key, "--bits=8")
    (folder,) = Path("results/images").iterdir()
    assert "images" not in cell  # the same images, by the same key
    pixels = load_test("digits", root=Path()).images(0, 4)
    x_adv = rounded(load_file(sorted(folder.iterdir())[0])["x_adv"], pixels.x, 8)
    expected = size(x_adv.double() - pixels.x.double(), Norm.LINF)
    said = rows_of(found["rows"][1]["key"])["distance"][:4]
    assert said.tolist() == expected.tolist()
    assert said.tolist() != rows_of(key)["distance"][:4].tolist()


def test_images_of_one_defense_are_judged_on_another(
    bench: Bench, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_attack(monkeypatch)
    cell, found = rejudged(bench, key, "--defense=none")
    assert cell["defense"]["name"] == "none"
    assert cell["attack"]["name"] == "noise"
    assert cell["settings"].endswith(".epochs=1 images of gaussian")
    new = rows_of(found["rows"][1]["key"])
    assert new["distance"].tolist() == rows_of(key)["distance"].tolist()
    assert (new["votes"].map(sum) == 1).all(), "none is deterministic"
    change = count_changes(rows_of(key), new)
    assert (change.images, change.lost, change.gained) == (6, found["lost"], found["gained"])
    # From there to 8 bits, and back to the first defense: it is the cell's own images again.
    cell, _ = rejudged(bench, found["rows"][1]["key"], "--bits=8")
    assert cell["settings"].endswith(".epochs=1 images of gaussian, 8 bits")
    assert len(list(Path("results/images").iterdir())) == 1


def test_a_defense_takes_parameters(bench: Bench, key: str) -> None:
    cell, _ = rejudged(bench, key, "--defense=gaussian", "--set=defense.sigma=0.5")
    assert cell["defense"]["params"]["sigma"] == 0.5
    assert "defense.sigma=0.5 images of gaussian" in cell["settings"]


def test_transfer_images_belong_to_no_defense(bench: Bench) -> None:
    """They are shared: judged on another defense it is the cell that a run makes."""
    pgd = ("--attack=pgd", "--set=attack.steps=1", "--access=transfer", *TINY)
    assert bench("run", "--defense=none", *pgd).code == 0
    (source,) = Store(Path("results")).cells()
    cell, found = rejudged(bench, source.name, "--defense=gaussian", "--draws=4")
    assert "images" not in cell
    assert bench("run", "--defense=gaussian", *pgd, "--draws=4", "--dry-run").code == 0
    outline = bench("run", "--defense=gaussian", *pgd, "--draws=4", "--dry-run", "--json").out
    assert json.loads(outline)["key"] == found["rows"][1]["key"]
    assert json.loads(outline)["done"]


def test_both_rows_and_the_change_are_printed(bench: Bench, key: str) -> None:
    said = bench("judge", key, "--draws=5", "--bits=8")
    assert said.code == 0, said.err
    assert said.out.count("gaussian") >= 2
    assert "of 6 images" in said.out
    assert "McNemar's exact p" in said.out


def test_changes_are_counted_by_image() -> None:
    old = pd.DataFrame({"index": range(12), "robust": [True] * 6 + [False] * 6})
    new = pd.DataFrame({"index": range(12), "robust": [False] * 5 + [True] + [False] * 6})
    change = count_changes(old, new.sample(frac=1, random_state=0))
    assert (change.images, change.lost, change.gained) == (12, 5, 0)
    assert change.p == pytest.approx(2 * 0.5**5)
    assert count_changes(new, old).gained == 5
    assert count_changes(old, new.iloc[6:]).images == 6


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "give what to change: --draws, --bits or --defense"),
        (("--draws=3",), 2, "is judged in that way already"),
        (("--defense=gaussian",), 2, "is judged in that way already"),
        (("--draws=0",), 2, "draws is 0: it has to be 1 or more"),
        (("--bits=17",), 2, "bits is 17: it has to be 1 to 16"),
        (("--draws=4", "--set=defense.sigma=1"), 2, "--set belongs to --defense here"),
        (("--defense=none", "--set=attack.tries=1"), 2, "--set belongs to --defense here"),
        (("--defense=nome",), 2, "Did you mean 'none'?"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    bench: Bench, key: str, words: tuple[str, ...], code: int, message: str
) -> None:
    said = bench("judge", key, *words)
    assert said.code == code
    assert message in said.err
    assert len(Store(Path("results")).cells()) == 1


def test_a_key_has_to_be_one_of_a_finished_cell(bench: Bench, key: str) -> None:
    def refused(prefix: str) -> str:
        said = bench("judge", prefix, "--draws=5")
        assert said.code == 2
        return said.err

    assert f"'{key[:3]}' is too short" in refused(key[:3])
    assert "starts with 'zzzz'" in refused("zzzz")
    cell = Path("results/cells") / key
    shutil.copytree(cell, cell.with_name(f"{key[:8]}00000000"))
    assert "Give more characters" in refused(key[:8])
    (cell / "outcomes.parquet").unlink()
    assert f"cell {key} is not finished" in refused(key)


def test_images_that_are_not_there_are_asked_for(bench: Bench, key: str) -> None:
    next(Path("results/images").rglob("000004-*")).unlink()
    said = bench("judge", key, "--draws=5")
    assert said.code == 1
    assert "they are not tracked in git" in said.err
    assert "--attack=noise" in said.err, "the command that makes them"
    assert len(Store(Path("results")).cells()) == 1


def test_another_checkpoint_is_refused_and_nothing_is_trained(
    bench: Bench, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = Store(Path("results")).checkpoints()
    weights = {name: value + 1 for name, value in load_file(path).items()}
    save_file(weights, path)
    from bench.models.checkpoints import digest

    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"sha256": digest(path)}))
    said = bench("judge", key, "--draws=5")
    assert said.code == 1
    assert f"the checkpoint of small_cnn at hand is {digest(path)[:16]}, not" in said.err
    path.unlink()
    said = bench("judge", key, "--draws=5")
    assert said.code == 1
    assert "at hand is none, not" in said.err
    assert not path.exists()


def test_another_revision_is_refused(
    bench: Bench, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench_defenses.gaussian.Gaussian.revision", 99)
    said = bench("judge", key, "--draws=5")
    assert said.code == 1
    assert "gaussian is at revision 99 here, not 1" in said.err


def test_a_changed_cell_is_refused(bench: Bench, key: str) -> None:
    path = Path(f"results/cells/{key}/cell.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 5}))
    said = bench("judge", key, "--draws=5")
    assert said.code == 1
    assert "was changed: it hashes to" in said.err
