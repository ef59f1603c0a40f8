"""A reviewer's check: votes of a sample again, what is missing, and what a forger did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.core import batch_size
from bench.deposits.same_votes import compared, too_many
from bench.deposits.sample import judged_again
from bench.deposits.unpack import Deposit
from bench.errors import unknown_name

from ..cells import CPU, prepared, rows
from ..command import Bench, is_one_clear_message
from ..verification.one_cell import NOISE, TINY, only
from .forge import with_images, with_rows

VERIFY = ("verify", "deposit.zip", "--seed=1")


def checked(bench: Bench, *words: str) -> tuple[int, dict[str, Any]]:
    said = bench(*VERIFY, *words, "--json")
    assert said.out, said.err
    return said.code, json.loads(said.out)


def test_votes_are_the_same(bench: Bench, deposit: Path) -> None:
    said = bench(*VERIFY)
    assert said.code == 0, said
    assert "judged again: 6 of 6 drawn, all that it has; every vote is the same" in said.out
    assert said.out.rstrip().endswith("MATCH: nothing contradicts the deposit")
    code, found = checked(bench, "--sample=2")
    assert (code, found["verdict"], found["judged"], found["rows"]) == (0, "match", 2, 6)


def test_a_sample_is_drawn_by_its_seed(
    bench: Bench, deposit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    def noted(made: Any, places: list[int], *rest: Any) -> Any:
        drawn.append(places)
        return judged_again(made, places, *rest)

    monkeypatch.setattr("bench.deposits.check.judged_again", noted)
    for words in (("--seed=1",), ("--seed=1",), ("--seed=2",), ("--seed=3",)):
        assert bench("verify", "deposit.zip", "--sample=3", *words).code == 0
    assert drawn[0] == drawn[1]
    assert len({tuple(places) for places in drawn}) > 1
    assert all(len(set(places)) == 3 for places in drawn)
    first, second = (
        json.loads(bench("verify", "deposit.zip", "--sample=1", "--json").out)["seed"]
        for _ in range(2)
    )
    assert first != second, "who makes a deposit must not know which images are judged"


def lied(rows: pd.DataFrame) -> None:
    """Let the defense stand where it broke, or the other way round."""
    rows["votes"] = [np.roll(votes, 1) for votes in rows["votes"]]
    labels = rows["label"].to_numpy()
    votes = np.stack(list(rows["votes"]))
    true = votes[np.arange(len(rows)), labels]
    others = votes.copy()
    others[np.arange(len(rows)), labels] = -1
    rows["robust"] = rows["clean"] & (true > others.max(1))


def test_votes_that_somebody_made_up_are_named(bench: Bench, folder: Path) -> None:
    with_rows(only(folder), lied)
    assert bench("attest").code == 0
    said = bench(*VERIFY)
    assert said.code == 1
    assert "rounding does not explain the votes of 6 images (0, 1, 2, ...)" in said.out
    assert all(f"votes of image {index} are" in said.out for index in range(3))
    assert ", and here " in said.out
    assert "MISMATCH" in said.out


def test_images_that_somebody_exchanged_are_named(bench: Bench, folder: Path) -> None:
    """All digests are written anew; the distances and the votes are those of other images."""
    from bench.results.store import Store

    with_images(Store(folder), only(folder), lambda x: x.flip(-1))
    assert bench("attest").code == 0
    code, found = checked(bench)
    assert (code, found["verdict"]) == (1, "mismatch")
    (cell,) = found["cells"]
    wrong = " ".join(finding["text"] for finding in cell["findings"] if finding["wrong"])
    assert "'distance' of 6 images" in wrong


def test_cells_of_an_early_version_have_no_logits(bench: Bench, folder: Path) -> None:
    with_rows(only(folder), lambda rows: rows.pop("logits"))
    assert bench("attest").code == 0
    code, found = checked(bench)
    assert (code, found["verdict"], found["judged"]) == (0, "match", 6)


def test_without_weights_it_says_which(bench: Bench, deposit: Path) -> None:
    shutil.rmtree("results/checkpoints")
    wanted = json.loads((only(Path("results")) / "cell.json").read_text())
    digest = wanted["classifier"]["checkpoint"][:16]
    said = bench(*VERIFY)
    assert said.code == 0
    assert f"NOT CHECKED the classifier's checkpoint {digest} is not there" in said.out
    assert "judged again: 0 of 6 drawn" in said.out
    assert "CANNOT BE CHECKED in full" in said.out
    assert "--checkpoints" in said.out


def test_a_damaged_checkpoint_here_is_no_fault_of_the_deposit(
    bench: Bench, deposit: Path
) -> None:
    (path,) = Path("results/checkpoints").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x01\x00")
    code, found = checked(bench)
    assert (code, found["verdict"]) == (0, "cannot be checked")
    assert str(path) in found["notes"][0]


def test_without_its_plugin_it_says_so(
    bench: Bench, deposit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reviewer who has not installed the package of the defense."""
    from bench.plugins import catalogue

    def plugin(kind: catalogue.Kind, name: str) -> Any:
        if name == "gaussian":
            raise unknown_name("defense", name, ["none"])
        return catalogue.plugin(kind, name)

    monkeypatch.setattr("bench.experiments.prepare.plugin", plugin)
    said = bench(*VERIFY)
    assert said.code == 0
    assert "NOT CHECKED votes of 6 images: no defense is called 'gaussian'" in said.out


