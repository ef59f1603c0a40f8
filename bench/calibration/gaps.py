"""How far each attack stays from the best possible one, in points of robust accuracy."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.calibration.linear import Problem, linear_problem, survival
from bench.calibration.purifiers import Affine, Known, Mirror, Noisy, network
from bench.core.access import view_of
from bench.core.border import blamed, plain_images
from bench.core.defense import Defense
from bench.core.isolation import isolated
from bench.core.protocols import Attack, Calls
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel, format_eps
from bench.errors import AttackWarning, BenchError
from bench.evaluation.judge import Outcomes, judge
from bench.plugins.catalogue import build, catalogue
from bench.results.progress import Progress, Work

SEED = 0
IMAGES = 100
DRAWS = 50  # of the judge
LARGEST_GAP = 1.0  # points that a gated attack may stay above the optimum
# Cheaper than the defaults where that keeps the whole table under two minutes on one core.
BUDGETS: dict[str, dict[str, Any]] = {
    "noise": {"tries": 50, "eot": 2},
    "rays": {"queries": 300},
    "square": {"queries": 300, "eot": 2},
}
TARGETS = 9  # of an attack that has them, where rivals are alike: all classes here
# Accesses without a gradient, and why their attacks need not reach an optimum.
SEARCHES = {Access.QUERY: "random search", Access.LABEL: "a search by labels"}
WHAT = "attacks against known answers"
_EXPENSIVE = 3000  # passes an image from which on an attack is measured on few defenses
_SLACK = 1e-3  # of a margin: float32 images and logits, and the judge's tolerance of the ball
_CPU = torch.device("cpu")
_UNLIKELY = 7e-6  # chance of the judge's count: what 4.5 standard errors are where many vary


@dataclass(frozen=True)
class Case:
    """A defense with a known answer: a purifier before a linear classifier."""

    name: str
    classes: int
    purifier: Known
    clear: bool = True  # whether every image has one nearest rival, by far

    def problem(self, images: int) -> Problem:
        """Draw its images and classifier."""
        return linear_problem(
            classes=self.classes,
            images=images,
            seed=SEED,
            clear=self.clear and self.classes > 2,
        )

    @property
    def moves(self) -> bool:
        """Whether its purifier changes images."""
        return self.purifier != Affine()

    @property
    def sigma(self) -> float:
        """Standard deviation of its noise, 0 without."""
        return self.purifier.sigma if isinstance(self.purifier, Noisy) else 0.0


EXPENSIVE_CASE = Case(
    "identity", 5, Affine()
)  # where an attack of thousands of passes is measured
NOISE_CASE = Case("noise 0.1", 2, Noisy(0.1))
CASES = (
    Case("identity", 2, Affine()),
    EXPENSIVE_CASE,
    Case("identity, rivals alike", 5, Affine(), clear=False),
    Case("0.1 + 0.8 x", 5, Affine(0.8, 0.1)),
    Case("1 - x", 5, Affine(-1.0, 1.0)),
    Case("mirror", 5, Mirror()),
    NOISE_CASE,
)


@dataclass(frozen=True)
class Gap:
    """One attack on one defense at several radii; accuracies and gaps in percent and points.

    ``exact``: the optimum; ``reached``: expected of the attack's images from their true
    margins; ``judged``: what the judge counted. ``gap`` is the worst over the radii, None where
    the attack failed; ``gap_single`` that of one draw's accuracy. ``ungated`` says why a gap is
    not held against the attack, ``fault`` what cannot be.
    """

    attack: str
    access: str
    norm: str
    defense: str
    classes: int
    eps: tuple[str, ...]
    exact: tuple[float, ...]
    reached: tuple[float, ...]
    judged: tuple[float, ...]
    gap: float | None
    gap_single: float | None
    budget: str
    ungated: str
    fault: str

    @property
    def passes(self) -> bool:
        """Whether nothing impossible happened and a gated gap is small."""
        small = bool(self.ungated) or (self.gap is not None and self.gap <= LARGEST_GAP)
        return small and not self.fault


def calibrate(
    *,
    images: int | None = None,
    cases: Sequence[Case] | None = None,
    names: Sequence[str] | None = None,
    device: torch.device = _CPU,
) -> Work[list[Gap]]:
    """Measure every attack of the catalogue, or those named, on every case that applies.

    One that cannot even be made is a row of its own.
    """
    pairs, rows = [], []
    for name in names or catalogue("attacks"):
        try:
            attack = build("attacks", name, budget(name))
            pairs += [
                (name, case, access, norm)
                for case in cases or CASES
                for access in attack.accesses
                for norm in attack.norms
                if applies(attack, case, access)
            ]
        except (Exception, SystemExit) as error:  # whatever a third-party attack raises
            rows.append(_unmade(name, error))
    for done, (name, case, access, norm) in enumerate(pairs):
        yield Progress(WHAT, done, len(pairs), unit="cases")
        attack = build("attacks", name, budget(name, case))
        rows.append(
            measure(name, attack, case, access, norm, images=images or IMAGES, device=device)
        )
    yield Progress(WHAT, len(pairs), len(pairs), unit="cases")
    return rows


def budget(name: str, case: Case | None = None) -> dict[str, Any]:
    """Return the parameters that an attack is measured with on a case, or on most of them."""
    params = dict(BUDGETS.get(name, {}))
    alike = case is not None and not case.clear
    if alike and hasattr(build("attacks", name, params), "targets"):
        params["targets"] = TARGETS
    return params


def _unmade(name: str, error: BaseException) -> Gap:
    return Gap(
        attack=name, access="?", norm="?", defense="any", classes=0, eps=(), exact=(),
        reached=(), judged=(), gap=None, gap_single=None, budget="", ungated="",
        fault=f"failed: {_in_words(error)}",
    )  # fmt: skip


def _in_words(error: BaseException) -> str:
    """Write an error; bench's own are sentences, others have a type."""
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"


