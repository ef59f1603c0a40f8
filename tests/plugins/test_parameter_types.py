"""Parameters that no cell can keep: one sentence that names the plugin and the parameter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.commands import doctor, import_apart
from bench.errors import UsageError
from bench.plugins.catalogue import build_dataclass, parameters, plugin

from ..command import NOISE, RUN, Bench, imported_well, is_one_clear_message

ODD = '''
import torch
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar
from torch import nn

class Purifier:
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    def purify(self, x, *, rng):
        return x

@dataclass(frozen=True)
class OnDevice(Purifier):
    """Has a device."""
    steps: int = 3
    device: torch.device = torch.device("cpu")

@dataclass(frozen=True)
class WithNet(Purifier):
    """Has a network."""
    net: nn.Module = field(default_factory=nn.Identity)

@dataclass(frozen=True)
class Inner:
    dtype: torch.dtype = torch.float32

@dataclass(frozen=True)
class Nested(Purifier):
    """Has a data type within."""
    inner: Inner = field(default_factory=Inner)

@dataclass(frozen=True)
class Unknown(Purifier):
    """Has a type that is nowhere."""
    what: "NoSuchType" = 0

@dataclass(frozen=True)
class Calls(Purifier):
    """Has a function."""
    by: Callable[[int], int] = abs

@dataclass(frozen=True)
class Anything(Purifier):
    """Has an object."""
    thing: Any = field(default_factory=object)
'''
NAMES = {"ondevice": ("OnDevice", "device"), "withnet": ("WithNet", "net"),
         "nested": ("Nested", "inner"), "unknown": ("Unknown", "NoSuchType"),
         "calls": ("Calls", "by"), "anything": ("Anything", "thing")}  # fmt: skip
SEEN_BY_TYPE = ("ondevice", "withnet", "nested", "unknown")


@pytest.fixture
def odd(install: Callable[..., Path]) -> None:
    points = "".join(f"{name} = odd_types:{cls}\n" for name, (cls, _) in NAMES.items())
    install("odd-types", "odd_types", ODD, f"[bench.defenses]\n{points}", version="1.2")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("odd")
def test_a_parameter_without_plain_values_is_one_sentence(bench: Bench, name: str) -> None:
    cls, parameter = NAMES[name]
    owner = (f"'{name}'", "odd-types 1.2") if name in SEEN_BY_TYPE else (cls,)
    said = bench("run", f"--defense={name}", *NOISE, "--dry-run")
    is_one_clear_message(said, parameter, *owner, code=1)
    assert len(said.err.splitlines()) == 1


@pytest.mark.usefixtures("odd")
def test_doctor_does_not_vouch_for_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(what: str, argument: str) -> tuple[list[str], str]:
        """Import plugins here, as a process of its own does, and no library."""
        if what != "plugins":
            return imported_well(what, argument)
        return [import_apart._fault_of_plugin(*one) for one in json.loads(argument)], ""

    monkeypatch.setattr(doctor, "import_apart", imported)
    said = bench("doctor").out
    for name in SEEN_BY_TYPE:
        (line,) = [line for line in said.splitlines() if f"plugin {name} " in line]
        assert line.startswith("fail")
        assert NAMES[name][1] in line


@pytest.mark.usefixtures("odd")
def test_a_plan_names_them_with_its_other_faults(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        "defenses: [withnet, nne]\nattacks: noise\nthreats: {eps: 0.1}\n"
    )
    said = bench("matrix", "plan.yaml", "--dry-run")
    is_one_clear_message(said, "2 faults", "'withnet'", "'net'", "'nne'", code=2)
    assert bench(*RUN, "--dry-run").code == 0


@dataclass(frozen=True)
class Numbers:
    steps: int = 1
    rate: float = 0.5
    sizes: tuple[int, ...] = (1,)
    flag: bool = False
    loss: str = "ce"


@pytest.mark.parametrize(
    "params", [{"steps": True}, {"rate": False}, {"sizes": [1, True]}], ids=str
)
def test_true_is_no_number(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="write a number"):
        build_dataclass(Numbers, params, where="attack")
    made = build_dataclass(Numbers, {"flag": True, "sizes": [2, 3]}, where="attack")
    assert parameters(made)["flag"] is True
    assert parameters(made)["sizes"] == [2, 3]


def test_a_whole_number_that_a_float_rounds_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rate = 9007199254740993: .* 9007199254740992.0\."):
        build_dataclass(Numbers, {"rate": 2**53 + 1}, where="attack")
    assert build_dataclass(Numbers, {"rate": 2**60}, where="attack").rate == 2.0**60


def test_the_plugins_that_ship_are_written_down() -> None:
    assert parameters(plugin("attacks", "pgd")())["steps"] == 50
