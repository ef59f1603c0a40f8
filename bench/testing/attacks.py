"""The contract of an attack, on linear defenses whose optimum is known."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from bench.calibration.linear import Problem, linear_problem
from bench.calibration.purifiers import Affine, Known, Noisy, network
from bench.core.access import view_of
from bench.core.border import plain_images
from bench.core.defense import Defense
from bench.core.geometry import project, size, steepest
from bench.core.isolation import generator_states, isolated
from bench.core.protocols import Attack, Calls, View, WarmAttack, fits
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import AttackWarning
from bench.evaluation.judge import TOLERANCE
from bench.plugins.as_attack import MadeAttack
from bench.testing.material import streams
from bench.testing.outcome import Check, Fails, NotApplicable
from bench.testing.things import is_written_down, label_of, made

_FEW, _CLASSES = 3, 4
_TOY = 8  # images of the toy whose optimum is known
_REACH = 1.5  # times the radius at which the last of them can be broken
_NOISY = 0.02
_SAME = 1e-6  # by which rounding may change a pixel


@dataclass(frozen=True)
class AttackSubject:
    """An attack, the norm and access of most checks, and what came of it so far."""

    label: str
    attack: Attack
    norm: Norm
    access: Access
    known: dict[tuple[Known, int], Attacked] = field(default_factory=dict)

    @property
    def accesses(self) -> tuple[Access, ...]:
        """Those that it declares; the first where a function declares none."""
        attack = self.attack
        if isinstance(attack, MadeAttack) and not hasattr(attack.thing.object, "accesses"):
            return attack.accesses[:1]
        return attack.accesses


def attack_subject(thing: object, *, settings: Mapping[str, Any]) -> AttackSubject:
    """Make an attack of a name or an object; raises BenchError."""
    attack: Attack = made("attacks", thing, dataset="digits", settings=settings)
    return AttackSubject(label_of(thing), attack, attack.norms[0], attack.accesses[0])


@dataclass
class CountingView:
    """A view that counts rows in the terms of ``Calls``."""

    inner: View
    counts: dict[str, int] = field(default_factory=lambda: asdict(Calls()))

    @property
    def access(self) -> Access:
        """That of the view."""
        return self.inner.access

    @property
    def stochastic(self) -> bool:
        """As the view."""
        return self.inner.stochastic

    def __call__(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Count a row for each stream."""
        self.counts["backward" if x.requires_grad else "forward"] += len(rng)
        return self.inner(x, rng=rng)

    def classify(self, x: Tensor) -> Tensor:
        """Count what is differentiated."""
        self.counts["classify"] += len(x) if x.requires_grad else 0
        return self.inner.classify(x)

    def purification_step(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Count each step."""
        self.counts["steps"] += len(x)
        return self.inner.purification_step(x, rng=rng)

    def surrogate(self, factor: int) -> View:
        """Count on with the cheaper process."""
        return CountingView(self.inner.surrogate(factor), self.counts)


def defense_of(problem: Problem, purifier: Known) -> Defense:
    """Build a linear defense with a known optimum."""
    return Defense(purifier, network(problem, purifier))


@dataclass(frozen=True)
class Attacked:
    """Images (N, 1, 8, 8), what the attack wrote into, and whether it drew by itself."""

    x_adv: Tensor
    changed: tuple[str, ...]
    drew: bool


def attacked(
    subject: AttackSubject,
    view: View,
    problem: Problem,
    threat: ThreatModel,
    *,
    seed: int = 0,
    rng: Rng | None = None,
    **start: Tensor,
) -> Attacked:
    """Let the attack propose images; ``seed`` is that of torch's own generator and others."""
    rng = streams(len(problem.x)) if rng is None else rng
    x, y = problem.x.clone(), problem.y.clone()
    with isolated(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)
        before = generator_states()
        found = subject.attack(view, x, y, threat=threat, rng=rng, **start)
        drew = generator_states() != before
    pairs = (("x", x, problem.x), ("y", y, problem.y))
    changed = tuple(name for name, one, other in pairs if not one.equal(other))
    whose = f"the attack {subject.label}"
    return Attacked(plain_images(found, problem.x, rows=len(x), whose=whose), changed, drew)


def _threat(norm: Norm, access: Access, eps: float) -> ThreatModel:
    return ThreatModel(norm, Fraction(f"{eps:.4g}"), access)


def _few(images: int = _FEW, classes: int = _CLASSES) -> Problem:
    return linear_problem(classes=classes, images=images, seed=0)


def _usual(
    subject: AttackSubject, purifier: Known, problem: Problem | None = None, *, seed: int = 0
) -> Attacked:
    """Attack at a radius where half of the images can be broken."""
    problem = problem or _few()
    view = view_of(defense_of(problem, purifier), subject.access)
    eps = float(problem.critical_radii(subject.norm).median())
    threat = _threat(subject.norm, subject.access, eps)
    return attacked(subject, view, problem, threat, seed=seed)


def _once(subject: AttackSubject, purifier: Known, *, seed: int = 0) -> Attacked:
    """Attack as ``_usual``, or remember what came of it: some attacks take seconds."""
    key = purifier, seed
    if key not in subject.known:
        subject.known[key] = _usual(subject, purifier, seed=seed)
    return subject.known[key]


def names_are_known(subject: AttackSubject) -> None:
    """Look at norms and accesses, and at what a cell keeps."""
    is_written_down(subject.attack)
    for name, kind in (("norms", Norm), ("accesses", Access)):
        found = getattr(subject.attack, name)
        if not (isinstance(found, tuple) and found and all(isinstance(v, kind) for v in found)):
            raise Fails(
                f"{name} to be a tuple of bench.api.{kind.__name__}",
                found=repr(found),
                remedy=f"Write {name}: ClassVar = ({kind.__name__}."
                f"{next(iter(kind)).name},) with one or more of them.",
            )


def makes_images_of_images(subject: AttackSubject) -> None:
    """Look at the shape and type of what is proposed: the border raises where it is wrong."""
    _once(subject, Affine())


def stays_in_ball_and_box(subject: AttackSubject) -> None:
    """Measure proposals of each norm and access, and one where the ball is a point."""
    pair, one = _few(2), _few(1)
    tried = []
    for norm in subject.attack.norms:
        radii = pair.critical_radii(norm)
        # Attacks such as autoattack take seconds on what they cannot break: once for each norm.
        for number, access in enumerate(subject.accesses):
            eps = _REACH * float(radii.max()) if number else float(radii.median())
            tried.append((pair, _threat(norm, access, eps)))
    for problem, threat in (*tried, (one, _threat(subject.norm, subject.access, 0.0))):
        view = view_of(defense_of(problem, Noisy(_NOISY)), threat.access)
        found = attacked(subject, view, problem, threat)
        _is_legal(found.x_adv, problem.x, threat)


def _is_legal(found: Tensor, x: Tensor, threat: ThreatModel) -> None:
    where = f"{threat.norm} {threat.radius:.4g}, {threat.access} access"
    far = float(size(found.double() - x.double(), threat.norm).max())
    if not far <= threat.radius + TOLERANCE:
        raise Fails(
            f"images within {threat.radius:.4g} of the clean ones ({where})",
            found="NaN" if far != far else f"a distance of {far:.4g}",
            remedy="End with project(x_adv, x, threat.norm, threat.radius).",
        )
    low, high = float(found.min()), float(found.max())
    if low < 0 or high > 1:
        raise Fails(
            f"pixels in [0, 1] ({where})",
            found=f"{low:.4g} to {high:.4g}",
            remedy="End with project(x_adv, x, threat.norm, threat.radius): it clips, too.",
        )


def leaves_what_it_is_given(subject: AttackSubject) -> None:
    """Compare images and labels before and after."""
    if changed := _once(subject, Affine()).changed:
        raise Fails(
            "x and y as they were",
            found=f"another {' and '.join(changed)} after the attack",
            remedy="Work on x.clone().",
        )


def same_streams_give_the_same(subject: AttackSubject) -> None:
    """Repeat an attack, under another state of torch's generator or under the same."""
    first, other = (_once(subject, Noisy(_NOISY), seed=seed) for seed in (0, 1))
    if first.x_adv.equal(other.x_adv):
        return
    if not first.x_adv.equal(_usual(subject, Noisy(_NOISY)).x_adv):
        raise Fails(
            "the same images from the same rng",
            found="other images the second time",
            remedy="Keep nothing from one call to the next.",
        )


def chance_comes_from_rng(subject: AttackSubject) -> None:
    """Look at torch's, numpy's and Python's generator."""
    first, other = (_once(subject, Noisy(_NOISY), seed=seed) for seed in (0, 1))
    if not first.drew and first.x_adv.equal(other.x_adv):
        return
    if isinstance(subject.attack, MadeAttack):
        raise NotApplicable(
            "it draws from torch's, numpy's or Python's generator, which is seeded for each "
            "block: repeatable, but an image depends on its block"
        )
    raise Fails(
        "chance from rng only",
        found="that it draws from torch's, numpy's or Python's own generator",
        remedy="Use rng.uniform_like(x), rng.normal_like(x) or rng.sign_like(x).",
    )


def no_image_depends_on_another(subject: AttackSubject) -> None:
    """Attack images alone that were attacked in company."""
    if not getattr(subject.attack, "independent", False):
        raise NotApplicable("it does not say that no image depends on another (independent)")
    problem, company = _few(), _once(subject, Noisy(_NOISY))
    for row in range(_FEW):
        one = replace(problem, x=problem.x[row : row + 1], y=problem.y[row : row + 1])
        eps = float(problem.critical_radii(subject.norm).median())
        view = view_of(defense_of(problem, Noisy(_NOISY)), subject.access)
        threat = _threat(subject.norm, subject.access, eps)
        alone = attacked(subject, view, one, threat, rng=streams(_FEW)[row : row + 1])
        far = float((alone.x_adv - company.x_adv[row : row + 1]).abs().max())
        if far > _SAME:
            raise Fails(
                "the same proposal for an image alone and beside others, as `independent` says",
                found=f"pixels that differ by {far:.2g}",
                remedy="Take chance, steps and stops of an image from it and its stream alone, "
                "or drop `independent`.",
            )


def works_with_one_image_and_two_classes(subject: AttackSubject) -> None:
    """Attack one image before a defense of two classes."""
    _usual(subject, Affine(), _few(1, 2))


def costs_what_it_says(subject: AttackSubject) -> None:
    """Count what an image that never falls costs, without noise and with it."""
    if subject.attack.calls(stochastic=False, classes=2) is None:
        raise NotApplicable("what it costs is known only once it has run (calls gives None)")
    problem = _few(1)
    threat = _threat(subject.norm, subject.access, 0.0)
    for purifier in (Affine(), Noisy(_NOISY)):
        defense = defense_of(problem, purifier)
        view = CountingView(view_of(defense, subject.access))
        promised = asdict(subject.attack.calls(stochastic=view.stochastic, classes=_CLASSES))
        attacked(subject, view, problem, threat)
        for name, most in promised.items():
            if view.counts[name] > most:
                raise Fails(
                    f"at most {most} {name} rows for an image, as calls() says",
                    found=f"{view.counts[name]}",
                    remedy="Correct calls(), which prices cells and puts attacks in order: "
                    "forward rows without a gradient, backward rows with one.",
                )


def beats_chance(subject: AttackSubject) -> None:
    """Count broken images where the optimum breaks all, and where chance breaks some."""
    problem = _few(_TOY)
    for norm in subject.attack.norms:
        reach = _REACH * float(problem.critical_radii(norm).max())
        threat = _threat(norm, subject.access, reach)
        view = view_of(defense_of(problem, Affine()), subject.access)
        found = _broken(problem, attacked(subject, view, problem, threat).x_adv)
        drawn = problem.x + threat.radius * steepest(streams(_TOY).normal_like(problem.x), norm)
        chance = _broken(problem, project(drawn, problem.x, norm, threat.radius))
        if found < max(1, chance):
            raise Fails(
                f"more than chance on a linear defense ({norm} {threat.radius:.4g}, "
                f"{subject.access} access), where the optimum breaks {_TOY} of {_TOY} images",
                found=f"{found} broken, and {chance} by random noise of that size",
                remedy="Go up the loss, not down, and return the images that were found.",
            )


def _broken(problem: Problem, x_adv: Tensor) -> int:
    return int((problem.margins(x_adv).amin(1) <= 0).sum())


def unbounded_is_true(subject: AttackSubject) -> None:
    """Attack without a bound."""
    if not subject.attack.unbounded:
        raise NotApplicable("it needs a bound (unbounded is False)")
    problem = _few()
    view = view_of(defense_of(problem, Affine()), subject.access)
    threat = ThreatModel(subject.norm, None, subject.access)
    _is_legal(attacked(subject, view, problem, threat).x_adv, problem.x, threat)


def warm_starts_are_legal(subject: AttackSubject) -> None:
    """Begin at the images of another attack."""
    attack = subject.attack
    if not fits(attack, WarmAttack):
        raise NotApplicable("it cannot begin at the images of cheaper attacks")
    problem = _few()
    eps = float(problem.critical_radii(subject.norm).median())
    threat = _threat(subject.norm, subject.access, eps)
    drawn = problem.x + eps * steepest(streams(_FEW).normal_like(problem.x), subject.norm)
    start = project(drawn, problem.x, subject.norm, threat.radius)
    view = view_of(defense_of(problem, Affine()), subject.access)
    found = attacked(subject, view, problem, threat, start=start)
    _is_legal(found.x_adv, problem.x, threat)


def copies_are_the_same(subject: AttackSubject) -> None:
    """Compare with a copy."""
    copied = replace(subject, attack=copy.deepcopy(subject.attack))
    if not _once(subject, Affine()).x_adv.equal(_usual(copied, Affine()).x_adv):
        raise Fails(
            "the same images from a copy (copy.deepcopy)",
            found="other images",
            remedy="Keep what it needs in its parameters.",
        )


ATTACKS: tuple[Check[AttackSubject], ...] = (
    Check("norms, accesses and parameters are written down", names_are_known, needed=True),
    Check("images in, images of the same shape out", makes_images_of_images, needed=True),
    Check("proposals stay in ball and box", stays_in_ball_and_box),
    Check("what it is given stays as it was", leaves_what_it_is_given),
    Check("the same rng gives the same images", same_streams_give_the_same, needed=True),
    Check("all chance comes from rng", chance_comes_from_rng),
    Check("no image depends on another, where it says so", no_image_depends_on_another),
    Check("one image, and two classes", works_with_one_image_and_two_classes),
    Check("it costs at most what `calls` says", costs_what_it_says),
    Check("it beats chance where the optimum is known", beats_chance),
    Check("`unbounded` is true", unbounded_is_true),
    Check("it can begin at other images", warm_starts_are_legal),
    Check("a copy does the same", copies_are_the_same),
)
