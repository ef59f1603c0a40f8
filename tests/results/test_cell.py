"""The key of a cell: the same for the same measurement, another for any other."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import UsageError
from bench.results.cell import (
    EFFORT,
    SETTING,
    Cell,
    Part,
    Request,
    Search,
    asked_of,
    defended_of,
    digest_of,
    ladder_of,
    subject_of,
)

CELL = Cell(
    dataset="digits",
    data="0" * 64,
    n=50,
    shard=20,
    classifier=Part("small_cnn", {"width": 16, "training": {"epochs": 3}}, 1, "c" * 64),
    defense=Part("ebm", {"steps": 10, "step_size": 0.5}, 1, "d" * 64),
    attack=Part("pgd", {"steps": 5, "loss": "ce", "step_size": None}, 1),
    threat=ThreatModel(Norm.LINF, Fraction(8, 255), Access.FULL),
    seed=0,
    draws=10,
)


def but(cell: Cell = CELL, **changes: Any) -> Cell:
    """Change fields of a cell; 'defense__steps' goes one level down."""
    for path, value in changes.items():
        name, _, inner = path.partition("__")
        if inner:
            value = dataclasses.replace(getattr(cell, name), **{inner: value})
        cell = dataclasses.replace(cell, **{name: value})
    return cell


CHANGES: dict[str, dict[str, Any]] = {
    "dataset": {"dataset": "mnist"},
    "data": {"data": "1" * 64},
    "n": {"n": 51},
    "shard": {"shard": 10},
    "seed": {"seed": 1},
    "draws": {"draws": 11},
    "norm": {"threat__norm": Norm.L2},
    "eps": {"threat__eps": Fraction(9, 255)},
    "no eps": {"threat__eps": None},
    "access": {"threat__access": Access.BPDA},
    "sequential": {"sequential": True},
    "search": {"search": Search.BFLOAT16},
    "after": {"after": ("a" * 16,)},
    "images": {"images": "b" * 16},
    "bits": {"bits": 8},
    **{
        f"{part} {field}": {f"{part}__{field}": value}
        for part in ("classifier", "defense", "attack")
        for field, value in (
            ("name", "other"),
            ("params", {"steps": 11}),
            ("revision", 2),
            ("checkpoint", "e" * 64),
            ("source", "f" * 64),
            ("beside", "a" * 64),
        )
    },
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=list(CHANGES))
def test_every_field_is_part_of_the_key(changes: dict[str, Any]) -> None:
    assert but(**changes).key() != CELL.key()


def test_no_field_is_forgotten() -> None:
    """A field that is added to a cell has to be in its canonical form, or be argued about."""
    changed = {name.partition("__")[0] for change in CHANGES.values() for name in change}
    kept_beside = {"sources"}  # where files were found is no part of what was measured
    assert changed | kept_beside == {field.name for field in dataclasses.fields(Cell)}
    fields = {
        name.split("__")[1] for change in CHANGES.values() for name in change if "__" in name
    }
    assert {field.name for field in dataclasses.fields(Part)} <= fields
    assert {field.name for field in dataclasses.fields(ThreatModel)} <= fields


def test_all_keys_differ_from_each_other() -> None:
    keys = [but(**changes).key() for changes in CHANGES.values()]
    assert len(set(keys)) == len(keys)


def test_equal_radii_are_one_cell() -> None:
    for eps in (Fraction(16, 510), Fraction("8/255")):
        assert but(threat__eps=eps).key() == CELL.key()
    assert but(threat__eps=Fraction("0.3")).key() == but(threat__eps=Fraction(3, 10)).key()


def test_near_radii_are_two_cells() -> None:
    near = [
        but(threat__norm=Norm.L2, threat__eps=Fraction(eps)) for eps in ("1.234567", "1.23457")
    ]
    assert near[0].key() != near[1].key()


def test_the_order_of_parameters_is_no_part_of_the_key() -> None:
    params = dict(reversed(CELL.attack.params.items()))
    assert list(params) != list(CELL.attack.params)
    assert but(attack__params=params).key() == CELL.key()


def test_the_key_is_the_same_in_another_process(tmp_path: Path) -> None:
    code = f"""
