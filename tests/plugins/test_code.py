"""What changes the digest of an object's code, and what does not."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from bench.errors import PluginError
from bench.plugins.code import digest_of_code, own_modules

MINE = """
import functools
import math
import torch
from torch import nn

SIGMA = 0.1
STEPS = {"many": [1, 2]}
UNUSED = 1
NET = nn.Linear(2, 2)

def helper(x):
    return x * SIGMA

def purify(x, y=1):
    return helper(x).size + NET(x)

@torch.no_grad()
def without_gradient(x):
    return helper(x)

class Base:
    def inner(self, x):
        return helper(x)

class Blur(Base):
    size: int = 3
    def __init__(self, sigma=0.1):
        self.sigma, self.drop = sigma, nn.Dropout(sigma)
    @property
    def twice(self):
        return 2 * self.sigma
    def purify(self, x):
        return [self.inner(part) for part in x] + STEPS["many"]

def made(sigma):
    def closed(x):
        return sigma * x
    return closed

blur, closed, half = Blur(), made(0.5), functools.partial(purify, y=2)
lambdas = lambda x: helper(x)
"""
NAMES = ("purify", "without_gradient", "Blur", "blur", "closed", "half", "lambdas")
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a text as the module `mine`, from a new file each time."""

    def load(text: str) -> ModuleType:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        module = ModuleType("mine")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "mine", module)
        exec(compile(text, str(path), "exec", dont_inherit=True), vars(module))
        return module

    return load


def digests(module: ModuleType) -> dict[str, str]:
    own = {"mine": vars(module)}
    return {name: digest_of_code(getattr(module, name), own) for name in NAMES}


def test_own_modules_are_those_of_no_distribution(load: Load) -> None:
    module = load(MINE)
    own = own_modules()
    assert own["mine"] is vars(module)
    assert __name__ in own
    assert not {"torch", "numpy", "pytest", "json", "bench.api", "bench_attacks"} & set(own)


def changed(load: Load, old: str, new: str) -> set[str]:
    """Name the objects whose digest differs once a text is changed."""
    assert old in MINE
    before, after = digests(load(MINE)), digests(load(MINE.replace(old, new)))
    return {name for name in NAMES if before[name] != after[name]}


HELPED = {"purify", "without_gradient", "Blur", "blur", "half", "lambdas"}


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("UNUSED = 1", "UNUSED = 2\n\n# more lines\nMORE = 3", set()),
        ("import math", "import math, random", set()),
        ("size: int = 3", "size: int = 4", {"Blur", "blur"}),
        ("SIGMA = 0.1", "SIGMA = 0.2", HELPED),
        ("return x * SIGMA", "return x + SIGMA", HELPED),
        ("y=1", "y=3", {"purify", "half"}),
        ("y=2", "y=3", {"half"}),
        ('"many": [1, 2]', '"many": [1, 3]', {"Blur", "blur"}),
        ("sigma=0.1", "sigma=0.2", {"Blur", "blur"}),
        ("Blur()", "Blur(0.3)", {"blur"}),
        ("return 2 *", "return 3 *", {"Blur", "blur"}),
        ("made(0.5)", "made(0.6)", {"closed"}),
        ("return sigma * x", "return sigma + x", {"closed"}),
        ("@torch.no_grad()", "@torch.enable_grad()", {"without_gradient"}),
        ("NET = nn.Linear(2, 2)", "NET = nn.Tanh()", {"purify", "half"}),
    ],
)
def test_what_changes_a_digest(load: Load, old: str, new: str, names: set[str]) -> None:
    assert changed(load, old, new) == names


def test_code_without_its_source_is_hashed_as_it_runs(load: Load) -> None:
    module = load(MINE)
    path, as_written = Path(str(module.__file__)), digests(module)
    path.write_text(MINE.replace("return x * SIGMA", "return x - 2 * SIGMA"))
    edited, new = digests(module), digests(load(path.read_text()))
    assert edited["purify"] not in (as_written["purify"], new["purify"])
    path.unlink()
    assert digests(module)["closed"] != as_written["closed"]
    again = load(MINE)
    Path(str(again.__file__)).unlink()
    assert digests(again) == digests(module)


def test_the_state_of_a_network_is_part_and_its_mode_is_not() -> None:
    own = own_modules()

    def digest(net: nn.Module) -> str:
        return digest_of_code(net, own)

    assert digest(nn.Dropout(0.1)) != digest(nn.Dropout(0.2))
    assert digest(nn.Linear(2, 2)) == digest(nn.Linear(2, 2).eval().requires_grad_(False))
    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert digest(hooked) != digest(nn.Linear(2, 2))
    both = [nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(2)]
    assert digest(both[0]) == digest(both[1])


def test_values_without_an_order_and_circles() -> None:
    class Circle:
        def __init__(self, names: Any) -> None:
            self.names, self.me, self.kind = names, self, torch.float32

    def digest(thing: Any) -> str:
        return digest_of_code(thing, {})

    one, other = ({(str(n),) for n in order} for order in (range(40), reversed(range(40))))
    assert digest(Circle(one)) == digest(Circle(other))
    assert digest(Circle({"a"})) != digest(Circle({"b"}))
    assert digest(functools.partial(max, 1)) != digest(functools.partial(min, 1))
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(PluginError, match="too deep"):
        digest(deep)
