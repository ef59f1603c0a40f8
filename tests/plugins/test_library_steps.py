"""Which steps of an attack of another library are too short, or too long, for the ball."""

from __future__ import annotations

from typing import Any

import pytest

from bench.plugins.libraries.adapter import odd_steps


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("PGD", {"alpha": 2 / 255, "steps": 10},
         "10 steps of alpha 0.00784 do not cross eps 0.3: set attack.alpha or attack.steps"),
        ("FFGSM", {"alpha": 10 / 255}, "1 step of alpha 0.0392 do not cross eps 0.3: set "
         "attack.alpha higher"),
        ("SPSA", {"lr": 0.01, "nb_iter": 1}, "1 step of lr 0.01 do"),
        ("BasicIterativeMethod", {"eps_step": 0.1, "max_iter": 2}, "2 steps of eps_step"),
        ("LinfPGD", {"rel_stepsize": 0.033, "abs_stepsize": None, "steps": 5}, "5 steps"),
        ("LinfPGD", {"rel_stepsize": 0.033, "abs_stepsize": 0.1, "steps": 5}, ""),
        ("pgd_linf", {"relative_step_size": 0.03, "absolute_step_size": None, "steps": 9}, "9"),
        ("pgd_linf", {"relative_step_size": 0.03, "absolute_step_size": 0.01, "steps": 9},
         "9 steps of absolute_step_size 0.01 do"),
        ("CW", {"lr": 9.0, "steps": 50}, ""),
        ("FastGradientMethod", {"eps_step": 0.1}, ""),
    ],
)  # fmt: skip
def test_steps_of_all_libraries_that_cannot_cross_the_ball_are_said(
    name: str, params: dict[str, Any], said: str
) -> None:
    found = list(odd_steps(name, params, 0.3))
    assert len(found) == bool(said)
    assert not said or found[0].startswith(said)
