"""The catalogue, and parameters checked against the types of a plugin."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from bench.errors import UsageError
from bench.plugins.catalogue import (
    Kind,
    build,
    build_dataclass,
    catalogue,
    parameters,
    plugin,
    summary,
)

KINDS: list[Kind] = ["attacks", "defenses", "classifiers"]
EVERY = [(kind, name) for kind in KINDS for name in catalogue(kind)]


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Field(gt=0)] = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Outer:
    revision: ClassVar[int] = 1
    steps: Annotated[int, Field(ge=1)] = 10
    loss: Literal["ce", "margin"] = "ce"
    size: float | None = None
    inner: Inner = field(default_factory=Inner)


def made(**params: Any) -> Any:
    return build_dataclass(Outer, params, where="attack")


def faults(**params: Any) -> str:
    with pytest.raises(UsageError) as caught:
        made(**params)
    return str(caught.value)


def test_the_catalogue_is_what_pyproject_says() -> None:
    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    points = tomllib.loads(path.read_text())["project"]["entry-points"]
    for kind in KINDS:
        assert {name: point.value for name, point in catalogue(kind).items()} == (
            points[f"bench.{kind}"]
        )


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=[name for _, name in EVERY])
def test_every_plugin_is_built_by_its_defaults_and_says_its_parameters(
    kind: Kind, name: str
) -> None:
    built = build(kind, name, {})
    params = parameters(built)
    assert json.loads(json.dumps(params, allow_nan=False)) == params
    assert build(kind, name, params) == built, "what is written down makes it again"
    assert dataclasses.is_dataclass(built)
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.steps = 1
    assert type(built).revision >= 1
    assert "revision" not in params


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=[name for _, name in EVERY])
def test_every_listing_line_is_the_first_line_of_the_docstring(kind: Kind, name: str) -> None:
    line = summary(catalogue(kind)[name])
    assert line == (plugin(kind, name).__doc__ or "").partition("\n")[0].strip()
    assert 10 < len(line) <= 96
    assert line.endswith((".", ":"))


def test_defaults_and_given_parameters() -> None:
    assert made() == Outer()
    assert made(steps=3, inner={"rate": 0.25}) == Outer(steps=3, inner=Inner(rate=0.25))
    assert made(size=1).size == 1.0


def test_all_faults_of_parameters_are_said_together() -> None:
    text = faults(stesp=3, inner={"rat": 1}, looss="ce")
    assert "attack.stesp is no parameter. Did you mean 'attack.steps'?" in text
    assert "attack.inner.rat is no parameter. Did you mean 'attack.inner.rate'?" in text
    assert "Did you mean 'attack.loss'?" in text
    with pytest.raises(UsageError, match=r"defense\.x is no parameter\. \w+ has none\."):
        build("defenses", "none", {"x": 1})
    text = faults(steps=0, loss="mse", inner={"rate": -1})
    assert "attack.steps = 0" in text
    assert "attack.loss = 'mse'" in text
    assert "'ce' or 'margin'" in text
    assert "attack.inner.rate = -1" in text


@pytest.mark.parametrize("value", [1.5, "many", None, [1], {"a": 1}])
def test_a_wrong_type_is_said_with_its_path_and_value(value: Any) -> None:
    text = faults(steps=value)
    assert "attack.steps" in text


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_parameter_that_no_key_can_hold_is_refused(value: float) -> None:
    """JSON has no infinity: the cell would fail after the training."""
    assert "attack.size" in faults(size=value)


def test_a_class_variable_is_no_parameter() -> None:
    assert "attack.revision is no parameter" in faults(revision=2)


def test_an_unknown_plugin() -> None:
    with pytest.raises(UsageError, match="no classifier is called 'cnn'"):
        plugin("classifiers", "cnn")


def test_what_is_installed_meanwhile_is_found_and_what_is_removed_is_not(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook installs a plugin; and entry points are not read again for each question."""
    site = install("early", "early_module", "", "[bench.attacks]\nearly = early_module:A\n")
    assert "early" in catalogue("attacks")
    read, real = [], importlib.metadata.entry_points
    monkeypatch.setattr(
        "bench.plugins.catalogue.entry_points", lambda **group: read.append(1) or real(**group)
    )
    assert "early" in catalogue("attacks")
    assert not read
    info = site / "late-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[bench.attacks]\nlate = late_module:A\n")
    assert {"early", "late"} <= catalogue("attacks").keys()
    shutil.rmtree(info)
    assert "late" not in catalogue("attacks")
