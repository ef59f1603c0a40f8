"""A piece of work is one process's at a time, and nobody's once that process is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import StoreError
from bench.evaluation.run import run_cell
from bench.results.locks import alone, claimed, is_held, share, works_in
from bench.results.progress import finish, unless_waiting
from bench.results.workspace import Workspace

from ..cells import assert_equal, at, prepared, rows

HOLD = """
import sys
from pathlib import Path
from bench.results.locks import claimed
with claimed(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    sys.stdin.read()  # until the test ends
"""
COUNT = """
import sys
from pathlib import Path
from bench.results.locks import claimed
claim, counter, wins = Path(sys.argv[1]), Path(sys.argv[2]), 0
while wins < 200:
    with claimed(claim) as ours:
        if ours:
            counter.write_text(str(int(counter.read_text()) + 1))
            wins += 1
"""


def child(script: str, *words: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_claim_that_is_a_link_creates_nothing_outside(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "a"
    path.parent.mkdir()
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="is a link"), claimed(path):
        pytest.fail("a link was claimed")
    assert not is_held(path)
    assert not (tmp_path / "outside").exists()
    assert path.is_symlink()


def test_a_claim_is_for_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "a"
    assert not is_held(path)
    with claimed(path) as first, claimed(path) as second, claimed(tmp_path / "b") as other:
        assert (first, second, other) == (True, False, True)
        assert is_held(path)
    assert list(path.parent.iterdir()) == []
    with claimed(path) as again:
        assert again


def test_a_claim_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broke"), claimed(tmp_path / "a"):
        raise ValueError("broke")
    assert not (tmp_path / "a").exists()


def test_a_claim_ends_with_its_process_even_by_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with child(HOLD, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with claimed(path) as ours:
            assert not ours
        assert is_held(path)
        holder.kill()
        holder.wait()
    assert path.exists(), "nobody tidied up"
    assert not is_held(path)
    with claimed(path) as ours:
        assert ours


def test_who_has_to_be_alone_waits_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, waits = tmp_path / "a", 0
    with child(HOLD, path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        def sleep(seconds: float) -> None:
            nonlocal waits
            waits += 1
            assert seconds > 0
            if waits == 3:
                holder.kill()
                holder.wait()

        monkeypatch.setattr("bench.results.locks.time.sleep", sleep)
        with alone(path):
            assert waits == 3
            assert is_held(path)
    assert not path.exists()


def test_claims_exclude_each_other_however_often_they_change_hands(tmp_path: Path) -> None:
    """Each release removes the file: a lock on what was removed must count for nothing."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    children = [child(COUNT, tmp_path / "claim", counter) for _ in range(3)]
    for one in children:
        one.communicate()
        assert one.returncode == 0
    assert counter.read_text() == "600"


def test_without_locks_everybody_may_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert works_in(tmp_path)
    assert list(tmp_path.iterdir()) == []

    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(tmp_path / "a") as first, claimed(tmp_path / "a") as second:
        assert first
        assert second
        assert not is_held(tmp_path / "a")
    assert not works_in(tmp_path)


def test_a_claim_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match=r"cannot write .*/file/a: .*another folder"),
        claimed(tmp_path / "file" / "a"),
    ):
        pytest.fail("there is no such folder")


def test_a_cell_takes_what_is_free_and_waits_for_the_rest(
    workspace: Workspace, tmp_path: Path
) -> None:
    made, store = prepared(), workspace.store
    key = made.cell.proposal_key()
    expected = rows(prepared(), at(tmp_path / "alone"))
    with claimed(store.claim_on_shard(key, 4, 8)):
        assert finish(unless_waiting(run_cell(made, workspace=workspace))) is None
        assert store.missing(made.cell) == [(4, 8)], "the others were free"
        work = run_cell(made, workspace=workspace)
        told = [next(work) for _ in range(4)]
        assert [now.waits for now in told] == [False, True, False, True]
        assert told[-1].done == 8
    finish(work)
    assert_equal(rows(made, workspace), expected)
    assert os.listdir(store.root / "claims") == []


def test_images_that_cells_share_are_claimed_once(workspace: Workspace) -> None:
    """-n 12 and -n 8 attack the same blocks."""
    made = prepared(n=12)
    key = prepared(n=8).cell.proposal_key()
    with claimed(workspace.store.claim_on_shard(key, 0, 4)):
        assert finish(unless_waiting(run_cell(made, workspace=workspace))) is None
        assert workspace.store.missing(made.cell) == [(0, 4)]


def test_a_shard_that_another_process_did_before_it_was_claimed_is_not_done_again(
    tmp_path: Path,
) -> None:
    left, done = [(0, 2), (2, 4), (4, 5)], []

    def claim(shard: tuple[int, int]) -> Path:
        if shard == (2, 4) and shard in left:
            left.remove(shard)  # as another process does that held the claim until now
        return tmp_path / str(shard)

    def work(shard: tuple[int, int]) -> None:
        done.append(shard)
        left.remove(shard)

    told = list(share("x", 5, left=lambda: [*left], claim=claim, work=work))
    assert done == [(0, 2), (4, 5)]
    assert [now.done for now in told] == [0, 2, 4, 5]
