"""The catalogue of checks, in the order in which an audit runs them."""

from __future__ import annotations

from collections.abc import Callable

from bench.audit import (
    best_iterate,
    controls,
    energies,
    gradients,
    loss_surface,
    records,
    same_defense,
    stored_images,
    strength,
    sweeps,
    unseen_attacks,
    votes,
)
from bench.audit.findings import Finding
from bench.audit.subject import Subject

Check = Callable[[Subject], Finding]

ATTACKS = ("apgd", "apgd_t", "autoattack", "pgd", "square")  # what the checks attack with
REVISION = 5  # raise it when a check changes: finished audits are then done again

# What looks at the user's own cells too, and so may say otherwise once there are more.
RECORDS: tuple[Check, ...] = (
    records.images_are_legal,  # C1
    records.cost_is_recorded,  # C26
    records.settings_take_effect,  # C27
)
# First loss and gradient, since C21 and C5 choose the main attack's loss and draws; last
# what looks at all cells that the others made.
CHECKS: tuple[Check, ...] = (
    gradients.gradient_exists,  # C2
    gradients.bpda_is_not_full,  # C3
    gradients.gradient_is_right,  # C4
    loss_surface.loss_is_not_saturated,  # C21
    loss_surface.eot_is_stable,  # C5
    sweeps.converged,  # C6
    best_iterate.no_silent_success,  # C7
    sweeps.monotone_in_eps,  # C8
    sweeps.unbounded_breaks,  # C9
    strength.iterative_beats_one_step,  # C10
    strength.transfer_is_weaker,  # C11
    strength.square_is_weaker,  # C12
    strength.noise_is_weaker,  # C13
    controls.not_only_randomness,  # C14
    controls.bare_classifier_falls,  # C15
    controls.planted_controls,  # C16
    controls.purifier_adds_to_its_noise,  # C17
    controls.better_than_bare,  # C18
    votes.resubmission,  # C19
    loss_surface.surface_is_smooth,  # C20
    votes.verdicts_repeat,  # C22
    votes.eight_bits_suffice,  # C23
    unseen_attacks.not_fitted_to_one_attack,  # C24
    energies.energy_tells_attacks,  # C25
    same_defense.same_defense_for_all,  # C28
    stored_images.no_stored_test_images,  # C29
    *RECORDS,
)