from fractions import Fraction
from bench.results.cell import Cell, Part
from bench.core.threat import Access, Norm, ThreatModel
from bench.errors import UsageError
print({str(CELL)!r} and Cell(**{{
    "dataset": {CELL.dataset!r}, "data": {CELL.data!r}, "n": 50, "shard": 20,
    "classifier": Part(**{dataclasses.asdict(CELL.classifier)!r}),
    "defense": Part(**{dataclasses.asdict(CELL.defense)!r}),
    "attack": Part(**{dataclasses.asdict(CELL.attack)!r}),
    "threat": ThreatModel(Norm.LINF, Fraction(8, 255), Access.FULL), "seed": 0, "draws": 10,
}}).key())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "5"},
    )  # fmt: skip
    assert done.stdout.strip() == CELL.key()


def test_the_key_is_pinned() -> None:
    """Results of earlier versions are found by it: if it has to change, say so in the notes."""
    assert CELL.key() == "487938688978b475"


# Those that were measured: what was skipped has the key of what was asked.
COMMITTED = [
    path
    for path in sorted((Path(__file__).parents[2] / "results" / "cells").glob("*/cell.json"))
    if not path.with_name("skipped.json").exists()
]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_cells_are_found_under_their_keys(path: Path) -> None:
    """Results from before a field came keep their keys: no field at its default is written."""
    assert Cell.read(json.loads(path.read_text())).key() == path.parent.name


def test_fields_at_their_defaults_are_not_written() -> None:
    later = {"sequential", "search", "after", "images", "bits"}
    assert not later & CELL.canonical().keys()
    for name in later:
        assert name in but(**CHANGES[name]).canonical()
    assert (
        but(sequential=False, search=Search.FLOAT32, after=(), images=None, bits=None).key()
        == CELL.key()
    )


def test_the_canonical_form_is_plain_json() -> None:
    rare = but(
        sequential=True, search=Search.BFLOAT16, after=("a" * 16, "b" * 16), images="c" * 16,
        bits=8,
    )  # fmt: skip
    for cell in (CELL, rare):
        content = cell.canonical()
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        assert Cell.read(content) == cell


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"x": value})


@pytest.mark.parametrize(
    "value",
    [np.float32(1), np.arange(2), {1, 2}, b"x", Fraction(1, 2), Path("x"), object(),
     datetime.date(2026, 1, 1), len, 1j],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_an_unknown_type_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        digest_of({"x": value})
    with pytest.raises(TypeError):
        but(attack__params={"x": value}).key()


def test_one_is_not_one_point_nought_nor_true() -> None:
    """What JSON tells apart stays apart: parameters are typed before they come here."""
    digests = {digest_of({"x": value}) for value in (1, 1.0, True, "1", None, [1])}
    assert len(digests) == 6


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans())))
def test_a_digest_is_16_hexadecimal_digits(content: dict[str, Any]) -> None:
    digest = digest_of(content)
    assert len(digest) == 16
    assert int(digest, 16) >= 0
    assert digest == digest_of(dict(reversed(content.items())))


# --- what an attack's images depend on -----------------------------------------------------

WHITE, GRAY = CELL, but(threat__access=Access.TRANSFER)


@pytest.mark.parametrize("cell", [WHITE, GRAY], ids=["full", "transfer"])
def test_what_the_judge_does_and_n_do_not_matter_to_the_images(cell: Cell) -> None:
    for change in ({"draws": 99}, {"n": 7}, {"sequential": True}, {"bits": 8}):
        assert but(cell, **change).proposal_key() == cell.proposal_key()
    assert cell.proposal_key() != cell.key()


@pytest.mark.parametrize("cell", [WHITE, GRAY], ids=["full", "transfer"])
def test_images_of_another_cell_are_the_proposal_whatever_else_is_asked(cell: Cell) -> None:
    taken = but(cell, images=CELL.proposal_key())
    assert taken.proposal_key() == CELL.proposal_key()
    for bits in (8, 4):  # they are rounded when they are judged, not where they are stored
        assert but(taken, bits=bits).proposal_key() == CELL.proposal_key()
    keys = {but(taken, bits=bits).key() for bits in (None, 4, 8)}
    assert len(keys | {cell.key()}) == 4


def test_the_order_of_cheaper_cells_is_part_of_the_cell() -> None:
    assert but(after=("a", "b")).key() != but(after=("b", "a")).key()


