"""Figures from images: energies and strips are those of the defense, PAG by closed forms."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from bench.core.access import TransferView
from bench.core.geometry import size
from bench.core.protocols import Images
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import UsageError
from bench.figures import energies, pag, strips
from bench.figures.alignment import cosine, high_frequency_share, targeted, targets, towards
from bench.figures.images import Attacked, attacked, path
from bench.figures.output import read, render
from bench.results.cell import Part
from bench.results.files import read_json
from bench.results.progress import finish
from bench.results.workspace import Workspace

from ..cells import Counting, langevin, prepared, rows
from ..command import TINY, Bench, files, is_one_clear_message

RNG = Rng.seeded(0, range(6))
TRAINED = ("--set=defense.training.iterations=2", "--set=defense.training.bank=64")
EBM = ("--defense=ebm", *TRAINED, "--set=defense.steps=4", *TINY[:3])


def attacked_digits(workspace: Workspace, *, steps: int = 4, noise: float = 0.05) -> Attacked:
    purifier = langevin(noise=noise)
    purifier.steps = steps
    made = prepared(purifier, Counting(), access=Access.TRANSFER)
    cell = dataclasses.replace(made.cell, defense=Part("ebm", {"steps": steps}, 1))
    return finish(attacked(dataclasses.replace(made, cell=cell), count=6, workspace=workspace))


def test_nothing_is_attacked_twice(workspace: Workspace) -> None:
    made = prepared(attack=Counting(), access=Access.TRANSFER)
    Counting.made.clear()
    few = finish(attacked(made, count=6, workspace=workspace))
    assert Counting.made == [4, 4]  # whole shards
    rows(made, workspace)
    assert Counting.made == [4, 4, 4]  # the run attacks what is left
    many = finish(attacked(made, count=12, workspace=workspace))
    assert Counting.made == [4, 4, 4]
    assert torch.equal(many.x_adv[:6], few.x_adv)
    assert torch.equal(many.images.x, made.pixels.images(0, 12).x)


def test_a_strip_has_the_energies_of_the_network(workspace: Workspace) -> None:
    made = attacked_digits(workspace, noise=0.0)
    frame, pictures = strips.rows(made)
    assert list(frame["steps"]) == [-1, 0, 1, 2, 4] * 6
    assert list(frame["index"]) == [i for i in range(6) for _ in range(5)]
    defense = made.prepared.defense
    energy, purify = defense.purifier.energy, defense.purify
    for steps, x in ((-1, made.images.x), (0, made.x_adv), (4, purify(made.x_adv, rng=RNG))):
        of_kind = frame[frame["steps"] == steps]
        np.testing.assert_allclose(of_kind["energy"], energy(x).detach(), rtol=1e-5)
        seen = defense.classify(x).argmax(1)
        assert of_kind["predicted"].tolist() == seen.tolist()
        assert of_kind["right"].tolist() == (seen == made.images.y).tolist()
        np.testing.assert_array_equal(
            pictures[of_kind.index], x.clamp(0, 1).permute(0, 2, 3, 1).detach()
        )


def test_noise_of_a_strip_differs_by_step_and_is_repeated(workspace: Workspace) -> None:
    made = attacked_digits(workspace, noise=0.2)
    one = list(path(made.prepared, made.x_adv, rng=made.streams))
    again = list(path(made.prepared, made.x_adv, rng=made.streams))
    assert len(one) == 4
    assert all(map(torch.equal, one, again))
    moves = [after - before for before, after in itertools.pairwise(one)]
    assert not torch.allclose(moves[0], moves[1], atol=0.05)


@pytest.mark.parametrize(
    ("total", "steps"), [(1, [1]), (2, [1, 2]), (10, [1, 2, 5, 10]), (100, [10, 20, 50, 100])]
)
def test_a_strip_shows_a_tenth_to_all_steps(total: int, steps: list[int]) -> None:
    assert strips.chosen(total) == steps


def test_histograms_have_the_energies_and_sklearns_auroc(workspace: Workspace) -> None:
    made = attacked_digits(workspace)
    frame = energies.rows(made)
    energy = made.prepared.defense.purifier.energy
    shown = {kind: group["energy"].to_numpy() for kind, group in frame.groupby("kind")}
    np.testing.assert_allclose(shown["clean"], energy(made.images.x).detach(), rtol=1e-5)
    np.testing.assert_allclose(shown["adversarial"], energy(made.x_adv).detach(), rtol=1e-5)
    for kind, values in shown.items():
        expected = roc_auc_score([0] * 6 + [1] * 6, [*shown["clean"], *values])
        assert set(frame[frame["kind"] == kind]["auroc"]) == {expected}
    assert set(frame[frame["kind"] == "clean"]["auroc"]) == {0.5}
    assert np.mean(shown["purified adversarial"]) < np.mean(shown["adversarial"])


def test_auroc_is_the_chance_of_more_energy() -> None:
    values, clean = np.array([1.0, 2.0, 5.0]), np.array([2.0, 0.0])
    wins = [(v > c) + 0.5 * (v == c) for v in values for c in clean]
    assert energies.auroc(values, clean) == pytest.approx(np.mean(wins))


def checkerboard(side: int) -> Tensor:
    place = torch.arange(side)
    return ((-1.0) ** (place[:, None] + place)).expand(1, 1, side, side)


def test_the_high_frequency_share_of_waves_is_known() -> None:
    constant = torch.full((1, 3, 8, 8), 0.3)
    assert high_frequency_share(constant) == pytest.approx(0, abs=1e-12)
    assert high_frequency_share(checkerboard(8)) == pytest.approx(1)
    assert high_frequency_share(torch.zeros(1, 1, 8, 8)) == 0
    place = torch.arange(32)
    for cycles, share in ((7, 0.0), (9, 1.0)):  # of 32 pixels: half of Nyquist are 8
        wave = torch.cos(2 * torch.pi * cycles * place / 32).expand(1, 1, 32, 32)
        assert high_frequency_share(wave) == pytest.approx(share, abs=1e-6)
        assert high_frequency_share(wave.mT) == pytest.approx(share, abs=1e-6)
    both = 3 * torch.ones(1, 1, 8, 8) + checkerboard(8)
    assert high_frequency_share(both) == pytest.approx(1 / 10)


@given(st.integers(2, 12), st.integers(0, 500))
def test_a_target_is_another_class(classes: int, index: int) -> None:
    y = torch.arange(classes)
    images = Images(torch.full_like(y, index), torch.zeros(classes, 1, 2, 2), y)
    chosen = targets(images, classes=classes)
    assert bool(((chosen >= 0) & (chosen < classes) & (chosen != y)).all())


def linear(classes: int = 3) -> tuple[nn.Sequential, Tensor]:
    weights = torch.randn(classes, 16, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(16, classes, bias=False)
    layer.weight.data = weights
    return nn.Sequential(nn.Flatten(), layer), weights


def test_the_gradient_and_its_cosine_on_a_linear_classifier() -> None:
    """Of log p(t) = w_t x - log sum exp(w_k x) the gradient is w_t - sum p_k w_k."""
    net, weights = linear()
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    found = towards(TransferView(net), x, target, draws=1, rng=RNG)
    p = net(x).softmax(1).detach()
    exact = weights[target] - p @ weights
    torch.testing.assert_close(found.flatten(1), exact)
    mean = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    away = (mean - x).flatten(1)
    expected = (exact * away).sum(1) / exact.norm(dim=1) / away.norm(dim=1)
    torch.testing.assert_close(cosine(found, mean - x), expected)


@pytest.mark.parametrize("norm", list(Norm))
def test_a_targeted_attack_reaches_its_target_within_the_ball(norm: Norm) -> None:
    net, _ = linear()
    x = torch.full((6, 1, 4, 4), 0.5)
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    threat = ThreatModel(
        norm, Fraction(2, 5) if norm is Norm.LINF else Fraction(3, 2), Access.FULL
    )
    x_adv = targeted(TransferView(net), x, target, threat=threat, steps=10, draws=1, rng=RNG)
    assert net(x_adv).argmax(1).tolist() == target.tolist()
    assert float(size(x_adv - x, norm).max()) <= threat.radius + 1e-6


def test_pag_measures_say_what_their_columns_say() -> None:
    net, _ = linear()
    x = torch.full((6, 1, 4, 4), 0.5)
    images = Images(torch.arange(6), x, torch.tensor([0, 1, 2, 0, 1, 2]))
    effort = pag.Effort(ThreatModel(Norm.LINF, Fraction(2, 5), Access.FULL), 10, 1, 2)
    frame, x_adv = pag.measure(
        "linear", TransferView(net), net, images, means=torch.rand(3, 1, 4, 4), effort=effort,
        rng=RNG,
    )  # fmt: skip
    assert list(frame.columns) == pag.COLUMNS
    assert frame["seen"].tolist() == net(x_adv).argmax(1).tolist()
    assert frame["hit"].all()
    np.testing.assert_allclose(frame["high_frequency"], high_frequency_share(x_adv - x))


def test_pictures_are_the_same_for_the_same_rows(workspace: Workspace) -> None:
    frame, pictures = strips.rows(attacked_digits(workspace))
    pictures = pictures[:10]
    draw = functools.partial(strips.draw, pictures=pictures)
    frame = frame[:10]  # two strips
    assert render(draw, frame) == render(draw, frame)
    assert render(draw, frame) != render(draw, frame.assign(energy=0.0))


def test_the_command_line_writes_all_three(bench: Bench) -> None:
    ball = ("--attack=pgd", "--set=attack.steps=2", "--set=attack.eot=1", "--eps=0.1")
    assert bench("run", *EBM, *ball, *TINY[1:]).code == 0
    before = files(Path("results/images"))
    for words in (("energies",), ("strips", "-m2")):
        said = bench("figure", *words, *EBM, *ball)
        assert said.code == 0, said
    assert files(Path("results/images")) == before  # the run's images
    said = bench("figure", "pag", *EBM, "--steps=2", "-m2", "--control-classifier=small_cnn")
    assert said.code == 0, said
    stems = ("energies-digits-ebm-pgd-full-Linf-0.1", "strips-digits-ebm-pgd-full-Linf-0.1",
             "pag-digits-ebm-full-Linf-0.5")  # fmt: skip
    folder = Path("results/figures")
    assert {path.stem for path in folder.iterdir()} == set(stems)
    for stem, count in zip(stems, (16, 2 * 5, 12), strict=True):
        assert len(read(folder / f"{stem}.csv")) == count
        assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        note = read_json(folder / f"{stem}.json")
        assert {"small_cnn", "ebm"} <= set(note["checkpoints"])
        assert {"seed", "n", "command", "date", "commit", "versions"} <= set(note)
    assert note["checkpoints"]["independent classifier"] != note["checkpoints"]["small_cnn"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ("strips", "--attack=noise", "--defense=jpeg", "-m1"),
            ("'jpeg' has no energy", "ebm"),
        ),
        (("energies", "--attack=noise", "--defense=none"), ("'none' has no energy",)),
        (("energies", "--attack=pgd", "--defense=ebm", "--access=query"), ("query access",)),
        (("strips", "--attack=noise", "--defense=ebm", "-m9"), ("-m 9", "-n 9")),
        (("pag", "--defense=jpeg", "-m1"), ("jpeg", "--access bpda")),
        (("pag", "--defense=none", "-m1", "--eps=inf"), ("finite --eps",)),
        (("pag", "--defense=none", "-m1", "--access=query"), ("full or bpda",)),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else None,
)
def test_what_has_no_such_figure_is_said(
    bench: Bench, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    is_one_clear_message(bench("figure", *words, *TINY[:3]), *parts, code=2)


def test_a_purifier_that_takes_no_steps_has_no_strips(workspace: Workspace) -> None:
    made = attacked_digits(workspace)
    cell = dataclasses.replace(made.prepared.cell, defense=Part("whole", {}, 1))
    whole = dataclasses.replace(made.prepared, cell=cell)
    with pytest.raises(UsageError, match="'whole' does not purify step by step"):
        next(path(whole, made.x_adv, rng=made.streams))