def applies(attack: Attack, case: Case, access: Access) -> bool:
    """Whether a case says something new about an attack with an access, at a bearable cost."""
    if access is Access.TRANSFER:
        allowed = not case.moves
    elif access in SEARCHES:
        allowed = not case.moves or bool(case.sigma)  # its logits are those of the identity
    else:
        allowed = True
    calls = _calls(attack, case, stochastic=False)
    if calls.forward + calls.backward > _EXPENSIVE:
        allowed &= case == EXPENSIVE_CASE or (case == NOISE_CASE and access is Access.FULL)
    return allowed


def _calls(attack: Attack, case: Case, *, stochastic: bool) -> Calls:
    """Return what an attack costs, nothing for one in a file, which does not know it."""
    return attack.calls(stochastic=stochastic, classes=case.classes) or Calls()


def ungated(name: str, attack: Attack, case: Case, access: Access) -> str:
    """Return why an attack need not reach the optimum of a case; nothing where it has to."""
    calls = _calls(attack, case, stochastic=bool(case.sigma))
    if reason := SEARCHES.get(attack.accesses[0]):
        return reason
    if not case.clear and not getattr(attack, "targets", 0):
        return "one ascent may follow the wrong rival"
    if calls.steps and case.moves:
        return "no guarantee where a purification step moves the image"
    if access is Access.BPDA and not case.purifier.bpda_holds:
        return "BPDA's gradient is wrong here by design"
    if name == "autoattack" and case.sigma:
        return "one draw decides what it gives back"
    return ""


def measure(
    name: str,
    attack: Attack,
    case: Case,
    access: Access,
    norm: Norm,
    *,
    images: int,
    device: torch.device = _CPU,
) -> Gap:
    """Attack a case at its three radii by the harness's own path, and judge, on a device."""
    problem = case.problem(images)
    defense = Defense(case.purifier, network(problem, case.purifier)).to(device)
    parts: list[Part] = []
    faults: list[str] = []
    radii = problem.radii(norm)
    for eps in radii:
        try:
            part = _at(attack, problem, case, defense, ThreatModel(norm, eps, access), device)
        except (Exception, SystemExit) as error:  # of a third-party attack: its result
            faults.append(f"failed: {_in_words(error)}")
            break
        parts.append(part)
        faults += part.faults
    whole = len(parts) == len(radii)
    return Gap(
        attack=name,
        access=access.value,
        norm=norm.value,
        defense=case.name,
        classes=case.classes,
        eps=tuple(format_eps(eps) for eps in radii),
        exact=tuple(part.exact for part in parts),
        reached=tuple(part.reached for part in parts),
        judged=tuple(part.judged for part in parts),
        gap=max(part.gap for part in parts) if whole else None,
        gap_single=max(part.gap_single for part in parts) if whole and case.sigma else None,
        budget=_changed(attack) or "defaults",
        ungated=ungated(name, attack, case, access),
        fault="; ".join(dict.fromkeys(faults)),
    )


def _changed(attack: Attack) -> str:
    """Write the parameters of an attack that are not its defaults."""
    known: tuple[dataclasses.Field[Any], ...] = ()
    if dataclasses.is_dataclass(attack):
        known = dataclasses.fields(attack)
    values = [(field.name, field.default, getattr(attack, field.name)) for field in known]
    return " ".join(f"{name}={value}" for name, default, value in values if value != default)


