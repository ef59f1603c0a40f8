"""Runs towards other classes: what they find, whom they attack, what stays as it was."""

from __future__ import annotations

import pytest
import torch
from attack_toys import ATTACKS, Identity, Recorder, ball, small_problem, streams
from pydantic import TypeAdapter, ValidationError

from bench.api import Access, Norm, Towards, cross_entropy
from bench.calibration.gaps import CASES, TARGETS, measure, ungated
from bench.core.access import view_of
from bench.plugins.catalogue import parameters
from bench_attacks._best import Best
from bench_attacks._targets import losses_of_runs, of_rows

NAMES = ("pgd", "apgd", "bpda_eot", "adaptive")
(ALIKE,) = (case for case in CASES if not case.clear)


@pytest.mark.parametrize("name", NAMES)
def test_where_rivals_are_alike_one_ascent_misses_what_targets_find(name):
    """That targets find it is what tests/calibration/test_calibrate.py measures."""
    access = ATTACKS[name].accesses[0]
    alone = measure(name, ATTACKS[name](targets=0), ALIKE, access, Norm.L2, images=100)
    assert alone.gap > 1
    assert alone.ungated
    assert not ungated(name, ATTACKS[name](targets=TARGETS), ALIKE, access)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 5])
def test_more_targets_than_other_classes_are_all_of_them(name, classes):
    defense, x, y = small_problem(Identity(), classes=classes)
    access = ATTACKS[name].accesses[0]
    view, threat = view_of(defense, access), ball(Norm.LINF, 0.03, access)
    found = [
        ATTACKS[name](targets=targets, steps=5)(view, x, y, threat=threat, rng=streams(8))
        for targets in (classes - 1, 50)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("name", NAMES)
def test_only_images_that_are_left_meet_the_targets(name):
    defense, x, y = small_problem(Identity(), images=16)
    y = torch.where(torch.arange(16) < 12, (y + 1) % 5, y)  # twelve are wrong from the start
    access = ATTACKS[name].accesses[0]
    threat = ball(Norm.LINF, 0.0, access)
    rows = []
    for targets in (0, 2):
        view = Recorder(view_of(defense, access))
        ATTACKS[name](targets=targets, steps=3)(view, x, y, threat=threat, rng=streams(16))
        rows.append([len(seen) for seen in view.seen])
    more = rows[1][len(rows[0]) :]
    assert rows[1][: len(rows[0])] == rows[0]
    assert set(more) == {4}


@pytest.mark.parametrize("name", NAMES)
def test_no_target_is_tried_once_all_images_are_broken(name):
    """The first target breaks them all, and others are left."""
    defense, x, y = small_problem(Identity(), images=3)
    access = ATTACKS[name].accesses[0]
    view, threat = view_of(defense, access), ball(Norm.LINF, 1.0, access)
    best = Best.nothing(x)
    runs = losses_of_runs(
        view, x, y, best, loss=cross_entropy, restarts=1, targets=3, draws=1, rng=streams(3)
    )
    assert [next(runs), type(next(runs))] == [cross_entropy, Towards]
    best.wrong[:] = 1
    assert list(runs) == []
    for images in (1, 2, 3):
        for seed in range(6):
            found = ATTACKS[name](targets=4, steps=4)(
                view, x[:images], y[:images], threat=threat, rng=streams(images, seed)
            )
            assert len(found) == len(x[:images])


def test_the_likeliest_classes_come_first_each_for_its_own_image():
    x = torch.rand(6, 1, 2, 2)  # four pixels are four logits
    y = x.flatten(1).argmax(1)

    def view(x, *, rng):
        return x.flatten(1)

    view.access = Access.FULL
    best = Best.nothing(x)
    best.wrong[2] = 1  # is done, and has no target to look for
    losses = list(
        losses_of_runs(
            view, x, y, best, loss=cross_entropy, restarts=2, targets=2, draws=1, rng=streams(6)
        )
    )
    assert losses[:2] == [cross_entropy] * 2
    order = x.flatten(1).argsort(1, descending=True)
    for place, loss in enumerate(losses[2:], start=1):
        expected = torch.where(torch.arange(6) == 2, y, order[:, place])
        assert torch.equal(loss.target, expected)
    rows = torch.tensor([4, 1])
    assert torch.equal(of_rows(losses[2], rows).target, losses[2].target[rows])
    assert of_rows(cross_entropy, rows) is cross_entropy
    assert isinstance(losses[3], Towards)


def test_no_look_and_no_targets_where_all_are_done():
    x = torch.rand(3, 1, 2, 2)
    best = Best.nothing(x)
    best.wrong.fill_(1)
    arguments = {"loss": cross_entropy, "restarts": 1, "targets": 3, "draws": 1}
    losses = losses_of_runs(None, x, torch.zeros(3), best, **arguments, rng=streams(3))
    assert list(losses) == [cross_entropy]


@pytest.mark.parametrize("name", NAMES)
def test_without_targets_a_cell_is_written_as_before(name):
    assert "targets" not in parameters(ATTACKS[name]())
    assert parameters(ATTACKS[name](targets=1))["targets"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_fewer_than_no_targets_are_refused(name):
    with pytest.raises(ValidationError, match="targets"):
        TypeAdapter(ATTACKS[name]).validate_python({"targets": -1})
