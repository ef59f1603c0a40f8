"""A plan file: lists of names whose product is a matrix of requests. Imports no torch."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic
import pydantic_core

from bench.data.datasets import dataset_info
from bench.data.names import cell_name, found_at
from bench.errors import BenchError, PlanError, UsageError
from bench.plugins.catalogue import Kind, build
from bench.plugins.names import beside
from bench.results.cell import ZOO, Request
from bench.results.strict_yaml import read_file

NO_ACCESS: list[str | None] = [None]  # each attack takes its own default
_MOST_CELLS = 100_000  # of one plan
_MOST_FAULTS = 50  # that are told in words


class Threat(pydantic.BaseModel, extra="forbid", coerce_numbers_to_str=True):
    """A ball of the plan."""

    norm: str = "Linf"
    eps: str


class Choice(pydantic.BaseModel, extra="forbid"):
    """A plugin of the plan, with parameters; attacks may name their access.

    ``grid`` has lists of values by parameter, nested ones as ``training.seed``: the plugin
    stands for one of each combination.
    """

    name: str
    access: str | None = None
    set: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], pydantic.Field(min_length=1)]] = {}

    def count(self) -> int:
        """Count the combinations of the grid, without making them."""
        return math.prod(map(len, self.grid.values()))

    def spread(self) -> list[Choice]:
        """Multiply the grid out; the last parameter varies fastest."""
        return [
            Choice(
                name=self.name,
                access=self.access,
                set=functools.reduce(
                    _with, [*self.set.items(), *zip(self.grid, values, strict=True)], {}
                ),
            )
            for values in itertools.product(*self.grid.values())
        ]


def _with(settings: dict[str, Any], setting: tuple[str, Any]) -> dict[str, Any]:
    """Set a parameter, named by its path, in a copy of nested settings."""
    path, value = setting
    name, _, rest = path.partition(".")
    inner = settings.get(name)
    if rest:
        value = _with(inner if isinstance(inner, dict) else {}, (rest, value))
    elif isinstance(value, dict):
        start = inner if isinstance(inner, dict) else {}
        value = functools.reduce(_with, value.items(), start)
    return {**settings, name: value}


def _spread(choices: list[Choice]) -> list[Choice]:
    return [one for choice in choices for one in choice.spread()]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _named(value: Any) -> Any:
    return [{"name": item} if isinstance(item, str) else item for item in _as_list(value)]


def _audited(value: Any) -> Any:
    """Refuse 0, which pydantic would take for false."""
    if not isinstance(value, int) or (value is not False and value < 1):
        said = "write true, false or the number of images, 1 or more"
        raise pydantic_core.PydanticCustomError("audit", said)
    return value


Choices = Annotated[
    list[Choice], pydantic.BeforeValidator(_named), pydantic.Field(min_length=1)
]
Names = Annotated[list[str], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)]
# Strict: true is no number, and neither is a number in quotes.
Number = Annotated[int, pydantic.Field(strict=True)]
Seeds = Annotated[
    list[Number], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)
]
Threats = Annotated[
    list[Threat], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)
]


class Plan(pydantic.BaseModel, extra="forbid"):
    """Every defense x attack x access x threat x data set x classifier x seed.

    ``ladder``: cheap attacks first, expensive ones only on the images that survive; ``listed``
    for the plan's own order, such as that of measured yields.
    ``sequential``: the judge stops drawing for an image once its verdict is clear. ``search``:
    the precision of the networks that attacks see. ``audit``: audit every defense under every
    threat, on the first 256 images or on this many.
    """

    defenses: Choices
    attacks: Choices
    threats: Threats
    datasets: Names = ["digits"]
    classifiers: Choices = [Choice(name="small_cnn")]
    accesses: Names | None = None
    seeds: Seeds = [0]
    n: Number = 500
    draws: Number = 50
    shard: Number = 100
    ladder: bool | Literal["listed"] = False
    sequential: bool = False
    search: str = "float32"
    audit: Annotated[bool | int, pydantic.BeforeValidator(_audited)] = False

    def renamed(self, change: Callable[[str], str]) -> Self:
        """Return the plan with other names for its plugins."""

        def each(choices: list[Choice]) -> list[Choice]:
            return [one.model_copy(update={"name": change(one.name)}) for one in choices]

        kinds = ("defenses", "attacks", "classifiers")
        return self.model_copy(update={kind: each(getattr(self, kind)) for kind in kinds})

    def faults(self) -> list[str]:
        """Name every plugin, parameter and data set of the plan that does not exist."""
        if too_large := self._too_large():
            return [too_large]
        faults = []
        chosen: dict[Kind, list[Choice]] = {
            "defenses": self.defenses,
            "attacks": self.attacks,
            "classifiers": self.classifiers,
        }
        for kind, choices in chosen.items():
            for choice in _spread(choices):
                if choice.name.startswith(ZOO):
                    continue
                try:
                    build(kind, choice.name, choice.set)
                except BenchError as error:
                    faults.append(str(error))
        found: dict[str, str | None] = {}
        for name in self.datasets:
            try:
                dataset_info(name)
                known = cell_name(name)
            except BenchError as error:
                faults.append(str(error))
                continue
            # Cells that were not measured yet are told apart by it, such as those of a ladder.
            if (other := found.setdefault(known, found_at(name))) != found_at(name):
                faults.append(
                    f"{other} and {found_at(name)} have one name in results, {known}: rename "
                    "one of them, or write two plans."
                )
        return faults

    def requests(self) -> list[Request]:
        """Multiply the lists out; raises UsageError with all faults together."""
        if too_large := self._too_large():
            raise all_faults([too_large])
        found: dict[Hashable, Request] = {}  # what is asked twice is done once
        faults: list[str] = []
        for dataset, classifier, threat, defense, attack, access, seed in itertools.product(
            self.datasets, _spread(self.classifiers), self.threats, _spread(self.defenses),
            _spread(self.attacks), self.accesses or NO_ACCESS, self.seeds,
        ):  # fmt: skip
            try:
                request = Request.parse(
                    defense=defense.name,
                    attack=attack.name,
                    dataset=dataset,
                    classifier=classifier.name,
                    norm=threat.norm,
                    eps=threat.eps,
                    access=attack.access or access,
                    n=self.n,
                    seed=seed,
                    draws=self.draws,
                    shard=self.shard,
                    sequential=self.sequential,
                    search=self.search,
                    settings={
                        "defense": defense.set,
                        "attack": attack.set,
                        "classifier": classifier.set,
                    },
                )
            except UsageError as error:
                faults += str(error).splitlines()
            else:
                same = tuple(_hashable(getattr(request, one.name)) for one in fields(Request))
                found.setdefault(same, request)
        if faults:
            raise all_faults(faults)
        return list(found.values())

    def _too_large(self) -> str | None:
        """Count the cells before anything is multiplied out."""
        chosen = (self.classifiers, self.defenses, self.attacks)
        lists = (self.datasets, self.threats, self.accesses or NO_ACCESS, self.seeds)
        counts = [sum(choice.count() for choice in choices) for choices in chosen]
        cells = math.prod([*counts, *map(len, lists)])
        if cells <= _MOST_CELLS:
            return None
        return f"its lists multiply to {cells:,} cells, more than {_MOST_CELLS:,}: split it."


def _hashable(value: Any) -> Hashable:
    """Return what is equal, and has an equal hash, for equal settings."""
    if isinstance(value, dict):
        return frozenset((name, _hashable(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    found: Hashable = value
    return found


AnyPlan = TypeVar("AnyPlan", bound=Plan)


def read_plan(path: Path) -> Plan:
    """Read a plan; raises UsageError with every fault of the file."""
    known = "defenses, attacks and threats. plans/smoke.yaml is an example."
    content = read_mapping(path, f"is no plan: it has to be a mapping with {known}")
    return parse_plan(content, Plan, where=path.name, folder=path.parent)


def read_mapping(path: Path, otherwise: str) -> dict[Any, Any]:
    """Read a mapping from YAML, no key twice; raises UsageError."""
    content = read_file(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} {otherwise}")
    return content


def parse_plan(
    content: dict[Any, Any], kind: type[AnyPlan], *, where: str, folder: Path
) -> AnyPlan:
    """Make a plan from the content of a file; raises PlanError with every fault of it.

    Plugins in files that are not in the current folder are looked for in ``folder``.
    """

    def found(name: str) -> str:
        return beside(name, folder)

    try:
        return kind.model_validate(content).renamed(found)
    except pydantic.ValidationError as error:
        told = error.errors(include_url=False)
        faults = [f"{where}: {_in_words(fault)}" for fault in told[:_MOST_FAULTS]]
        if len(told) > _MOST_FAULTS:
            faults.append(f"{where}: {len(told) - _MOST_FAULTS} more faults of this kind.")
        sound = _sound_part(content, error).renamed(found)
        raise all_faults([*faults, *sound.faults()]) from error


def _sound_part(content: dict[Any, Any], error: pydantic.ValidationError) -> Plan:
    """Keep the fields without a fault, so that their names are checked all the same."""
    faulty = {fault["loc"][0] for fault in error.errors()}
    sound = {
        name: content[name]
        for name in Plan.model_fields
        if name in content and name not in faulty
    }
    spare = {"defenses": "none", "attacks": "noise", "threats": {"eps": "inf"}}
    return Plan.model_validate({**spare, **sound})


def _in_words(fault: Any) -> str:
    """Translate what pydantic found to the words of a plan."""
    *where, name = [str(step) for step in fault["loc"]]
    path = ".".join([*where, name])
    if fault["type"] == "extra_forbidden":
        inner = Threat if "threats" in where else Choice
        known = list((inner if where else Plan).model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        meant = f" Did you mean '{near[0]}'?" if near else ""
        return f"there is no key '{path}'.{meant}"
    if fault["type"] == "model_type" and "threats" in where:
        given = str(fault["input"])[:30]
        return f"{path}: write a threat as {{norm: Linf, eps: {given}}}."
    return f"{path}: {fault['msg']}."


def all_faults(faults: Iterable[str]) -> PlanError:
    """Put faults into one error, each of them once."""
    unique = list(dict.fromkeys(faults))
    head = (
        "the plan has a fault:" if len(unique) == 1 else f"the plan has {len(unique)} faults:"
    )
    told = unique[:_MOST_FAULTS]
    if len(unique) > len(told):
        told.append(f"and {len(unique) - len(told)} more.")
    return PlanError("\n  - ".join([head, *told]), unique)
