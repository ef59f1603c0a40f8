"""A plan file: lists of names whose product is a matrix of requests. Imports no torch."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import pydantic
import pydantic_core

from bench.core.threat import Norm, parse_access, parse_eps, parse_norm
from bench.data.datasets import dataset_info, first_images, held_out
from bench.data.names import cell_name, found_at
from bench.errors import BenchError, UsageError
from bench.experiments.plan_faults import Origin, all_faults, in_words
from bench.plugins.catalogue import Kind, build
from bench.plugins.names import beside
from bench.results.cell import ZOO, Request, check_count, parse_search
from bench.results.strict_yaml import read_file

NO_ACCESS: list[str | None] = [None]  # each attack takes its own default
_MOST_CELLS = 100_000  # of one plan
_PILOT = 16  # images
_SPARE: dict[str, Any] = {
    "defenses": "none", "attacks": "noise", "threats": {"eps": "inf"},
    "datasets": "digits", "classifiers": "small_cnn",
}  # fmt: skip


def _read(read: Callable[..., object], *words: Any) -> None:
    """Read a value as a request does, so that what is wrong is a fault with its place."""
    try:
        read(*words)
    except UsageError as error:
        # Text for a template, in which braces of the message would be read as names.
        raise pydantic_core.PydanticCustomError("_", "{said}", {"said": str(error)}) from None


def _sound(read: Callable[..., object], *before: str) -> pydantic.AfterValidator:
    def check(value: Any) -> Any:
        _read(read, *before, value)
        return value

    return pydantic.AfterValidator(check)


class Threat(pydantic.BaseModel, extra="forbid", coerce_numbers_to_str=True):
    """A ball of the plan."""

    norm: Annotated[str, _sound(parse_norm)] = "Linf"
    eps: str

    @pydantic.field_validator("eps")
    @classmethod
    def _radius(cls, eps: str, found: pydantic.ValidationInfo) -> str:
        _read(parse_eps, eps, parse_norm(found.data.get("norm", Norm.LINF)))
        return eps


class Choice(pydantic.BaseModel, extra="forbid"):
    """A plugin of the plan, with parameters; attacks may name their access.

    ``grid`` has lists of values by parameter, nested ones as ``training.seed``: the plugin
    stands for one of each combination.
    """

    name: str
    access: Annotated[str, _sound(parse_access)] | None = None
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


def _laddered(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except pydantic.ValidationError:
        said = "write true, false, listed or yield"
        raise pydantic_core.PydanticCustomError("ladder", said) from None


Choices = Annotated[
    list[Choice], pydantic.BeforeValidator(_named), pydantic.Field(min_length=1)
]
Names = Annotated[list[str], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)]
# Strict: true is no number, and neither is a number in quotes.
Number = Annotated[int, pydantic.Field(strict=True)]
Seeds = Annotated[
    list[Annotated[Number, _sound(check_count, "seed")]],
    pydantic.BeforeValidator(_as_list),
    pydantic.Field(min_length=1),
]
Accesses = Annotated[
    list[Annotated[str, _sound(parse_access)]],
    pydantic.BeforeValidator(_as_list),
    pydantic.Field(min_length=1),
]
Threats = Annotated[
    list[Threat], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)
]


class Plan(pydantic.BaseModel, extra="forbid"):
    """Every defense x attack x access x threat x data set x classifier x seed.

    ``ladder``: cheap attacks first, expensive ones only on the images that survive; ``listed``
    for the plan's own order, ``yield`` for what breaks most per pass in a pilot on ``pilot``
    images.
    ``sequential``: the judge stops drawing for an image once its verdict is clear. ``search``:
    the precision of the networks that attacks see. ``audit``: audit every defense under every
    threat, on the first 256 images or on this many.
    """

    defenses: Choices
    attacks: Choices
    threats: Threats
    datasets: Names = ["digits"]
    classifiers: Choices = [Choice(name="small_cnn")]
    accesses: Accesses | None = None
    seeds: Seeds = [0]
    n: Annotated[Number, _sound(check_count, "n")] = 0  # 0: as many as its data sets take
    draws: Annotated[Number, _sound(check_count, "draws")] = 50
    shard: Annotated[Number, _sound(check_count, "shard")] = 100
    ladder: Annotated[bool | Literal["listed", "yield"], pydantic.WrapValidator(_laddered)] = (
        False
    )
    pilot: Annotated[Number, _sound(check_count, "pilot")] | None = None
    sequential: bool = False
    search: Annotated[str, _sound(parse_search)] = "float32"
    audit: Annotated[bool | int, pydantic.BeforeValidator(_audited)] = False

    # What is below a key, if not the choice of a plugin: messages name its keys.
    entries: ClassVar[dict[str, type[pydantic.BaseModel]]] = {"threats": Threat}
    _origin: Origin | None = None

    @pydantic.model_validator(mode="after")
    def _images(self) -> Self:
        """Set n where the plan does not, as `bench run` does."""
        if not self.n:
            self.n = first_images(*self.datasets)
            self.model_fields_set.remove("n")  # the plan does not say it
        return self

    @property
    def tried_on(self) -> int:
        """Count the images of the pilot."""
        return _PILOT if self.pilot is None else self.pilot

    def at(self, *steps: int | str) -> str:
        """Name a place in the file of the plan, for a message; nothing where it has none."""
        return f"{self._origin.at(steps)}: " if self._origin else ""

    def read_from(self, origin: Origin) -> Self:
        """Return the plan with the place where it was written."""
        copy = self.model_copy()
        copy._origin = origin
        return copy

    def renamed(self, change: Callable[[str], str]) -> Self:
        """Return the plan with other names for its plugins."""

        def each(choices: list[Choice]) -> list[Choice]:
            return [one.model_copy(update={"name": change(one.name)}) for one in choices]

        kinds = ("defenses", "attacks", "classifiers")
        return self.model_copy(update={kind: each(getattr(self, kind)) for kind in kinds})

    def faults(self) -> list[str]:
        """Name every plugin, parameter and data set of the plan that does not exist."""
        if too_large := self._too_large():
            return [f"{self.at()}{too_large}"]
        faults = []
        chosen: dict[Kind, list[Choice]] = {
            "defenses": self.defenses,
            "attacks": self.attacks,
            "classifiers": self.classifiers,
        }
        for kind, choices in chosen.items():
            for number, choice in enumerate(choices):
                for one in [] if choice.name.startswith(ZOO) else choice.spread():
                    try:
                        build(kind, one.name, one.set)
                    except BenchError as error:
                        faults.append(f"{self.at(kind, number)}{error}")
        found: dict[str, str | None] = {}
        for number, name in enumerate(self.datasets):
            try:
                dataset_info(name)
                known = cell_name(name)
            except BenchError as error:
                faults.append(f"{self.at('datasets', number)}{error}")
                continue
            faults += self._faults_of_pilot(name)
            # Cells that were not measured yet are told apart by it, such as those of a ladder.
            if (other := found.setdefault(known, found_at(name))) != found_at(name):
                faults.append(
                    f"{self.at('datasets', number)}{other} and {found_at(name)} have one name "
                    f"in results, {known}: rename one of them, or write two plans."
                )
        return faults

    def _faults_of_pilot(self, dataset: str) -> list[str]:
        if self.ladder != "yield":
            said = "only a ladder by yield has a pilot. Write ladder: yield, or leave it out."
            return [] if self.pilot is None else [f"{self.at('pilot')}{said}"]
        info = dataset_info(held_out(dataset))
        if self.tried_on <= info.test_images:
            return []
        return [
            f"{self.at('pilot')}a pilot on {self.tried_on} images needs more than {info.name} "
            f"has. Write pilot: {info.test_images} or less."
        ]

    def requests(self) -> list[Request]:
        """Multiply the lists out; raises UsageError with all faults together."""
        if too_large := self._too_large():
            raise all_faults([f"{self.at()}{too_large}"])
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
    return parse_plan(content, Plan, Origin(path.name, path))


def read_mapping(path: Path, otherwise: str) -> dict[Any, Any]:
    """Read a mapping from YAML, no key twice; raises UsageError."""
    content = read_file(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path} {otherwise}")
    return content


def parse_plan(content: dict[Any, Any], kind: type[AnyPlan], origin: Origin) -> AnyPlan:
    """Make a plan from the content of a file; raises PlanError with every fault of it.

    Plugins in files that are not in the current folder are looked for beside the plan.
    """

    def found(name: str) -> str:
        return beside(name, origin.path.parent)

    def keys(outer: str | None) -> list[str]:
        return list((kind.entries.get(outer, Choice) if outer else kind).model_fields)

    try:
        return kind.model_validate(content).renamed(found).read_from(origin)
    except pydantic.ValidationError as error:
        sound = _sound_part(content, error).renamed(found).read_from(origin)
        raise all_faults([*in_words(error, origin, keys), *sound.faults()]) from error


def _sound_part(content: dict[Any, Any], error: pydantic.ValidationError) -> Plan:
    """Put others for entries with a fault, so that the rest is checked all the same."""
    sound = {name: content[name] for name in Plan.model_fields if name in content}
    for fault in error.errors():
        name, entry = str(fault["loc"][0]), [*fault["loc"], None][1]
        if isinstance(entry, int) and isinstance(sound.get(name), list) and name in _SPARE:
            entries = sound[name]
            sound[name] = [*entries[:entry], _SPARE[name], *entries[entry + 1 :]]
        else:
            sound.pop(name, None)
            if name == "ladder":  # whether it has a pilot is not known
                sound.pop("pilot", None)
    return Plan.model_validate({**_SPARE, **sound})
