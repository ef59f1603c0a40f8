"""Checks against controls whose answer is known: C14 to C18."""

from __future__ import annotations

import math

from torch import Tensor

from bench.audit.attacks import on_bare
from bench.audit.findings import Finding, State, Weight
from bench.audit.gradients import gradient_exists
from bench.audit.subject import LEVEL, Run, Subject
from bench.audit.toys import NoGradient, Quantizer
from bench.core.protocols import NoisyPurifier, Purifier, fits
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.results.stats import worsens

_POINT = 0.01  # of accuracy
_FIRST = 40  # images on which a known seed is tried before all others
_FEW = 32  # images of the planted controls: each is attacked three times


class KnownSeed:
    """A purifier whose noise depends only on the image's index, so that an attacker knows it.

    Streams that an attacker or the judge gives are not listened to.
    """

    stochastic = False

    def __init__(self, purifier: Purifier, *, seed: int) -> None:
        self.purifier = purifier
        self.seed = seed
        self.differentiable = purifier.differentiable

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Clean x (N, C, H, W) with the noise of each row's image."""
        known = Rng.seeded(self.seed, rng._images).fork("known seed")
        return self.purifier.purify(x, rng=known)


def not_only_randomness(subject: Subject) -> Finding:
    """C14: an attacker who knows the noise still finds the defense above its classifier."""
    about = ("C14", "not only randomness", Weight.BOUND)
    threshold = (
        "no fall once the noise is known, or still above the bare classifier (paired, "
        f"{LEVEL:.0%})"
    )
    if not subject.defense.stochastic:
        return Finding(
            *about,
            State.NOT_APPLICABLE,
            threshold=threshold,
            reason="the defense is deterministic: there is no noise to know",
        )
    wrapped = KnownSeed(subject.defense.purifier, seed=subject.base.cell.seed)
    main, bare = subject.strong(), subject.strong(variant=subject.bare)
    variant = subject.variant("known seed", wrapped)
    # What knowing the noise takes away is among what the main attack left. Where nothing is, or
    # where what stays is already above the bare classifier, the other images change nothing;
    # nor do those after the first ones, where these show it.
    least = "at least "
    for n in dict.fromkeys((min(_FIRST, len(main.rows)), len(main.rows))):
        if n < len(main.rows) and not significantly_below(bare.first(n), main.first(n)):
            continue
        known = subject.first(n).strong(variant=variant, after=main.first(n))
        gains = significantly_below(bare.first(n), known)
        if gains:
            break
    of = f" of the first {n}" if n < len(main.rows) else ""
    if known.accuracy < main.accuracy and not gains:
        known, least = subject.strong(variant=variant), ""
        gains = significantly_below(bare, known)
    drop = main.accuracy - known.accuracy
    state = State.PASS
    if not gains and significantly_below(known, main):
        state = State.FAIL
    elif not gains and drop > _POINT and main.accuracy > bare.accuracy:
        state = State.WARN
    return Finding(
        *about,
        state,
        figure=f"robust accuracy {main.accuracy:.1%}, {least}{known.accuracy:.1%}{of} once the "
        f"noise is known, {bare.accuracy:.1%} without the purifier",
        threshold=threshold,
        reason=""
        if state is State.PASS
        else "the robustness is randomness: an attacker who knows the noise takes it away, so "
        "more draws (attack.eot) and steps may take it away too"
        + (f" ({len(main.rows)} images are too few to tell)" if state is State.WARN else ""),
        values={
            "robust": main.accuracy,
            "known seed": known.accuracy,
            "bare": bare.accuracy,
        },
    )


def bare_classifier_falls(subject: Subject) -> Finding:
    """C15: the main attack breaks the classifier without its purifier as AutoAttack does.

    A robustly trained classifier or a tiny ball leaves some accuracy to every attack, so that
    AutoAttack's figure is the reference and not 0. An attack that breaks less than half of what
    AutoAttack breaks measures nothing; one that breaks somewhat less bounds.
    """
    bare = subject.strong(variant=subject.bare)
    reference = on_bare(subject)
    excess = bare.accuracy - reference.accuracy
    feeble = 1 - bare.accuracy < (1 - reference.accuracy) / 2
    state = State.PASS
    if significantly_below(reference, bare):
        state = State.FAIL
    elif excess > _POINT:
        state = State.WARN
    return Finding(
        "C15",
        "bare classifier falls",
        Weight.VOID if feeble else Weight.BOUND,
        state,
        figure=f"{bare.accuracy:.1%} without the purifier, AutoAttack leaves "
        f"{reference.accuracy:.1%}",
        threshold=f"not above AutoAttack's (paired, {LEVEL:.0%}), nor by more than 1 point",
        reason=""
        if state is State.PASS
        else "the main attack does not break the bare classifier, which AutoAttack does: give "
        "it more attack.steps, or attack.loss=dlr where cross-entropy saturates",
        values={"bare": bare.accuracy, "autoattack": reference.accuracy},
    )


