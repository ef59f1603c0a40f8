"""What a user set: data beside the words, also where a value has spaces or looks like words."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from bench.results.cell import Request, Search
from bench.results.files import read_json
from bench.results.settings import (
    NOTHING_SET,
    Settings,
    common_to,
    lookup,
    measured,
    parse_settings,
)
from bench.results.store import Store

from ..command import TINY, Bench

names = st.text("abc_", min_size=1, max_size=3)
values = st.one_of(st.integers(), st.booleans(), st.none(), st.text("ab =.,'\n", max_size=6))
several = st.lists(
    st.tuples(st.sampled_from(["defense", "attack", "classifier"]), names, values), max_size=4
)


def chosen(*pairs: str) -> Settings:
    return Settings.of(parse_settings([*pairs]))


def test_a_request_s_settings_keep_their_order_and_the_search() -> None:
    settings = parse_settings(["defense.training.seed=1", "attack.lam=1.0", "defense.steps=5"])
    request = Request("ebm", "pgd", settings=settings, search=Search.BFLOAT16)
    found = Settings.asked(request)
    assert str(found) == (
        "defense.training.seed=1 defense.steps=5 attack.lam=1.0 search=bfloat16"
    )
    assert Settings.read(json.loads(json.dumps(found.stored(), sort_keys=True))) == found


@given(several)
def test_what_is_stored_is_read_back(pairs: list[tuple[str, str, Any]]) -> None:
    found = Settings(tuple((f"{target}.{name}", value) for target, name, value in pairs))
    assert Settings.read(json.loads(json.dumps(found.stored()))) == found


@given(st.text("ab =.\n", min_size=1, max_size=8))
def test_an_earlier_cell_s_value_is_the_parameter_s(value: str) -> None:
    """Words alone do not tell where such a value ends; the cell's parameters do."""
    content = {
        "settings": f"defense.steps=5 attack.note={value} search=bfloat16",
        "defense": {"params": {"steps": 5}},
        "attack": {"params": {"note": value}},
    }
    assert Settings.read(content).pairs == (
        ("defense.steps", 5), ("attack.note", value), ("search", "bfloat16"),
    )  # fmt: skip


def test_an_earlier_cell_s_words_stay_as_they_are() -> None:
    for words in (
        "", "audit", "defense.training.share=0 defense.steps=10", "attack.x=1 8 bits",
        "attack.lam=1.0 images of gaussian, 8 bits", "images of gaussian",
    ):  # fmt: skip
        content = {"settings": words, "defense": {"params": {"training": {"share": 0.0}}}}
        content["bits"] = 8 if "bits" in words else None
        content["images"] = "0123" if "images" in words else None
        found = Settings.read(content)
        assert str(found) == words
        assert len(found.pairs) == words.count("=")
    assert Settings.read({"settings": "a.b=1 8 bits", "bits": 8}).notes == ("a.b=1", "8 bits")


def test_a_parameter_is_chosen_by_its_whole_name() -> None:
    found = chosen("defense.steps=5", "defense.steps_more=6", "defense.training.seed=1")
    assert str(found.without("defense.steps")) == (
        "defense.steps_more=6 defense.training.seed=1"
    )
    assert str(found.only("defense.training")) == "defense.training.seed=1"
    assert found.without("defense") == NOTHING_SET


def test_what_all_have_in_common() -> None:
    one = chosen("attack.note='a b'", "defense.steps=5")
    two = chosen("defense.steps=6", "attack.note='a b'")
    assert str(common_to([one, two])) == "attack.note='a b'"
    assert str(one.minus(common_to([one, two]))) == "defense.steps=5"
    assert common_to([one, chosen("attack.note=a")]) == NOTHING_SET
    assert common_to([]) == NOTHING_SET


def test_a_parameter_is_looked_up_by_its_path() -> None:
    params = {"training": {"seed": 0}, "steps": None}
    assert lookup(params, "training.seed") == 0
    assert lookup(params, "steps.seed", "none") == "none"
    assert lookup(params, "training.share") is None


# --- through the commands ------------------------------------------------------------------

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

from bench.api import Access, Calls, Norm

@dataclass(frozen=True)
class Noted:
    """Leave images as they are."""

    note: str = "none"
    steps: int = 1
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng):
        return x

class Other(Noted):
    """The same under another name."""

