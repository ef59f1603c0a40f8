"""Kill commands of all kinds, several times each, and let the same command end the work.

Half of the kills come at a call that is counted, of Python or of C, or at the rename of a file
after it: the same moment for the same seed. The other half come from outside after a random
share of the time that the command takes.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

from .same import SAID, TOLD, differences

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_AT_MOST = 3  # kills before a command may end its work
_FEW = "classifiers: {name: small_cnn, set: {training: {epochs: 1}}}, n: 8, shard: 4, draws: 3"
PLAN = (
    f"{{defenses: [none, gaussian], threats: {{eps: 0.3}}, ladder: true, {_FEW}, attacks: "
    "[{name: noise, set: {tries: 1}}, {name: pgd, set: {steps: 2, eot: 1}}]}\n"
)
TABLE = (
    "title: Two\nlayout: gain\nbaseline: none\nruns:\n  - {defenses: [none, gaussian], "
    f"attacks: {{name: noise, set: {{tries: 1}}}}, threats: {{eps: 0.3}}, {_FEW}}}\n"
)
_TRAINED = "--set=classifier.training.epochs=1"
_ENERGY = [f"--set=defense.training.{one}" for one in
           ("iterations=12", "chain_steps=1", "bank=64", "width=4", "batch=16")]  # fmt: skip
# What is done before, by whom nobody kills, and the command that is killed.
_RUN = ("run", "--defense=gaussian", "--attack=pgd", "--set=attack.steps=2", "--eps=0.3",
        "--set=attack.eot=1", _TRAINED, "-n", "12", "--shard=3", "--draws=3")  # fmt: skip
_MATRIX = ("matrix", "plan.yaml")
SCENARIOS: dict[str, tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]] = {
    "run": ((("train", "small_cnn", _TRAINED),), _RUN),
    "matrix": ((("train", "small_cnn", _TRAINED),), _MATRIX),
    "train": ((), ("train", "ebm", *_ENERGY)),
    "paper": ((("train", "small_cnn", _TRAINED),), ("paper", "two.yaml")),
    "verify": ((_MATRIX,), ("verify", "--votes")),
    "table": ((_MATRIX,), ("table", "--worst-case", "--output=table.md")),
}
# What a child does. It is text, since a child cannot import a test module by its name.
CHILD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
os.chdir(folder)
for place, name in enumerate(("said.txt", "told.txt"), 1):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), place)
import torch
torch.set_num_threads(1)
import bench.models.train
bench.models.train._SAVE_EVERY_S = -1.0
from bench import cli
calls, code = 0, 0
def count(frame, event, argument):
    global calls
    if event.endswith("call"):
        calls += 1
        if last and calls >= last and (argument is os.replace or not commit):
            os.kill(os.getpid(), number)
sys.argv = ["bench", *words]
try:
    try:
        told.send("begun")
        if counted:
            sys.setprofile(count)
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
except KeyboardInterrupt:
    code = 130
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.setprofile(None)
sys.stdout.flush()
told.send((code, calls))
"""
PRELOAD = [
    "torch._dynamo", "sklearn.datasets", "pyarrow.parquet", "bench.cli", "bench.audit.run",
    "bench.experiments.matrix", "bench.executors.worker", "bench.results.table",
    "bench.verification.revote", "bench.audit.recheck", "bench.paper.write",
    "bench_attacks.noise", "bench_attacks.pgd", "bench_defenses.ebm", "bench_defenses.gaussian",
    "bench_defenses.none", "bench_defenses.classifiers.small_cnn", "rich.live",
]  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """When to kill: at a ``call``, or the ``commit`` after it, or after ``delay`` seconds."""

    number: signal.Signals
    call: int = 0
    commit: bool = False
    delay: float | None = None


@dataclass(frozen=True)
class Scenario:
    """A command, the folder it starts in, the one it ends in, and what it takes and says."""

    name: str
    words: tuple[str, ...]
    start: Path
    whole: Path
    calls: int
    seconds: float
    said: str