@dataclass(frozen=True)
class Part:
    """What was measured at one radius, in percent and points."""

    exact: float
    reached: float
    judged: float
    gap_single: float
    faults: tuple[str, ...]

    @property
    def gap(self) -> float:
        """Points by which the attack misses the optimum."""
        return self.reached - self.exact


def _at(
    attack: Attack,
    problem: Problem,
    case: Case,
    defense: Defense,
    threat: ThreatModel,
    device: torch.device,
) -> Part:
    x, y = problem.x.to(device), problem.y.to(device)
    rng = Rng.seeded(SEED, range(len(y)), device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttackWarning)  # what it left out is no fault here
        view, name = view_of(defense, threat.access), f"the attack {type(attack).__name__}"
        with isolated(SEED), blamed(name):
            x_adv = attack(view, x.clone(), y.clone(), threat=threat, rng=rng.fork("attack"))
        x_adv = plain_images(x_adv, x, rows=len(x), whose=name)
    outcomes = judge(defense, x, y, x_adv, threat=threat, draws=DRAWS, rng=rng.fork("judge"))
    # What an image is worth is worked out on the CPU, wherever it was attacked.
    outcomes = replace(outcomes, legal=outcomes.legal.cpu(), robust=outcomes.robust.cpu())
    return compare(problem, case.sigma, threat, x_adv.cpu(), outcomes)


def chance(shares: Tensor, count: int) -> float:
    """Return how likely a count is as far from its mean, of images (N,) right by ``shares``.

    Exact (Poisson's binomial): where few images may go either way no normal law holds.
    """
    law = np.ones(1)
    for share in shares.tolist():
        law = np.convolve(law, (1 - share, share))
    far = np.abs(np.arange(len(law)) - float(shares.sum()))
    return float(law[far >= far[count] - 1e-9].sum())


def compare(
    problem: Problem, sigma: float, threat: ThreatModel, x_adv: Tensor, outcomes: Outcomes
) -> Part:
    """Hold what the judge counted against what is possible and what the margins imply."""
    y, legal = problem.y, outcomes.legal
    weight = problem.weight.double()
    # Only two classes have noise, so the other class is the only rival.
    length = (weight[y] - weight[1 - y.clamp_max(1)]).norm(dim=1)
    shown = torch.where(legal.reshape(-1, 1, 1, 1), x_adv.to(problem.x), problem.x)
    clean = problem.margins(problem.x).amin(1)
    attacked = problem.margins(shown).amin(1)
    best = problem.optimal_margins(threat.norm, threat.radius)

    def right(margins: Tensor, draws: int) -> Tensor:
        return survival(margins, sigma=sigma, length=length, draws=draws)

    # Robust: voted right clean and attacked, on independent draws. What is illegal is no break.
    kept = right(clean, DRAWS)
    expected = kept * torch.where(legal, right(attacked, DRAWS), 1.0)
    exact = kept * right(best, DRAWS)
    judged = outcomes.robust.double()
    single = right(attacked, 1) - right(best, 1)
    faults = []
    if not bool(legal.all()):
        faults.append(f"{int((~legal).sum())} images outside ball or box")
    if bool((attacked < best - _SLACK).any()):
        faults.append(
            f"a margin {float((best - attacked).max()):.2g} below the lowest possible: the "
            "closed form or the judge's ball is wrong"
        )
    if not sigma:
        certain = ~legal | (attacked.abs() > _SLACK)
        expected = torch.where(certain, expected, judged)  # a float32 tie is the judge's
    if chance(expected, int(judged.sum())) < _UNLIKELY:
        faults.append(
            f"the judge counts {_percent(judged):.1f} % where {_percent(expected):.1f} % are "
            "expected"
        )
    return Part(
        exact=_percent(exact),
        reached=_percent(expected),
        judged=_percent(judged),
        gap_single=_percent(single),
        faults=tuple(faults),
    )


def _percent(shares: Tensor) -> float:
    return 100 * float(shares.mean())


def failures(rows: Sequence[Gap]) -> list[str]:
    """Name what does not hold, one line each."""
    found = []
    for row in rows:
        who = f"{row.attack} ({row.access}, {row.norm}) on {row.defense}"
        if row.fault:
            found.append(f"{who}: {row.fault}")
        elif not row.passes:
            found.append(f"{who}: {row.gap:.1f} points above the optimum")
    return found
