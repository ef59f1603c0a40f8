"""Certified radii against closed forms, attacks, planted lies, and kills."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom, kstest
from torch import Tensor, nn

from bench.certification.noise import ExactNormals, check_noise
from bench.certification.run import _run, certificate_of, drawn
from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import PluginError
from bench.evaluation.run import Prepared, run_cell
from bench.paper import attacks
from bench.paper.cells import Cells
from bench.paper.spec import Head
from bench.paper.tables import page
from bench.results.certificates import certified, folder_of, lower_bound, radii
from bench.results.progress import finish
from bench.results.rows import write_runs
from bench.results.settings import NOTHING_SET
from bench.results.store import read_rows
from bench.results.table import collect
from bench.results.workspace import Workspace
from bench.verification.certificates import problems_of
from bench_attacks.apgd import Apgd
from bench_defenses.dds import OneStep
from bench_defenses.denoisers.diffusion import sigma_of
from bench_defenses.denoisers.unet import UNet
from bench_defenses.diffusion import Diffuser
from bench_defenses.gaussian import Gaussian
from bench_defenses.score import ScoreSteps

from ..cells import CPU, prepared

SIGMA = 0.3


class Plane(nn.Module):
    """Two classes on the two sides of a plane of known distance."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = nn.Parameter(torch.randn(64, generator=generator))

    def distance(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.w / self.w.norm()

    def forward(self, x: Tensor) -> Tensor:
        side = self.distance(x)
        return torch.stack([-side, side], dim=1)


def made(purifier: Any = None, *, sigma: float = SIGMA, n: int = 12, **more: Any) -> Prepared:
    purifier = purifier or Gaussian(sigma=SIGMA)
    ready = prepared(purifier, name="gaussian", n=n, **{"draws": 1000, **more})
    return certificate_of(ready, sigma)


def certify(one: Prepared, workspace: Workspace) -> pd.DataFrame:
    own = dataclasses.replace(workspace, store=folder_of(workspace.store))
    finish(_run(one, own, NOTHING_SET))
    return read_rows(own.store.outcomes(one.cell.key()))


def attacked(purifier: Any, eps: Fraction, workspace: Workspace, *, draws: int) -> pd.DataFrame:
    """Attack as hard as a test can, in an L2 ball."""
    attack = Apgd(steps=10, eot=10)
    one = prepared(purifier, attack, name="gaussian", eps=eps, draws=draws)
    threat = ThreatModel(Norm.L2, eps, Access.FULL)
    one = dataclasses.replace(one, cell=dataclasses.replace(one.cell, threat=threat))
    finish(run_cell(one, workspace=workspace))
    return read_rows(workspace.store.outcomes(one.cell.key()))


def test_the_bound_is_the_share_that_makes_as_many_votes_unlikely() -> None:
    counts = np.array([0, 1, 500, 999, 1000])
    found = lower_bound(counts, np.full(5, 1000), confidence=0.999)
    assert found[0] == 0
    assert found[-1] == pytest.approx(0.001 ** (1 / 1000))
    tails = binom.sf(counts[1:] - 1, 1000, found[1:])
    np.testing.assert_allclose(tails, 0.001, rtol=1e-6)


def test_an_image_without_a_clear_majority_abstains() -> None:
    selection = np.array([[60, 40], [60, 40], [10, 90]])
    votes = np.array([[1000, 0], [520, 480], [480, 520]])
    classes, found = radii(selection, votes, sigma=0.5, confidence=0.999)
    assert classes.tolist() == [0, 0, 1]
    assert found[0] > 1
    assert found[1:].tolist() == [0, 0]


def test_normals_are_those_of_the_theorem_and_their_tails_are_not_cut() -> None:
    rng = ExactNormals.of(Rng.seeded(0, range(40))).fork("tails").repeat(5)[:]
    numbers = rng.normal((10_000,)).flatten()
    assert kstest(numbers[:200_000].numpy(), "norm").pvalue > 0.01
    beyond = int((numbers.abs() > 4.5).sum())
    assert 5 <= beyond <= 25  # 13.6 are expected
    assert numbers.isfinite().all()
    assert torch.equal(rng[3:4].normal((7,)), rng.normal((7,))[3:4])


def test_radii_of_a_plane_are_just_below_its_distance() -> None:
    one = made(n=16, draws=2000, shard=16)
    plane = Plane()
    one = dataclasses.replace(one, defense=Defense(one.defense.purifier, plane))
    images = one.pixels.images(0, 16)
    labels = (plane.distance(images.x) > 0).long()
    pixels = dataclasses.replace(one.pixels, y=labels)
    rows, _ = drawn(dataclasses.replace(one, pixels=pixels), (0, 16), device=CPU)
    true, found = plane.distance(images.x).abs().detach().numpy(), rows["radius"]
    assert (rows["class"][found > 0] == labels.numpy()[found > 0]).all()
    assert (found <= true).all()
    most = SIGMA * 2.7  # 2,000 unanimous votes
    near = (true > 0.3 * SIGMA) & (true < 0.6 * most)
    assert near.sum() >= 5
    assert (found[near] > 0.8 * true[near]).all()


def test_no_attack_breaks_what_is_certified(workspace: Workspace) -> None:
    rows = certify(made(), workspace).set_index("index")
    for eps in (Fraction(1, 10), Fraction(3, 10)):
        left = attacked(Gaussian(sigma=SIGMA), eps, workspace, draws=201).set_index("index")
        safe = (rows["radius"] > float(eps)) & (rows["class"] == rows["label"])
        assert safe.any()
        assert left["robust"][safe].all()
        assert safe.mean() <= left["robust"].mean()
    assert list(problems_of(workspace.store, data=Path())) == []
    # The same numbers stand in the table, beside robust and for these balls only.
    frame = collect(workspace.store).set_index("eps")
    share = 100 * ((rows["radius"] > 0.1) & (rows["class"] == rows["label"])).mean()
    assert frame["certified"]["0.1"] == pytest.approx(share, abs=0.01)
    assert frame["certified"]["0.3"] < share
    assert frame["certified"]["0.3"] <= frame["robust"]["0.3"]
    # And in a paper's table, from what its sidecar keeps.
    keys = list(frame["key"])
    cells = Cells(workspace.store, keys, {}, {keys[0]: 12.5})
    paper = attacks.table([(cells, {})])
    heads, body = page(paper, Head(title="L2", layout="attacks"))
    assert [row[heads.index("certified")] for row in body] == ["12.5", ""]
    without = attacks.table([(Cells(workspace.store, keys, {}, {}), {})])
    assert tuple(without.columns) == attacks.COLUMNS


def test_a_ball_of_other_norm_or_with_more_images_has_no_certificate(
    workspace: Workspace,
) -> None:
    certify(made(n=4), workspace)
    linf = prepared(Gaussian(sigma=SIGMA), name="gaussian", n=4, draws=3)
    finish(run_cell(linf, workspace=workspace))
    attacked(Gaussian(sigma=SIGMA), Fraction(1, 10), workspace, draws=3)  # 12 images
    keys = [folder.name for folder in workspace.store.cells()]
    assert certified(workspace.store, keys) == {}
    assert not any(row["certified"] for row in write_runs(workspace.store))


def test_of_several_certificates_the_one_with_the_most_draws_speaks(
    workspace: Workspace,
) -> None:
    attacked(Gaussian(sigma=SIGMA), Fraction(1, 100), workspace, draws=3)
    (key,) = (folder.name for folder in workspace.store.cells())
    rows = {draws: certify(made(draws=draws), workspace) for draws in (30, 600)}
    right = {k: (r["class"] == r["label"]) & (r["radius"] > 0.01) for k, r in rows.items()}
    assert right[30].mean() != right[600].mean()
    assert certified(workspace.store, [key])[key] == round(100 * right[600].mean(), 2)


@dataclass(frozen=True)
class Boast:
    """Adds less noise than it says."""

    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + 0.02 * rng.normal_like(x)


def test_a_purifier_that_boasts_is_caught_before_and_by_its_attacks(
    workspace: Workspace,
) -> None:
    one = made(Boast(), sigma=1.0)
    x, rng = one.pixels.images(0, 4).x, Rng.seeded(0, range(4))
    with pytest.raises(PluginError, match=r"deviation 1 .* different images. Draw the noise"):
        check_noise(one.defense, x, sigma=1.0, rng=rng, name="the defense boast")
    certify(one, workspace)
    attacked(Boast(), Fraction(2), workspace, draws=51)
    found = list(problems_of(workspace.store, data=Path()))
    assert len(found) == 1
    assert "no noise of 1 gives: the purifier does more than" in found[0].text


class Silent(Boast):
    """Draws its noise from torch, or none at all."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + SIGMA * torch.randn_like(x)


def purifiers() -> Iterator[Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet(1, width=4)
    yield Gaussian(sigma=SIGMA), SIGMA
    yield OneStep(net, sigma=SIGMA), SIGMA
    yield ScoreSteps(net, sigma=SIGMA, steps=2, step=0.05, stop=1e-3), SIGMA
    for sampler in ("ddpm", "ddim"):
        yield Diffuser(net, t=150, steps=3, rounds=2, sampler=sampler), sigma_of(150)


@pytest.mark.parametrize("number", range(5))
def test_what_ships_with_a_certificate_begins_with_its_noise(number: int) -> None:
    purifier, sigma = list(purifiers())[number]
    defense = Defense(purifier, Plane())
    x, rng = torch.rand(4, 1, 8, 8), Rng.seeded(0, range(4))
    check_noise(defense, x, sigma=sigma, rng=rng, name="it")
    for wrong in (0.8 * sigma, 1.25 * sigma):
        with pytest.raises(PluginError, match="certified_noise"):
            check_noise(defense, x, sigma=wrong, rng=rng, name="it")
    with pytest.raises(PluginError, match=r"rng\.normal_like"):
        check_noise(Defense(Silent(), Plane()), x, sigma=SIGMA, rng=rng, name="it")


def test_a_killed_certificate_goes_on_to_the_same_rows(
    workspace: Workspace, tmp_path: Path
) -> None:
    whole = certify(made(draws=30), workspace)
    other = dataclasses.replace(workspace, store=type(workspace.store)(tmp_path / "other"))
    own = dataclasses.replace(other, store=folder_of(other.store))
    work = _run(made(draws=30), own, NOTHING_SET)
    for _ in range(2):
        next(work)
    work.close()
    assert 0 < len(own.store.missing(made(draws=30).cell)) < 3
    pd.testing.assert_frame_equal(certify(made(draws=30), other), whole)


def changed(workspace: Workspace, column: str, value: Any) -> list[str]:
    """Rewrite one value of a certificate's rows, and return what is wrong then."""
    own = folder_of(workspace.store)
    (key,) = own.finished()
    rows = pd.read_parquet(own.outcomes(key))
    values = list(rows[column])
    values[1] = value(values[1])
    rows[column] = values
    rows.to_parquet(own.outcomes(key), index=False)
    return [problem.text for problem in problems_of(workspace.store, data=Path())]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("radius", lambda r: r + 0.01, "'radius' of 1 images does not follow"),
     ("radius", lambda r: -r, "'radius' of 1 images does not follow"),
     ("class", lambda c: (c + 1) % 10, "'class' is not the one"),
     ("votes", lambda v: v + 1, "'votes' do not sum to 300"),
     ("label", lambda y: (y + 1) % 10, "labels are not the test set's")],
)  # fmt: skip
def test_a_certificate_that_was_changed_is_found_out(
    workspace: Workspace, column: str, value: Any, said: str
) -> None:
    certify(made(draws=300, n=4), workspace)
    found = changed(workspace, column, value)
    assert any(said in text for text in found), found
    assert any("outcomes.parquet is not what was written" in text for text in found)
