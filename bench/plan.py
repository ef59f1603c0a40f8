"""A plan file: lists of names whose product is a matrix of requests. Imports no torch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml

from bench.cell import Request
from bench.errors import UsageError

NO_ACCESS: list[str | None] = [None]  # each attack takes its own default


class Threat(pydantic.BaseModel, extra="forbid", coerce_numbers_to_str=True):
    """A ball of the plan."""

    norm: str = "Linf"
    eps: str


class Choice(pydantic.BaseModel, extra="forbid"):
    """A plugin of the plan, with parameters; attacks may name their access."""

    name: str
    access: str | None = None
    set: dict[str, Any] = {}


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _named(value: Any) -> Any:
    return [{"name": item} if isinstance(item, str) else item for item in _as_list(value)]


Choices = Annotated[
    list[Choice], pydantic.BeforeValidator(_named), pydantic.Field(min_length=1)
]
Names = Annotated[list[str], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)]
Seeds = Annotated[list[int], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)]
Threats = Annotated[
    list[Threat], pydantic.BeforeValidator(_as_list), pydantic.Field(min_length=1)
]


class Plan(pydantic.BaseModel, extra="forbid"):
    """Every defense x attack x access x threat x data set x classifier x seed."""

    defenses: Choices
    attacks: Choices
    threats: Threats
    datasets: Names = ["digits"]
    classifiers: Choices = [Choice(name="small_cnn")]
    accesses: Names | None = None
    seeds: Seeds = [0]
    n: int = 500
    draws: int = 50
    shard: int = 100

    def requests(self) -> list[Request]:
        """Multiply the lists out; raises UsageError with all faults together."""
        found, faults = [], []
        for dataset, classifier, threat, defense, attack, access, seed in itertools.product(
            self.datasets, self.classifiers, self.threats, self.defenses, self.attacks,
            self.accesses or NO_ACCESS, self.seeds,
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
                    settings={
                        "defense": defense.set,
                        "attack": attack.set,
                        "classifier": classifier.set,
                    },
                )
            except UsageError as error:
                faults.append(str(error))
            else:
                if request not in found:
                    found.append(request)
        if faults:
            raise all_faults(faults)
        return found


def read_plan(path: Path) -> Plan:
    """Read a plan; raises UsageError with every fault of the file."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} is no plan: it has to be a mapping with defenses, attacks and threats. "
            "plans/smoke.yaml is an example."
        )
    try:
        return Plan.model_validate(content)
    except pydantic.ValidationError as error:
        raise all_faults(
            f"{path.name}: {'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}."
            for fault in error.errors()
        ) from error


def all_faults(faults: Any) -> UsageError:
    """Put faults into one error, each said once."""
    unique = list(dict.fromkeys(faults))
    head = (
        "the plan has a fault:" if len(unique) == 1 else f"the plan has {len(unique)} faults:"
    )
    return UsageError("\n  - ".join([head, *unique]))
