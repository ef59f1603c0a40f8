"""Several shards attacked in one batch: the rows of one by one, at the cost of one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.threat import Access
from bench.evaluation import batches, run
from bench.evaluation.run import Prepared, run_cell
from bench.plugins.catalogue import catalogue, plugin
from bench.results.progress import finish
from bench.results.workspace import Workspace
from bench_attacks.pgd import Pgd

from ..cells import about, assert_equal, at, prepared, rows

EXACT = ["index", "label", "legal", "clean", "robust", "clean_votes", "votes"]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Attack eight images at once, two shards; tell how many each attack had."""
    found: list[int] = []
    propose = run.propose

    def spied(attack: Any, view: Any, images: Any, **rest: Any) -> Any:
        if not (rest["path"] is not None and rest["path"].is_file()):
            found.append(len(images))
        return propose(attack, view, images, **rest)

    monkeypatch.setattr(run, "propose", spied)
    monkeypatch.setattr(batches, "_TOGETHER", 8)
    monkeypatch.setattr(run, "_ONE_BY_ONE", [])
    return found


def exact(**asked: Any) -> Prepared:
    return prepared(access=Access.FULL, dtype=torch.float64, **asked)


def test_a_batch_of_shards_has_their_rows_and_its_own_cost(
    workspace: Workspace, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = rows(exact(), workspace)
    assert sizes == [8, 4]  # twelve images in shards of four
    monkeypatch.setattr(run, "_ONE_BY_ONE", ["cpu"])
    other = at(tmp_path / "other")
    assert_equal(together[EXACT], rows(exact(), other)[EXACT])
    assert sizes == [8, 4, 4, 4, 4]
    one, many = about(exact(), workspace), about(exact(), other)
    assert one["attack passes"] == many["attack passes"]
    assert one["judge passes"] == many["judge passes"]


@pytest.mark.parametrize("there", [{0}, {4}, {8}, {0, 4}, {4, 8}])
def test_a_batch_is_the_same_images_whatever_is_missing(
    there: set[int], workspace: Workspace, tmp_path: Path, sizes: list[int]
) -> None:
    """In float32, where another batch would round otherwise."""
    whole = rows(prepared(), workspace)
    part = at(tmp_path / "part")
    finish(run_cell(made := prepared(), workspace=part))
    key, kept = made.cell.proposal_key(), {}
    for start in (0, 4, 8):
        path = part.store.proposal(key, start, start + 4)
        kept[path] = path.read_bytes()
        if start not in there:
            path.unlink()
    part.store.outcomes(made.cell.key()).unlink()
    del sizes[:]
    assert_equal(rows(prepared(), part), whole)
    assert sizes == ([] if {0, 4} <= there else [8]) + ([] if 8 in there else [4])
    for path, content in kept.items():
        if int(path.name[:6]) in there:
            assert path.read_bytes() == content


def test_a_batch_that_dies_while_it_is_kept_is_done_again(
    workspace: Workspace, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows(prepared(), workspace)
    keep, part = batches.keep, at(tmp_path / "part")

    def dying(path: Path, proposal: Any) -> None:
        if "000004" in path.name:
            raise KeyboardInterrupt
        keep(path, proposal)

    with monkeypatch.context() as patched:
        patched.setattr(batches, "keep", dying)
        with pytest.raises(KeyboardInterrupt):
            finish(run_cell(prepared(), workspace=part))
    assert_equal(rows(prepared(), part), whole)
    passes = [about(prepared(), one)["attack passes"] for one in (workspace, part)]
    assert passes[0] == passes[1]
    assert not list((part.store.root / "claims").glob("*"))


class Dependent(Pgd):
    """An attack that does not say that no image depends on another."""

    independent = False


def test_other_attacks_and_noise_by_block_get_one_shard_at_a_time(
    workspace: Workspace, tmp_path: Path, sizes: list[int]
) -> None:
    rows(prepared(attack=Dependent(steps=1)), workspace)
    assert sizes == [4, 4, 4]
    made = prepared()
    made.defense.purifier.by_block = True
    rows(made, at(tmp_path / "block"))
    assert sizes == [4] * 6


def test_shards_without_survivors_are_in_no_batch(
    workspace: Workspace, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {1, 2, 9}  # none of the second shard
    monkeypatch.setattr("bench.evaluation.run.survivors_of", lambda *_, **__: left)
    found = rows(exact(), workspace)
    assert sizes == [3]
    assert set(found["index"]) == left
    monkeypatch.setattr(run, "_ONE_BY_ONE", ["cpu"])
    assert_equal(found[EXACT], rows(exact(), at(tmp_path / "other"))[EXACT])


def test_all_attacks_but_autoattack_say_that_no_image_depends_on_another() -> None:
    said = {
        name: getattr(plugin("attacks", name), "independent", False)
        for name in catalogue("attacks")
    }
    assert {name for name, one in said.items() if not one} == {"autoattack"}
