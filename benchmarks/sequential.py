"""A judge that stops once a verdict is clear, against one that takes all draws."""

from __future__ import annotations

from collections.abc import Iterator

from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.judge import Outcomes, judge
from bench_attacks.bpda_eot import BpdaEot
from benchmarks.clock import interleaved
from benchmarks.overhead import attacking
from benchmarks.rows import Row, Settings
from benchmarks.subjects import subject

ITEM = "sequential"


def rows(settings: Settings) -> Iterator[Row]:
    """Measure passes and time of judging attacked images, and compare the verdicts."""
    found = subject(settings)
    defense, draws = found.defense(), 50
    images = found.images(settings.size(100, quick=16))
    threat = ThreatModel(Norm.LINF, found.eps, Access.BPDA)
    attack = BpdaEot(steps=settings.size(10, quick=2), eot=settings.size(5, quick=2))
    x_adv = attacking(defense, attack, Access.BPDA, images, found.eps)()
    rng = Rng.seeded(0, images.indices).fork("judge")

    def judged(*, sequential: bool) -> Outcomes:
        return judge(
            defense, images.x, images.y, x_adv,
            threat=threat, draws=draws, rng=rng, sequential=sequential,
        )  # fmt: skip

    with count_passes(defense.networks()) as short:
        one = judged(sequential=True)
    with count_passes(defense.networks()) as whole:
        other = judged(sequential=False)
    differ = int(((one.robust != other.robust) | (one.clean != other.clean)).sum())
    checked = (
        f"verdicts that differ: {differ} of {len(images)}; robust: {int(one.robust.sum())} and "
        f"{int(other.robust.sum())}, clean: {int(one.clean.sum())} and {int(other.clean.sum())}"
    )
    what = f"all {draws} draws / sequential, {len(images)} images under BPDA+EOT"
    yield Row(
        ITEM,
        f"{what}: passes",
        sum(whole.values()) / sum(short.values()),
        repeats=1,
        at_least=3.0,
        checked=checked,
        reason=found.note,
    )
    yield interleaved(
        {
            "all": lambda: judged(sequential=False),
            "sequential": lambda: judged(sequential=True),
        },
        repeats=settings.repeats,
    ).ratio("all", "sequential", item=ITEM, what=f"{what}: time", checked=checked)
