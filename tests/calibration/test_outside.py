"""The attack from outside on planted ladders: a weak one is found out, a strong one is not."""

from __future__ import annotations

import ast
import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from bench.calibration import ladders, outside
from bench.calibration.outside import Effort, ascend, broken
from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.core.threat import Norm, ThreatModel
from bench.errors import UsageError
from bench.evaluation.judge import judge
from bench.results.progress import finish
from bench_attacks.noise import Noise
from bench_attacks.pgd import Pgd
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity
from tests.cells import at, classifier, prepared, rows
from tests.command import is_one_clear_message

FEW = Effort(steps=20, votes=6)
EPS = Fraction(1, 10)
N = 20


def test_it_shares_no_code_with_attacks_or_judge():
    tree = ast.parse(Path(outside.__file__).read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {
        a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
    }
    assert {name for name in found if name.startswith("bench")} == {
        "bench.core.defense", "bench.core.rng"
    }  # fmt: skip


def ladder(monkeypatch, tmp_path, *attacks, purifier=None, **settings):
    """Measure cells by hand, and let the defense be found again without its plugins."""
    workspace = at(tmp_path)
    made = [
        prepared(purifier or Gaussian(0.05), attack, name="gaussian", eps=EPS, n=N, **settings)
        for attack in attacks
    ]
    for one in made:
        rows(one, workspace)

    def again(cell, *, workspace):
        yield from ()
        return made[0]

    monkeypatch.setattr(ladders, "rebuild", again)
    return workspace


WANTED = ladders.Wanted("digits", "gaussian", EPS)


def checked(workspace, wanted=WANTED):
    found = ladders.find(wanted, workspace.store)
    return finish(ladders.check(found, workspace=workspace, effort=FEW))


def test_a_weak_ladder_is_found_out_and_a_strong_one_is_not(tmp_path, monkeypatch):
    weak = ladder(monkeypatch, tmp_path / "weak", Noise(tries=1, eot=1))
    found = checked(weak)
    assert not found.holds
    assert found.share > 10
    assert found.images == N
    assert 0 < len(found.broken) <= found.survivors
    strong = ladder(
        monkeypatch, tmp_path / "strong", Noise(tries=1, eot=1), Pgd(steps=40, eot=8)
    )
    left = checked(strong)
    assert left.holds
    assert left.survivors > 0
    assert left.attacks == ("Noise", "Pgd")
    # It is no weaker than 40 steps of PGD.
    assert found.survivors - len(found.broken) <= left.survivors + 1
    assert left.passes > 0


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    workspace = ladder(monkeypatch, tmp_path, Noise(tries=1, eot=1))
    monkeypatch.setattr(ladders, "_BLOCK", 6)
    (work,) = (
        ladders.check(ladders.find(WANTED, workspace.store), workspace=workspace, effort=FEW),
    )
    seen = [next(work) for _ in range(2)]  # killed after its first block
    work.close()
    assert [now.done for now in seen] == [0, 6]
    attacked, honest = [], ladders.ascend

    def counting(defense, x, y, **options):
        attacked.append(len(x))
        return honest(defense, x, y, **options)

    monkeypatch.setattr(ladders, "ascend", counting)
    whole = checked(workspace)
    assert sum(attacked) == whole.survivors - 6
    assert checked(workspace) == whole
    assert sum(attacked) == whole.survivors - 6
    monkeypatch.setattr(ladders, "_BLOCK", 20)
    other = ladder(monkeypatch, tmp_path / "other", Noise(tries=1, eot=1))
    assert checked(other).broken == whole.broken  # blocks are no part of the answer


def test_a_ladder_is_all_cells_of_one_defense_and_ball(tmp_path, monkeypatch):
    store = ladder(monkeypatch, tmp_path, Noise(tries=1, eot=1), Pgd(steps=3, eot=1)).store
    assert len(ladders.find(WANTED, store).cells) == 2
    ladder(monkeypatch, tmp_path, Noise(tries=1, eot=1), seed=1)
    with pytest.raises(UsageError, match=r"several ladders .* Give -n, or --cell KEY") as said:
        ladders.find(WANTED, store)
    keys = [word for word in str(said.value).split() if len(word) == 16 and word.isalnum()]
    by_key = [dataclasses.replace(WANTED, defense="", cell=key[:6]) for key in keys]
    assert {len(ladders.find(one, store).cells) for one in by_key} == {1, 2}
    for other in (
        {"eps": Fraction(2, 10)},
        {"defense": "none"},
        {"n": 21},
        {"dataset": "mnist"},
    ):
        with pytest.raises(UsageError, match="no finished cell"):
            ladders.find(dataclasses.replace(WANTED, **other), store)


def test_a_ladder_without_its_first_cell_is_refused(tmp_path, monkeypatch):
    workspace = ladder(monkeypatch, tmp_path, Noise(tries=1, eot=1))
    (cell,) = ladders.find(WANTED, workspace.store).cells
    path = workspace.store.outcomes(cell.key())
    honest = ladders.read_rows
    monkeypatch.setattr(
        ladders, "read_rows", lambda p: honest(p)[3:] if p == path else honest(p)
    )
    with pytest.raises(UsageError, match="attacked 17 of 20 images"):
        ladders.find(WANTED, workspace.store)


def images(n=12):
    made = prepared(Identity(), n=n)
    block = made.pixels.images(0, n)
    return Defense(Gaussian(0.1), classifier()), block.x, block.y, Rng.seeded(0, range(n))


def test_it_stays_in_ball_and_box_and_leaves_nothing_else_changed():
    defense, x, y, rng = images()
    before = x.clone()
    found = ascend(defense, x, y, eps=0.1, effort=FEW, rng=rng)
    assert float((found - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert x.equal(before)
    assert not x.requires_grad


def test_its_verdict_is_that_of_the_judge_up_to_its_own_draws():
    defense, x, y, rng = images()
    x_adv = ascend(defense, x, y, eps=0.1, effort=FEW, rng=rng)
    for plain in (Defense(Identity(), classifier()), defense):
        mine = broken(plain, x, y, x_adv, eps=0.1, draws=200, rng=rng.fork("mine"))
        threat = ThreatModel(Norm.LINF, Fraction(1, 10), Pgd.accesses[0])
        theirs = judge(plain, x, y, x_adv, threat=threat, draws=200, rng=rng.fork("theirs"))
        right = theirs.votes.gather(1, y[:, None])[:, 0] / theirs.votes.sum(1)
        clear = (right - 0.5).abs() > 0.15
        assert int(clear.sum()) > 6
        # The judge also asks that the clean vote is right.
        assert mine[clear & theirs.clean].equal(~theirs.robust[clear & theirs.clean])


class Alternating(nn.Module):
    """Logits that favour class 0 and class 1 in turn, draw by draw."""

    def forward(self, x):
        place = torch.arange(len(x)) % 2
        return nn.functional.one_hot(place, 3).float() + 0 * x.flatten(1).sum(1, keepdim=True)


def test_a_tie_breaks_an_image_and_one_out_of_the_ball_does_not():
    defense = Defense(Gaussian(0.1), Alternating())
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.tensor([0, 1, 2, 0])
    rng = Rng.seeded(0, range(4))
    assert broken(defense, x, y, x, eps=0.1, draws=4, rng=rng).tolist() == [True] * 4
    assert broken(defense, x, y, x, eps=0.1, draws=5, rng=rng).tolist() == [
        False, True, True, False
    ]  # fmt: skip
    moved = x.clone()
    moved[0] += 0.2
    moved[1], moved[2] = 0.6, 0.4
    found = broken(defense, x, y, moved, eps=0.1, draws=4, rng=rng)
    assert found.tolist() == [False, True, True, True]
    bright = torch.ones_like(x)
    assert not broken(defense, bright, y, bright + 0.05, eps=0.1, draws=4, rng=rng).any()


class Rounding:
    """A purifier without a gradient."""

    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    revision: ClassVar[int] = 1

    def purify(self, x, *, rng):
        return (x * 16).round() / 16


def test_a_purifier_without_a_gradient_is_passed_over():
    _, x, y, rng = images()
    defense = Defense(Rounding(), classifier())
    target = (y + 1) % 10
    found, wrong = outside._gradient(defense, x, y, target, 2, rng)
    leaf = Rounding().purify(x, rng=rng).requires_grad_()
    logits = classifier()(leaf)
    towards = logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])
    (expected,) = torch.autograd.grad(towards.sum(), leaf)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert wrong.equal(logits.argmax(1) != y)


def test_its_passes_are_bounded_by_what_it_announces():
    from bench.core.passes import count_passes

    defense, x, y, rng = images()
    with count_passes({"classifier": defense.classifier}) as passes:
        ascend(defense, x, y, eps=0.01, effort=FEW, rng=rng)
    assert sum(passes.values()) / len(x) <= FEW.passes(10)


def test_the_command_fails_where_the_ladder_left_too_much(tmp_path, monkeypatch, bench):
    monkeypatch.setattr(ladders, "EFFORT", FEW)
    ladder(monkeypatch, tmp_path / "results", Noise(tries=1, eot=1))
    words = ("calibrate", "--outside", "--defense=gaussian", "--dataset=digits", "--eps=0.1")
    said = bench(*words, "--output=outside.md", "--json")
    assert said.code == 1
    (row,) = json.loads(said.out)["outside"]
    assert f"an attack from outside breaks {row['share']:.1f} % of all images" in said.err
    assert "20 sign steps" in (tmp_path / "outside.md").read_text()
    monkeypatch.setattr(ladders, "LARGEST_SHARE", 100.0)
    assert bench(*words, "--json").code == 0


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--outside",), "name a ladder: --defense ebm"),
        (
            ("--outside", "--defense=ebm", "--dataset=digits"),
            "no finished cell of ebm on digits",
        ),
        (("--outside", "--real"), "--outside goes with neither"),
        (("--defense=ebm",), "add --outside"),
        (("--outside", "--cell=abc"), "too short"),
        (("--outside", "--defense=ebm", "--eps=x"), "x"),
    ],
)
def test_what_makes_no_sense_is_one_clear_message(bench, words, part):
    is_one_clear_message(bench("calibrate", *words), part, code=2)
