"""The judge on toy defenses whose votes are known."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import PluginError
from bench.evaluation.judge import Outcomes, elected, judge, vote

LINF = ThreatModel(Norm.LINF, Fraction(1, 10), Access.FULL)


class Brightness(nn.Module):
    """Two classes: class 1 where the mean pixel is above one half."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack((0.5 - mean, mean - 0.5), 1)


@dataclass(frozen=True)
class Noise:
    """Adds noise of a size, or none."""

    size: float = 0.0
    differentiable: bool = True

    @property
    def stochastic(self) -> bool:
        return self.size > 0

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return x + self.size * rng.normal_like(x)


@dataclass(frozen=True)
class Returns:
    """Returns a fixed thing instead of clean images."""

    value: Tensor
    stochastic: bool = False
    differentiable: bool = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        return self.value.expand(len(x), *self.value.shape[1:])


def gray(*levels: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """One flat 1 x 4 x 4 image per level."""
    return torch.tensor(levels, dtype=dtype).reshape(-1, 1, 1, 1).repeat(1, 1, 4, 4)


def judged(
    x: Tensor, x_adv: Tensor, y: list[int], *, noise: float = 0.0, draws: int = 1
) -> Outcomes:
    rng = Rng.seeded(0, list(range(len(x))))
    defense = Defense(Noise(noise), Brightness())
    return judge(defense, x, torch.tensor(y), x_adv, threat=LINF, draws=draws, rng=rng)


def test_an_image_is_robust_where_it_stays_right() -> None:
    #               robust,  broken,     wrong from the start, mended by the attack
    found = judged(gray(0.3, 0.45, 0.2, 0.55), gray(0.35, 0.54, 0.1, 0.46), [0, 0, 1, 0])
    assert found.clean.tolist() == [True, True, False, False]
    assert found.robust.tolist() == [True, False, False, False]
    assert found.legal.tolist() == [True] * 4
    assert found.distance.dtype == torch.float64
    assert found.distance.tolist() == pytest.approx([0.05, 0.09, 0.1, 0.09], abs=1e-6)


@pytest.mark.parametrize(
    ("votes", "y", "right"),
    [
        ([5, 5, 0], 0, False),  # a tie is a loss
        ([5, 5, 0], 1, False),
        ([4, 3, 3], 0, True),  # a plurality is enough
        ([0, 0, 1], 2, True),
        ([3, 4, 3], 0, False),
    ],
)
def test_a_tie_is_a_loss(votes: list[int], y: int, right: bool) -> None:
    assert elected(torch.tensor([votes]), torch.tensor([y])).tolist() == [right]


def test_equal_logits_count_for_one_class_alone() -> None:
    defense, y = Defense(Noise(), Brightness()), torch.tensor([0])
    counted = vote(defense, gray(0.5), y, draws=1, rng=Rng.seeded(0, [0]))
    assert counted.votes.tolist() == [[1, 0]]


BROKEN = gray(0.55)  # legal, and misclassified


def outside(how: str) -> Tensor:
    """Break the image and the rules."""
    x_adv = BROKEN.clone()
    if how == "too far in one pixel":
        x_adv[0, 0, 0, 0] = 0.47 + 0.1 + 3e-6
    elif how == "above the box":
        x_adv[0, 0, 0, 0] = 1 + 1e-6
    elif how == "below the box":
        x_adv[0, 0, 0, 0] = -1e-6
    else:
        x_adv[0, 0, 0, 0] = float(how)
    return x_adv


def test_the_illegal_images_below_would_be_breaks_if_they_were_legal() -> None:
    found = judged(gray(0.47), BROKEN, [0])
    assert found.legal.tolist() == [True]
    assert found.robust.tolist() == [False]


@pytest.mark.parametrize(
    "how", ["too far in one pixel", "above the box", "below the box", "nan", "inf", "-inf"]
)
def test_an_illegal_image_is_marked_and_is_no_break(how: str) -> None:
    found = judged(gray(0.47, 0.47), torch.cat((outside(how), BROKEN)), [0, 0])
    assert found.legal.tolist() == [False, True]
    assert found.robust.tolist() == [True, False]
    assert found.votes.sum(1).tolist() == [1, 1]


def test_out_of_the_box_is_illegal_even_within_the_ball() -> None:
    found = judged(gray(1.0, 0.0), gray(1.05, -0.05), [1, 0])
    assert found.legal.tolist() == [False, False]


def test_no_draw_of_noise_makes_a_break_of_an_illegal_image() -> None:
    x = gray(*[0.47] * 40)
    found = judged(x, x + 0.2, [0] * 40, noise=0.5)
    assert 0 < int(found.clean.sum()) < 40
    assert torch.equal(found.robust, found.clean)


def test_an_illegal_image_of_a_misclassified_one_is_not_robust() -> None:
    assert judged(gray(0.47), outside("nan"), [1]).robust.tolist() == [False]


def test_the_rounding_of_a_float32_projection_is_legal() -> None:
    x = gray(0.47)
    assert judged(x, x + 0.1, [0]).legal.tolist() == [True]
    assert judged(x, x + 0.1 + 5e-7, [0]).legal.tolist() == [True]


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (1, 1, 4, 4), (2, 4, 4), (2, 1, 4, 4, 1)])
def test_another_shape_is_the_attacks_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(PluginError, match="the attack returned shape"):
        judged(gray(0.4, 0.6), torch.zeros(shape), [0, 1])


