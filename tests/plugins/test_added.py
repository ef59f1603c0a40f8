"""Parameters added after cells were published: those cells keep their keys."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bench.api import added
from bench.errors import UsageError
from bench.plugins.catalogue import build_dataclass, parameters


@dataclass(frozen=True)
class Plugin:
    steps: int = 3
    targets: int = added(0)


def test_a_default_that_was_added_later_is_not_written():
    assert parameters(Plugin()) == {"steps": 3}
    assert parameters(Plugin(targets=0, steps=4)) == {"steps": 4}
    assert parameters(Plugin(targets=2)) == {"steps": 3, "targets": 2}


@pytest.mark.parametrize("targets", [0, 2])
def test_what_is_written_is_read_as_the_same(targets):
    made = Plugin(targets=targets)
    assert build_dataclass(Plugin, parameters(made), where="attack") == made


def test_its_faults_are_told_as_those_of_others():
    for wrong in ({"target": 1}, {"targets": False}, {"targets": "many"}):
        with pytest.raises(UsageError, match=r"attack\.target"):
            build_dataclass(Plugin, wrong, where="attack")
