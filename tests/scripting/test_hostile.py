"""What a script passes by mistake is one sentence, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from bench import api
from bench.errors import UsageError

X, Y = np.full((6, 1, 8, 8), 200, np.uint8), np.arange(6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"x": [[1, 2], [3]]}, "parts differ in length: give arrays"),
        ({"norm": 2}, "no norm is called '2'"),
        ({"n": "5"}, "n is '5': it has to be a whole number"),
        ({"n": 5.5}, "n is 5.5: it has to be a whole number"),
        ({"draws": "many"}, "draws is 'many': it has to be a whole number"),
        ({"seed": None}, "seed is None: it has to be a whole number"),
        ({"shard": 2.5}, "shard is 2.5: it has to be a whole number"),
        ({"settings": {"attack": 3}}, "write {'attack': {PARAMETER: VALUE}}"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_sentence(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    given = {"x": X, "y": Y, "attack": "noise", "results": tmp_path, "progress": False}
    with pytest.raises(UsageError) as caught:
        api.evaluate(None, net, **{**given, **wrong})
    assert said in str(caught.value)


def test_numpys_integers_are_numbers(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    row = api.evaluate(
        None, net, X, Y, attack="noise", n=np.int64(4), draws=np.int64(2), results=tmp_path,
        progress=False, settings={"attack": {"tries": 1}},
    )  # fmt: skip
    assert len(row.outcomes) == 4
