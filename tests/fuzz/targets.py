"""Feed inputs to the parsers in this process and judge what comes back."""

from __future__ import annotations

import io
import json
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from bench import cli
from bench.core.threat import Norm, format_eps, parse_eps
from bench.errors import BenchError
from bench.experiments.plan import read_plan
from bench.plugins.catalogue import build_dataclass, parameters
from bench.results.cell import digest_of
from bench.results.settings import Settings, parse_settings
from bench.results.vote_rules import parse_rule

from . import inputs

_MARKS = "[]{},:\"'&*?\ufeff\u2028\u2029\x85"  # around a word of YAML
HANG_S = 5.0  # of this process on a CPU, whatever else the machine does


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Toy:
    """Parameters of every kind."""

    tries: Annotated[int, Field(ge=1)] = 10
    rate: float = 0.1
    loss: Literal["ce", "margin"] = "ce"
    flag: bool = False
    size: float | None = None
    sizes: tuple[int, ...] = (1,)
    inner: Inner = field(default_factory=Inner)


class Hang(BaseException):
    """No `except Exception` of what is tested may swallow it."""


class OtherNumberError(Exception):
    """What was accepted is not what was written."""


def _number(text: str) -> Fraction | None:
    """Read a number by other code than the parsers."""
    above, over, below = text.strip().partition("/")
    try:
        if over:
            return Fraction(int(above), int(below))
        return Fraction(Decimal(above))
    except (ValueError, ArithmeticError, InvalidOperation):
        return None


def _same(value: Any, text: str) -> None:
    """Check a number against the words of the text that it was read from."""
    if isinstance(value, bool):
        ok = str(value).lower() in text.lower()
    elif isinstance(value, int | float) and abs(value) < float("inf"):
        marks = text.translate(
            dict.fromkeys(map(ord, "[]{},:\"'&*?\ufeff\u2028\u2029\x85"), " ")
        )
        # As it is shown, or to the last bit: a large power of two has a shorter name.
        same = (Fraction(str(value)), Fraction(value))
        ok = any(_number(word) in same for word in marks.split())
    else:
        return
    if not ok:
        raise OtherNumberError(f"{value!r} from {text[:80]!r}")


def eps(rng: random.Random, folder: Path) -> None:
    text, norm = inputs.mutated(rng.choice(inputs.EPS), rng), rng.choice(list(Norm))
    found = parse_eps(text, norm)
    if found is None:
        return
    if _number(text) != found or (found > 0) != (float(found) > 0):
        raise OtherNumberError(f"{found} from {text!r}")
    if parse_eps(format_eps(found), norm) != found:
        raise OtherNumberError(f"{text!r} is kept as {format_eps(found)!r}")


def settings(rng: random.Random, folder: Path) -> None:
    words = [inputs.setting(rng) for _ in range(rng.choice((1, 1, 3)))]
    found = parse_settings(words)
    text = " ".join(word.partition("=")[2] for word in words)
    for _, value in Settings.of(found).pairs:
        _same(value, text)
    json.dumps(Settings.of(found).stored()).encode()
    str(Settings.of(found)).encode()
    made = build_dataclass(Toy, found.get("attack", {}), where="attack")
    kept = parameters(made)
    if build_dataclass(Toy, json.loads(json.dumps(kept)), where="attack") != made:
        raise OtherNumberError(f"{kept} from {text[:80]!r}")
    digest_of(kept)
    for name, value in Settings.of(kept).pairs:
        if name in dict(Settings.of(found.get("attack", {})).pairs) and name != "flag":
            _same(value, text)


def plan(rng: random.Random, folder: Path) -> None:
    text = inputs.mutated(rng.choice(inputs.PLANS), rng)
    path = folder / "plan.yaml"
    path.write_bytes(text.encode(errors=rng.choice(("replace", "surrogatepass"))))
    found = read_plan(path)
    found.faults()
    for request in found.requests():
        json.dumps(Settings.asked(request).stored()).encode()
    for name in found.model_fields_set & {"n", "draws", "shard"}:
        _same(getattr(found, name), text)
    for seed in found.seeds if "seeds" in found.model_fields_set else ():
        _same(seed, text)


def rule(rng: random.Random, folder: Path) -> None:
    text = inputs.mutated(rng.choice(inputs.RULES), rng)
    found = parse_rule(text)
    if parse_rule(str(found)) != found or (found.draws and str(found.draws) not in text):
        raise OtherNumberError(f"{found} from {text!r}")


def command(rng: random.Random, folder: Path) -> None:
    words = inputs.command(rng)
    before, sys.argv = sys.argv, ["bench", *words]
    said = io.StringIO()
    try:
        with chdir(folder), redirect_stdout(said), redirect_stderr(said):
            cli.main()
    except SystemExit as stop:
        if stop.code not in (None, 0, 1, 2):
            raise RuntimeError(f"status {stop.code} of {words}") from stop
    finally:
        sys.argv = before
    said.getvalue().encode(errors="strict")


Target = Callable[[random.Random, Path], None]
# How often each is fed, of 40: a command takes a hundred times as long as a radius.
TARGETS: dict[Target, int] = {eps: 12, settings: 14, plan: 8, rule: 5, command: 1}


@contextmanager
def _limited() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def feed(count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Feed inputs and count outcomes by target; also list what must not happen."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    bad: list[str] = []
    names = list(TARGETS)
    for number in range(count):
        (target,) = rng.choices(names, weights=list(TARGETS.values()))
        own = random.Random(f"{seed}-{number}")  # one input can be fed again by itself
        outcome = one(target, own, folder)
        counts[f"{target.__name__} {outcome.partition(':')[0]}"] += 1
        if outcome not in ("accepted", "refused"):
            bad.append(f"input {number} of seed {seed}, {target.__name__}: {outcome}")
    return counts, bad


def one(target: Target, rng: random.Random, folder: Path) -> str:
    """Feed one input: accepted, refused, hang, other number or traceback."""
    try:
        with _limited():
            target(rng, folder)
    except BenchError as error:
        try:
            str(error).encode(errors="backslashreplace")
        except UnicodeError:
            return "traceback: the message cannot be written"
        return "refused"
    except Hang:
        return "hang"
    except OtherNumberError as error:
        return f"other number: {error}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return f"traceback: {type(error).__name__}: {str(error)[:200]} ({where})"
    return "accepted"
