"""The harness's attacks against the bare network passes that they count."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from torch import Tensor

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.passes import count_passes
from bench.core.protocols import Images
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench_attacks.adaptive import Adaptive
from bench_attacks.apgd import Apgd
from bench_attacks.bpda_eot import BpdaEot
from bench_attacks.pgd import Pgd
from bench_defenses.none import Identity
from benchmarks.clock import interleaved
from benchmarks.replay import bare, in_words, noise_alone, recorded
from benchmarks.rows import Row, Settings
from benchmarks.subjects import Subject, subject

ITEM = "overhead"
EPS = Fraction(8, 255)  # small on MNIST: few images are done early


def rows(settings: Settings) -> Iterator[Row]:
    """Measure pgd, apgd, bpda_eot and adaptive on a bare classifier and behind noise."""
    found = subject(settings)
    for device in settings.devices:
        on = "" if device == "cpu" else f" on {device}"
        steps, n = settings.size(20, quick=4), settings.size(500, quick=32)
        what = f"small CNN{on}, {n} images, {steps} steps"
        bare_one = found.defense(Identity(), device=device)
        for case in _cases(steps, 1):
            yield _row(settings, found, bare_one, *case, n, device, what, 1.05)
        steps, draws, n = settings.size(5, quick=2), 4, settings.size(64, quick=8)
        what = f"behind 10 Langevin steps{on}, {n} images, {steps} steps of {draws} draws"
        noisy = found.defense(device=device)
        for case in _cases(steps, draws):
            yield _row(settings, found, noisy, *case, n, device, what, None)


def _cases(steps: int, draws: int) -> list[tuple[str, Any, Access]]:
    return [
        ("pgd", Pgd(steps=steps, eot=draws), Access.FULL),
        ("apgd", Apgd(steps=steps, eot=draws), Access.FULL),
        ("bpda_eot", BpdaEot(steps=steps, eot=draws), Access.BPDA),
        ("adaptive", Adaptive(steps=steps, eot=draws), Access.BPDA),
    ]


def _row(
    settings: Settings,
    found: Subject,
    defense: Defense,
    name: str,
    attack: Any,
    access: Access,
    n: int,
    device: str,
    what: str,
    at_most: float | None,
) -> Row:
    images, networks = found.images(n, device=device), defense.networks()
    run = attacking(defense, attack, access, images, EPS)
    with recorded(networks) as seen:
        run()
    replay, noise = bare(seen.passes, networks, images.x), noise_alone(seen.noise)
    with count_passes(networks) as counts:
        replay()
    same = "the same" if counts == seen.counts() else f"NOT the same: {in_words(counts)}"
    # The target is a few hundredths: many short rounds, as a shared machine varies in speed.
    times = interleaved(
        {"harness": run, "bare": replay, "noise": noise},
        repeats=settings.size(15, quick=1),
        device=device,
    )
    reason = found.note
    if seen.noise:
        share = times.ratio("noise", "bare", item="", what="").value or 0.0
        reason = (
            f"of which {share:.2f} are {seen.numbers():,} normal numbers, one stream per image "
            f"and draw; {found.note}"
        )
    return times.ratio(
        "harness",
        "bare",
        item=ITEM,
        what=f"{name} / its bare passes: {what}",
        at_most=at_most,
        checked=f"passes replayed: {in_words(seen.counts())}; counted in the replay: {same}",
        reason=reason,
    )


def attacking(
    defense: Defense, attack: Any, access: Access, images: Images, eps: Fraction
) -> Callable[[], Tensor]:
    """Build one run of an attack, without the judge."""
    threat, view = ThreatModel(Norm.LINF, eps, access), view_of(defense, access)
    rng = Rng.seeded(0, images.indices).fork("attack")

    def run() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x_adv: Tensor = attack(view, images.x, images.y, threat=threat, rng=rng)
        return x_adv

    return run