def test_without_images_clean_votes_are_judged(bench: Bench, folder: Path) -> None:
    assert bench("attest", "--without-images").code == 0
    said = bench(*VERIFY)
    assert said.code == 0
    assert "6 of 6 drawn, all that it has, the clean ones only" in said.out
    assert "NOT CHECKED distance and legality: images of 2 of 2 blocks" in said.out
    assert "CANNOT BE CHECKED in full" in said.out


def test_noise_by_block_is_judged_with_its_whole_block(bench: Bench) -> None:
    Path("mine.py").write_text(
        "import torch\n\n\ndef purify(x):\n    return x + 0.3 * torch.randn_like(x)\n"
    )
    assert bench("run", "--defense=mine.py:purify", *NOISE, *TINY, "--shard=3").code == 0
    assert bench("attest").code == 0
    code, found = checked(bench, "--sample=2")
    assert (code, found["verdict"], found["judged"]) == (0, "match", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("deposit.zip", "--sample=0"), "sample is 0: it has to be 1 or more"),
        (("deposit.zip", "--seed=-1"), "seed is -1"),
        (("deposit.zip", "--votes"), "belong to a results folder"),
        (("results", "--sample=3"), "belong to a deposit"),
        (("depozit.zip",), "Did you mean deposit.zip"),
    ],
)
def test_what_cannot_be_asked_is_told(
    bench: Bench, deposit: Path, words: tuple[str, ...], message: str
) -> None:
    is_one_clear_message(bench("verify", *words), message, code=2)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_votes_do_not_depend_on_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What rounding moves in blocks of other sizes is within what is said of other machines."""
    from ..cells import at

    made, workspace = prepared(), at(tmp_path)
    rows(made, workspace)
    deposit = Deposit(workspace.store, (made.cell.key(),), True)
    monkeypatch.setattr(batch_size, "_found", {"cpu": size})
    found = judged_again(made, [1, 2, 5, 6, 7, 11], deposit, CPU)
    assert (found.images, found.moved, found.problem) == (6, (), None)


def wrong(stored: list[int], again: list[int], logits: list[float]) -> list[bool]:
    found = {"votes": np.array([again]), "logits": np.array([logits])}
    result = compared({"votes": np.array([stored])}, found)
    return [bool(result.moved[0]), bool(result.wrong[0])]


def test_rounding_moves_one_draw_and_no_more() -> None:
    logits = [0.0, 0.0, 0.0]
    assert wrong([50, 0, 0], [50, 0, 0], logits) == [False, False]
    assert wrong([50, 0, 0], [49, 1, 0], logits) == [True, False]
    assert wrong([26, 24, 0], [24, 26, 0], logits) == [True, True]
    # Draws that stop early are the first ones of those that do not.
    assert wrong([10, 0, 0], [45, 5, 0], logits) == [True, False]
    assert wrong([10, 0, 0], [9, 41, 0], logits) == [True, False]
    assert wrong([10, 0, 0], [8, 42, 0], logits) == [True, True]
    assert wrong([8, 42, 0], [10, 0, 0], logits) == [True, True]
    # One draw moves where two classes are nearly equal.
    assert wrong([1, 0, 0], [0, 1, 0], [5.0, 5.001, 0.0]) == [True, False]
    assert wrong([1, 0, 0], [0, 1, 0], [5.0, 5.1, 0.0]) == [True, True]
    assert wrong([0, 0, 0], [0, 1, 0], [5.0, 5.1, 0.0]) == [True, True]


def test_few_images_may_have_a_moved_draw() -> None:
    assert not too_many(0, 50)
    assert not too_many(2, 50)
    assert too_many(3, 50)
    assert too_many(2, 10)
    assert not too_many(1, 10)
    assert not too_many(0, 0)


def test_a_verdict_has_to_follow_from_its_votes() -> None:
    same = {"votes": np.array([[3, 0]]), "logits": np.array([[1.0, 0.0]])}
    result = compared(
        {**same, "robust": np.array([True])}, {**same, "robust": np.array([False])}
    )
    assert result.wrong.tolist() == [True]