def test_a_transfer_attack_does_not_see_the_defense() -> None:
    for change in ({"defense": Part("jpeg", {}, 3)}, {"defense__checkpoint": "e" * 64}):
        assert but(GRAY, **change).proposal_key() == GRAY.proposal_key()
        assert but(WHITE, **change).proposal_key() != WHITE.proposal_key()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CHANGES
        if name not in ("n", "draws", "sequential", "bits") and "defense" not in name
    ],
)
def test_everything_else_matters_to_the_images(name: str) -> None:
    for cell in (WHITE, GRAY):
        if name != "access" or cell is WHITE:
            assert but(cell, **CHANGES[name]).proposal_key() != cell.proposal_key()


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_shards_are_aligned_and_cover_every_image_once(n: int, shard: int) -> None:
    shards = but(n=n, shard=shard).shards()
    assert [i for start, stop in shards for i in range(start, stop)] == list(range(n))
    assert all(start % shard == 0 and 0 < stop - start <= shard for start, stop in shards)
    longer = but(n=n + shard, shard=shard).shards()
    assert longer[: n // shard] == shards[: n // shard], "more images keep the whole blocks"


# --- other identities ----------------------------------------------------------------------

DIGESTS = {
    f"{part} {digest}"
    for part in ("classifier", "defense", "attack")
    for digest in ("checkpoint", "beside")
}
MADE_LATER = {"data", "after", "images", "bits"} | DIGESTS
OF_THE_ATTACK = {name for name in CHANGES if name.startswith("attack ")}
OF_THE_SEARCH = {"access", "sequential", "search", "after", "images", "bits"} | OF_THE_ATTACK


def test_setting_effort_and_defense_are_the_whole_cell() -> None:
    whole = but(**{name: change for one in CHANGES.values() for name, change in one.items()})
    assert sorted([*SETTING, *EFFORT, "defense"]) == sorted(whole.canonical())


@pytest.mark.parametrize(
    ("identity", "blind"),
    [
        (lambda content: digest_of(asked_of(content)), MADE_LATER),
        (ladder_of, MADE_LATER | OF_THE_SEARCH | {"draws"}),
        (subject_of, OF_THE_SEARCH | {"n", "shard", "seed", "draws"}),
        (defended_of, OF_THE_SEARCH | {"shard"}),
    ],
    ids=["asked", "ladder", "subject", "defended"],
)
def test_an_identity_sees_every_field_but_those_it_leaves_out(
    identity: Callable[[dict[str, Any]], str], blind: set[str]
) -> None:
    own = identity({**CELL.canonical(), "settings": "defense.steps=10"})
    assert own == identity(CELL.canonical()), "settings are words for people"
    same = {
        name for name, changes in CHANGES.items() if identity(but(**changes).canonical()) == own
    }
    assert same == blind


def test_what_was_asked_does_not_change_once_it_was_written() -> None:
    asked = asked_of(CELL.canonical())
    assert asked_of({**asked, "settings": ""}) == asked
    assert asked["pending"], "no key of a measured cell is equal"


def test_a_skipped_cell_of_an_earlier_version_is_found() -> None:
    """Its folder is named by what was asked: pinned as the key is."""
    assert digest_of(asked_of(CELL.canonical())) == "af7d63bc87fce85a"


def test_the_request_of_a_cell_asks_for_it() -> None:
    cell = but(dataset="mnist", seed=1, sequential=True, search=Search.BFLOAT16)
    request = cell.request()
    assert (request.norm, request.eps, request.access) == dataclasses.astuple(cell.threat)
    for name in ("dataset", "n", "shard", "seed", "draws", "sequential", "search"):
        assert getattr(request, name) == getattr(cell, name) != getattr(Request("a", "b"), name)
    for name in ("classifier", "defense", "attack"):
        part = getattr(cell, name)
        assert (getattr(request, name), request.settings[name]) == (part.name, part.params)


@pytest.mark.parametrize(
    "changes",
    [{"after": ["../../" + "a" * 10]}, {"after": ["A" * 16]}, {"after": ["a" * 17]},
     {"after": [3]}, {"images": "../../images/abc"}, {"images": "a" * 15 + "\n"},
     {"dataset": "../digits"}, {"defense": {**CELL.defense.canonical(), "name": "a/b"}},
     {"attack": {**CELL.attack.canonical(), "name": "robustbench:"}},
     {"classifier": {**CELL.classifier.canonical(), "name": "robustbench:../x"}}],
    ids=str,
)  # fmt: skip
def test_a_key_or_name_that_would_leave_the_folder_is_refused(changes: dict[str, Any]) -> None:
    assert Cell.read(CELL.canonical()) == CELL
    with pytest.raises(UsageError, match=r"no key of a cell|no name"):
        Cell.read({**CELL.canonical(), **changes})


def test_keys_and_names_of_cells_are_read_as_before() -> None:
    zoo = but(
        classifier__name="robustbench:Wang2023Better_WRN-70-16", images="0123456789abcdef"
    )
    both = but(zoo, after=("a" * 16, "0" * 16))
    assert Cell.read(both.canonical()) == both