@dataclass(frozen=True)
class Dark:
    """Darken images."""

    note: str = "none"
    revision: ClassVar[int] = 1
    norms: ClassVar[tuple] = tuple(Norm)
    accesses: ClassVar[tuple] = (Access.QUERY,)
    unbounded: ClassVar[bool] = False

    def __call__(self, view, x, y, *, threat, rng):
        return (x - threat.radius).clamp(0, 1)

    def calls(self, *, stochastic, classes):
        return Calls()
'''
POINTS = """
[bench.defenses]
noted = noted_plugins:Noted
other = noted_plugins:Other
[bench.attacks]
dark = noted_plugins:Dark
"""
SPACED = "attack.note=a defense.steps=3 b"  # a value that looks like another setting
PLAIN = "attack.note=plain"


@pytest.fixture
def four(bench: Bench, install: Callable[..., Path], tmp_path: Path) -> Store:
    """Two defenses, each under an attack in two settings; the words alone are ambiguous."""
    install("noted-plugins", "noted_plugins", SOURCE, POINTS)
    for defense in ("noted", "other"):
        for note in (SPACED, PLAIN):
            said = bench(
                "run", f"--defense={defense}", "--attack=dark", f"--set={note}",
                "--set=defense.note=two words", *TINY,
            )  # fmt: skip
            assert said.code == 0, said
    return Store(tmp_path / "results")


def spaced_cell(store: Store) -> str:
    """The key of the first defense's cell under the attack whose setting has spaces."""
    for folder in store.cells():
        cell = read_json(folder / "cell.json")
        if cell["defense"]["name"] == "noted" and " " in cell["attack"]["params"]["note"]:
            return folder.name
    pytest.fail("there is no such cell")


@pytest.mark.parametrize("earlier", [False, True])
def test_a_value_with_spaces_stays_whole_in_every_command(
    bench: Bench, four: Store, earlier: bool
) -> None:
    if earlier:  # only words, as cells had before
        for folder in four.cells():
            cell = read_json(folder / "cell.json")
            params = {target: cell[target]["params"] for target in ("defense", "attack")}
            words = (
                f"attack.note={params['attack']['note']} "
                "defense.note=two words classifier.training.epochs=1"
            )
            (folder / "cell.json").write_text(json.dumps({**measured(cell), "settings": words}))
            provenance = read_json(folder / "provenance.json")
            del provenance["sha256"]  # as long as there were no digests either
            (folder / "provenance.json").write_text(json.dumps(provenance))
    key = spaced_cell(four)
    spaced = "attack.note='a defense.steps=3 b'"

    table = bench("table", "--worst-case", "--format=csv").out
    found = list(csv.DictReader(io.StringIO(table)))
    (row,) = (row for row in found if row["key"] == key)
    assert row["settings"].startswith(f"{spaced} defense.note='two words' classifier.")
    for worst in (row for row in found if row["attack"] == "worst case"):
        assert worst["settings"] == "defense.note='two words' classifier.training.epochs=1"

    said = bench("compare", "noted", "other").out
    assert f"joined: dark query {spaced}\n" in said
    assert "joined: dark query attack.note=plain\n" in said

    said = bench("judge", key, "--defense=none", "--json")
    assert said.code == 0, said
    new = json.loads(said.out)["rows"][1]
    assert new["settings"] == f"{spaced} classifier.training.epochs=1 images of noted"
    assert bench("verify").code == 0


def test_a_paper_s_table_keeps_a_value_with_spaces_whole(
    bench: Bench, four: Store, tmp_path: Path
) -> None:
    del four
    (tmp_path / "t.yaml").write_text(
        "title: T\nlayout: gain\nbaseline: noted\nruns:\n"
        "  - {defenses: [{name: noted, set: {note: 'a b'}},\n"
        "                {name: other, set: {note: 'c defense.steps=9 d'}}],\n"
        "     attacks: {name: dark, set: {note: x y}}, threats: {eps: 0.1}, n: 4, draws: 3,\n"
        "     classifiers: {name: small_cnn, set: {training: {epochs: 1}}}}\n"
    )
    assert bench("paper", "t.yaml").code == 0
    text = (tmp_path / "results" / "paper" / "t.md").read_text()
    assert "| noted | note='a b' |" in text
    assert "| other | note='c defense.steps=9 d' |" in text
    assert "attack.note='x y'" in text.splitlines()[-1]