def worked(
    context: ForkServerContext,
    folder: Path,
    words: tuple[str, ...],
    moment: Moment | None = None,
    *,
    counted: bool = False,
) -> tuple[int, int] | None:
    """Let a child run a command; return its status and calls, None where it was killed."""
    ours, theirs = context.Pipe(duplex=False)
    given = {
        "folder": str(folder), "words": words, "told": theirs,
        "last": moment.call if moment else 0, "commit": bool(moment and moment.commit),
        "number": int(moment.number) if moment else 0,
        "counted": counted or bool(moment and moment.call),
    }  # fmt: skip
    process = context.Process(target=exec, args=(CHILD, given))
    process.start()
    theirs.close()
    with ours:
        ours.recv()  # it has begun
        if moment and moment.delay is not None and not ours.poll(moment.delay):
            os.kill(process.pid or 0, moment.number)
        process.join()
        told = ours.recv() if process.exitcode == 0 else None
    code = process.exitcode
    process.close()
    if told is None:
        # Beside its own signal, Ctrl-C may end a child while it tells how it ended.
        own = moment and (code == -moment.number or moment.number is signal.SIGINT)
        assert own, f"the child failed by itself: {code}\n{(folder / TOLD).read_text()}"
        return None
    errors = (folder / TOLD).read_text()
    # Python says this of a Ctrl-C that comes while it drops a generator, and goes on.
    assert "Traceback" not in errors or "Exception ignored in" in errors, errors
    status, calls = told
    return None if status == 130 else (status, calls)


def prepare(context: ForkServerContext, name: str, root: Path) -> Scenario:
    """Do what comes before a command, then the command, without any kill."""
    before, words = SCENARIOS[name]
    start, whole = root / f"{name}-start", root / f"{name}-whole"
    start.mkdir()
    (start / "plan.yaml").write_text(PLAN)
    (start / "two.yaml").write_text(TABLE)
    for command in before:
        assert worked(context, start, command) is not None
    shutil.copytree(start, whole)
    counted = worked(context, whole, words, counted=True)
    assert counted is not None
    assert counted[0] == 0, (whole / SAID).read_text()
    timed = root / f"{name}-timed"
    shutil.copytree(start, timed)
    begun = time.monotonic()
    assert worked(context, timed, words) is not None
    seconds = time.monotonic() - begun
    found = list(differences(timed, whole))
    assert not found, f"{name} differs from itself: {found}"
    said = (whole / SAID).read_text()
    return Scenario(name, words, start, whole, counted[1], seconds, said)


def moments(scenario: Scenario, rng: random.Random) -> Iterator[Moment]:
    """Choose when to kill a command, again and again."""
    for _ in range(rng.randint(1, _AT_MOST)):
        number = rng.choice(SIGNALS)
        if rng.random() < 0.5:
            call = rng.randint(1, scenario.calls)
            yield Moment(number, call=call, commit=rng.random() < 0.4)
        else:
            yield Moment(number, delay=rng.random() * scenario.seconds)


def kill_many(
    context: ForkServerContext,
    kills: int,
    seed: int,
    root: Path,
    *,
    names: Sequence[str] = tuple(SCENARIOS),
) -> tuple[Counter[str], list[str]]:
    """Kill commands so often; count kills by command and signal, and list what is wrong.

    Children of ``context`` have to have PRELOAD: they are timed.
    """
    scenarios = [prepare(context, name, root) for name in names]
    counts: Counter[str] = Counter()
    bad: list[str] = []
    trials = itertools.count()
    while counts.total() < kills:
        trial = next(trials)
        scenario = scenarios[trial % len(scenarios)]
        rng = random.Random(f"{seed}-{trial}")  # one trial can be done again by itself
        found = killed(context, scenario, rng, root / "trial", counts)
        bad += [f"trial {trial} of seed {seed}, {scenario.name}: {one}" for one in found]
    return counts, bad


def killed(
    context: ForkServerContext,
    scenario: Scenario,
    rng: random.Random,
    folder: Path,
    counts: Counter[str],
) -> list[str]:
    """Kill a command up to three times and let it end; return how that differs from no kill."""
    shutil.copytree(scenario.start, folder)
    told, bad = [], []
    try:
        for moment in moments(scenario, rng):
            told.append(f"{moment.number.name} {moment.call or moment.delay:.4g}")
            if worked(context, folder, scenario.words, moment) is None:
                counts[f"{scenario.name} {moment.number.name}"] += 1
        ended = worked(context, folder, scenario.words)
    except AssertionError as error:  # it failed by itself, or showed a traceback
        bad.append(str(error))
    else:
        said = (folder / SAID).read_text()
        if ended is None or ended[0] != 0:
            bad.append(f"it ends with {ended}: {said[-300:]!r}")
        bad += differences(folder, scenario.whole)
        if scenario.name == "verify" and said != scenario.said:
            bad.append("it says something else")
    shutil.rmtree(folder)
    return [f"{one} after {', '.join(told)}" for one in bad]
