"""What is said of a value that does not fit, and that a number is also a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from bench.errors import UsageError
from bench.plugins.catalogue import build_dataclass, parameters


@dataclass(frozen=True)
class Training:
    eps: str = "8/255"
    epochs: Annotated[int, Field(ge=1)] = 3


@dataclass(frozen=True)
class Thing:
    eps: str = "0.1"
    by_need: bool = False
    size: float = 1.0
    loss: Literal["ce", "margin"] = "ce"
    names: list[str] = field(default_factory=list)
    training: Training = Training()


def made(**params: Any) -> Thing:
    thing: Thing = build_dataclass(Thing, params, where="defense")
    return thing


@pytest.mark.parametrize(("given", "kept"), [(0.3, "0.3"), (1, "1"), ("8/255", "8/255")])
def test_a_number_is_also_a_text(given: Any, kept: str) -> None:
    found = made(eps=given, names=["a", given], training={"eps": given})
    expected = made(eps=kept, names=["a", kept], training={"eps": kept})
    assert parameters(found) == parameters(expected)
    assert found.training.eps == found.eps == found.names[1] == kept


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"by_need": "maybe"}, "defense.by_need = 'maybe': write true or false."),
        ({"training": {"epochs": "a"}}, "defense.training.epochs = 'a': write a whole number."),
        ({"training": {"epochs": 1.5}}, "defense.training.epochs = 1.5: write a whole number."),
        ({"training": {"epochs": 0}}, "it has to be greater than or equal to 1."),
        ({"training": 3}, "3: set its parts, as in --set defense"),
        ({"size": "wide"}, "defense.size = 'wide': write a number."),
        ({"eps": [1]}, "defense.eps = [1]: write a text."),
        ({"eps": True}, "defense.eps = True: write a text."),
        ({"names": 3}, "defense.names = 3: write a list, such as [1, 2]."),
        ({"loss": 5}, "defense.loss = 5: it has to be 'ce' or 'margin'."),
    ],
)  # fmt: skip
def test_other_values_are_told_in_a_sentence(params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**params)
    assert said in str(caught.value)
    assert "Input should" not in str(caught.value)


def test_a_number_for_a_text_hides_no_other_fault() -> None:
    with pytest.raises(UsageError, match=r"^defense.by_need = 'maybe': write true or false.$"):
        made(eps=0.3, by_need="maybe")