def planted_controls(subject: Subject) -> Finding:
    """C16: purifiers that are known to be useless are flagged and broken."""
    bare = subject.of(subject.bare, _FEW)
    reference = bare.strong(access=Access.TRANSFER)  # the classifier and nothing around it
    identity = bare.strong()
    faults = []
    if not bool((identity.robust == reference.robust).all()):
        faults.append("the identity purifier is not broken exactly as the bare classifier is")
    bits = bits_for(subject.threat, subject.images.x[0].numel())
    traps: dict[str, Purifier] = {
        "no-grad purifier": NoGradient(),
        f"{bits}-bit quantizer": Quantizer(bits),
    }
    broken = {"bare classifier": reference.accuracy, "identity": identity.accuracy}
    for label, purifier in traps.items():
        trap = subject.of(subject.variant(label, purifier), _FEW)
        if gradient_exists(trap).state is not State.FAIL:
            faults.append(f"C2 does not flag the {label}")
        run = trap.strong(access=Access.BPDA)
        broken[label] = run.accuracy
        if significantly_below(reference, run):
            faults.append(f"BPDA does not break the {label} as it breaks the bare classifier")
    return Finding(
        "C16",
        "planted controls",
        Weight.VOID,
        State.FAIL if faults else State.PASS,
        figure=", ".join(f"{label} {left:.1%}" for label, left in broken.items()),
        threshold="the identity as the bare classifier; traps flagged by C2 and broken by BPDA",
        reason=f"{'; '.join(faults)}: this audit cannot be trusted" if faults else "",
        values={"robust": broken, "faults": faults},
    )


def bits_for(threat: ThreatModel, numbers: int) -> int:
    """Choose the bits of a quantizer that a ball can cross: 3, more for a small ball.

    Levels lie no farther apart than the radius, for L2 that of the matching Linf ball of images
    of this many ``numbers``. A coarser quantizer really does undo small perturbations.
    """
    reach = threat.radius
    if threat.norm is Norm.L2:
        reach *= 4 / math.sqrt(numbers)
    return max(3, math.ceil(math.log2(1 / reach + 1)))


def purifier_adds_to_its_noise(subject: Subject) -> Finding:
    """C17: the defense is more robust than its noise without the rest of the purifier."""
    about = ("C17", "purifier adds to its noise", Weight.REMARK)
    threshold = f"above the noise alone (paired, {LEVEL:.0%})"
    purifier = subject.defense.purifier
    missing = ""
    if not subject.defense.stochastic:
        missing = "the defense is deterministic: it has no noise"
    elif not fits(purifier, NoisyPurifier):
        missing = (
            f"{type(purifier).__name__} cannot add only its noise: give it noise_alone(self), "
            "the purifier of the same noise that does nothing else"
        )
    if missing or not fits(purifier, NoisyPurifier):
        return Finding(*about, State.NOT_APPLICABLE, threshold=threshold, reason=missing)
    main = subject.strong()
    alone = subject.of(subject.variant("noise alone", purifier.noise_alone())).strong()
    adds = significantly_below(alone, main)
    return Finding(
        *about,
        State.PASS if adds else State.FAIL,
        figure=f"robust accuracy {main.accuracy:.1%}, {alone.accuracy:.1%} for the noise alone",
        threshold=threshold,
        reason=""
        if adds
        else "the same noise without the purifier is as robust, as far as "
        f"{len(main.rows)} images show",
        values={"robust": main.accuracy, "noise alone": alone.accuracy},
    )


def better_than_bare(subject: Subject) -> Finding:
    """C18: the purifier costs its own classifier neither robust nor clean accuracy."""
    about = ("C18", "better than bare", Weight.REMARK)
    threshold = f"not below the bare classifier (paired, {LEVEL:.0%})"
    main = subject.strong()
    if subject.changes_nothing(main.x_adv):
        return Finding(
            *about,
            State.NOT_APPLICABLE,
            threshold=threshold,
            reason="the purifier changes no image: the defense is the bare classifier",
        )
    bare = subject.strong(variant=subject.bare)
    clean, bare_clean = main.rows["clean"], bare.rows["clean"]
    state, reason = State.PASS, ""
    if significantly_below(main, bare):
        state = State.FAIL
        reason = "the purifier hurts: under attack more images are right without it"
    elif worsens(bare_clean, clean) <= LEVEL:
        state = State.WARN
        reason = "the purifier costs clean images that are right without it"
    return Finding(
        *about,
        state,
        figure=f"robust {main.accuracy:.1%} against {bare.accuracy:.1%} without the purifier, "
        f"clean {clean.mean():.1%} against {bare_clean.mean():.1%}",
        threshold=threshold,
        reason=reason,
        values={
            "robust": main.accuracy,
            "bare robust": bare.accuracy,
            "clean": float(clean.mean()),
            "bare clean": float(bare_clean.mean()),
        },
    )


def significantly_below(run: Run, other: Run) -> bool:
    """Whether a run leaves fewer images robust than another one, in a paired test."""
    return worsens(other.robust, run.robust) <= LEVEL