@pytest.mark.parametrize(
    ("returned", "said"),
    [(gray(float("nan")), "NaN"), (torch.zeros(1, 1, 4, 5), "purifier Returns returned shape")],
)
def test_a_defense_that_breaks_its_contract_is_named(returned: Tensor, said: str) -> None:
    x = gray(0.4)
    with pytest.raises(PluginError, match=said):
        judge(
            Defense(Returns(returned), Brightness()), x, torch.tensor([0]), x,
            threat=LINF, draws=1, rng=Rng.seeded(0, [0]),
        )  # fmt: skip


def test_votes_sum_to_the_draws() -> None:
    found = judged(gray(0.5, 0.4), gray(0.55, 0.45), [0, 0], noise=0.5, draws=7)
    assert found.clean_votes.sum(1).tolist() == [7, 7]
    assert found.votes.sum(1).tolist() == [7, 7]


def test_a_deterministic_defense_votes_once() -> None:
    found = judged(gray(0.5, 0.4), gray(0.55, 0.45), [0, 0], draws=7)
    assert found.clean_votes.sum(1).tolist() == [1, 1]
    assert found.votes.sum(1).tolist() == [1, 1]


def test_the_clean_and_the_attacked_image_meet_other_noise() -> None:
    x = gray(*[0.5] * 20)
    found = judged(x, x, [0] * 20, noise=0.5, draws=9)
    assert not torch.equal(found.clean_votes, found.votes)


def test_votes_do_not_depend_on_the_batch() -> None:
    x = torch.rand(13, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    defense = Defense(Noise(0.5), Brightness())
    rng = Rng.seeded(0, list(range(13)))
    y = torch.zeros(13, dtype=torch.int64)
    whole = vote(defense, x, y, draws=40, rng=rng)  # 256 rows a pass: 6, 6 and 1 images
    for batch in (1, 4):
        rows = [slice(start, start + batch) for start in range(0, 13, batch)]
        parts = [vote(defense, x[block], y[block], draws=40, rng=rng[block]) for block in rows]
        assert torch.equal(torch.cat([part.votes for part in parts]), whole.votes)


def test_an_attack_may_leave_a_graph_on_its_images() -> None:
    x = gray(0.4)
    found = judged(x, x.clone().requires_grad_(), [0])
    assert not found.distance.requires_grad


def test_an_attack_may_compute_in_another_dtype() -> None:
    x = gray(0.4)
    defense = Defense(Noise(), nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    found = judge(
        defense, x, torch.tensor([0]), x.double(),
        threat=LINF, draws=1, rng=Rng.seeded(0, [0]),
    )  # fmt: skip
    assert found.legal.tolist() == [True]
