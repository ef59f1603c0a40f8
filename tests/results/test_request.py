"""Requests and --set: what they ask for, and which names and numbers are refused."""

from __future__ import annotations

from typing import Any

import pytest

from bench.core.threat import Access, Norm
from bench.errors import UsageError
from bench.results.cell import Request
from bench.results.settings import parse_settings

# --- requests and --set --------------------------------------------------------------------


def test_a_request_is_checked() -> None:
    request = Request.parse(defense="none", attack="pgd", norm="l2", eps="2", access="FULL")
    assert (request.norm, request.eps, request.access) == (Norm.L2, 2, Access.FULL)
    for wrong in ({"n": 0}, {"draws": 0}, {"shard": 0}, {"seed": -1}, {"eps": "8"}):
        with pytest.raises(UsageError):
            Request.parse(defense="none", attack="pgd", **wrong)


def test_settings_are_nested_and_typed_by_yaml() -> None:
    pairs = ["defense.steps=50", "defense.training.lr=1e-3", "defense.training.flip=true",
             "attack.loss=ce", "attack.eps=8/255", "attack.x=[1, 2]", "attack.y=",
             "classifier.a.b.c=null", "defense.steps=51"]  # fmt: skip
    assert parse_settings(pairs) == {
        "defense": {"steps": 51, "training": {"lr": 0.001, "flip": True}},
        "attack": {"loss": "ce", "eps": "8/255", "x": [1, 2], "y": None},
        "classifier": {"a": {"b": {"c": None}}},
    }
    assert parse_settings(["attack.a=x=y"]) == {"attack": {"a": "x=y"}}
    assert parse_settings([]) == {}


@pytest.mark.parametrize(
    "pair", ["", "=", "attack", "attack.x", "attack=1", "attack.=1", "attack..x=1", ".x=1",
             "atack.x=1", "x=1", "attack.x=[", "attack.x={a", "attack.x='"],
)  # fmt: skip
def test_a_setting_that_cannot_be_read(pair: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        parse_settings([pair])


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="contradicts"):
        parse_settings(["attack.a=1", "attack.a.b=2"])


@pytest.mark.parametrize(
    "value", ["0x_ : [", "!!int x", "!!bool x", "!!python/object/apply:os.getcwd []", "[" * 500,
              "&a [*a]", '"\\ud800"', "010", "1e400", "1e-400", "9" * 5000, "a: b: c"],
)  # fmt: skip
def test_a_value_that_yaml_cannot_build_is_refused_with_its_path(value: str) -> None:
    with pytest.raises(UsageError, match=r"--set attack\.x=") as caught:
        parse_settings([f"attack.x={value}"])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", ["attack." + "a." * 50 + "b", "attack.\ud800"])
def test_a_path_that_no_parameter_can_have_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match=r"--set '?attack"):
        parse_settings([f"{path}=1"])


@pytest.mark.parametrize("name", ["n", "draws", "shard", "seed"])
def test_a_number_that_no_machine_counts_to_is_refused(name: str) -> None:
    numbers: dict[str, Any] = {name: 10**30}
    with pytest.raises(UsageError, match=f"{name} is too large"):
        Request.parse(defense="none", attack="pgd", **numbers)
