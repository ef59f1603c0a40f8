"""Killed and resumed equals uninterrupted, for an evaluation and for a training."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import bench.models.train
from bench.experiments.matrix import evaluate
from bench.models.train import train
from bench.plugins.catalogue import build
from bench.results.cell import Request
from bench.results.files import read_json
from bench.results.progress import finish
from bench.results.rows import write_runs
from bench.results.store import Store
from bench.results.workspace import Workspace

from ..children import forked_with

FOLDERS = 6  # that are killed twice each
# What a child does. It is text, since a child cannot import a test module by its name. It
# counts its calls, of Python and of C, and dies by SIGKILL at the one that `last` numbers, or
# at the first `commit` after it, when a file is written but does not have its name yet: a
# moment of the work and not of the clock, which is the same on a busy machine.
COUNTED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
calls = 0
def count(frame, event, argument):
    global calls
    if event.endswith("call"):
        calls += 1
        if calls >= last and (argument is os.replace or not commit):
            os.kill(os.getpid(), signal.SIGKILL)
if last is not None:  # to count makes a child slow
    sys.setprofile(count)
{}
sys.setprofile(None)
told.send(calls)
"""
EVALUATE = COUNTED.format("""
from bench.experiments.matrix import evaluate
from bench.results.progress import finish
from bench.results.store import Store
from bench.results.rows import write_runs
from bench.results.workspace import Workspace
store = Store(root)
finish(evaluate(request, workspace=Workspace(store, root, root, torch.device("cpu"))))
write_runs(store)
""")
TRAIN = COUNTED.format("""
import bench.models.train
from bench.results.progress import finish
from bench.plugins.catalogue import build
from bench.results.store import Store
from bench.results.workspace import Workspace
bench.models.train._SAVE_EVERY_S = -1.0
workspace = Workspace(Store(root), root, root, torch.device("cpu"))
plugin = build("defenses", "ebm", params)
finish(bench.models.train.train("ebm", plugin, dataset="digits", workspace=workspace))
""")
TINY = {
    "classifier": {"width": 4, "training": {"epochs": 1}},
    "defense": {
        "steps": 2,
        "training": {"iterations": 2, "chain_steps": 1, "bank": 64, "width": 4},
    },
    "attack": {"steps": 2, "eot": 2},
}


def request(n: int, shard: int, attack: str = "pgd") -> Request:
    return Request.parse(
        defense="ebm", attack=attack, n=n, shard=shard, draws=4, eps="0.3", settings=TINY
    )


def workspace(root: Path) -> Workspace:
    return Workspace(Store(root), root, root, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with nothing but the checkpoints of a tiny classifier and energy."""
    root = tmp_path_factory.mktemp("trained")
    key = finish(evaluate(request(n=1, shard=1), workspace=workspace(root)))
    shutil.rmtree(Store(root).cell(key))
    shutil.rmtree(root / "images")
    return root


def evaluated(trained: Path, root: Path, wanted: Request) -> str:
    """Evaluate without any interruption; return the key."""
    shutil.copytree(trained, root)
    key = finish(evaluate(wanted, workspace=workspace(root)))
    write_runs(Store(root))
    return key


def assert_same(root: Path, whole: Path, key: str) -> None:
    """Outcomes are identical, and so is all else but times and peaks of memory."""
    ours, theirs = Store(root), Store(whole)
    pd.testing.assert_frame_equal(
        pd.read_parquet(ours.outcomes(key)),
        pd.read_parquet(theirs.outcomes(key)),
        check_exact=True,
    )
    runs, expected = pd.read_csv(ours.runs), pd.read_csv(theirs.runs)
    assert len(runs) == 1
    assert runs["state"][0] == "done"
    # The commit is left out too: someone may edit the source while the tests run.
    passing = ["seconds", "memory", "date", "commit"]
    pd.testing.assert_frame_equal(
        runs.drop(columns=passing), expected.drop(columns=passing), check_exact=True
    )
    for name in ("attack passes", "judge passes", "flags"):
        paths = [store.cell(key) / "provenance.json" for store in (ours, theirs)]
        assert read_json(paths[0])[name] == read_json(paths[1])[name]


@pytest.fixture(scope="module")
def children() -> Iterator[ForkServerContext]:
    """torch._dynamo is what the first optimizer of a process would import, for seconds."""
    with forked_with(
        ["pytest", "torch._dynamo", "sklearn.datasets", "pyarrow.parquet",
         "bench.experiments.matrix", "bench.results.table", "bench_defenses.ebm",
         "bench_defenses.classifiers.small_cnn", "bench_attacks.pgd"]
    ) as context:  # fmt: skip
        yield context


def worked(
    context: ForkServerContext, script: str, last: float | None, commit: bool, **given: Any
) -> int | None:
    """Let a child work; return how many calls that took, None where it died at the last."""
    ours, theirs = context.Pipe(duplex=False)
    given = {**given, "last": last, "commit": commit, "told": theirs}
    process = context.Process(target=exec, args=(script, given))
    process.start()
    theirs.close()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, -signal.SIGKILL), f"the child failed by itself, with exit code {code}"
    with ours:
        return ours.recv() if code == 0 else None


def killed_twice(
    work: Callable[[Path, float | None, bool], int | None],
    fresh: Callable[[], Path],
    halfway: Callable[[Path], bool],
) -> Iterator[Path]:
    """Yield folders whose work was killed twice, each at other moments of it, then finished."""
    whole = work(fresh(), math.inf, False)
    assert whole is not None
    middles = 0
    for number in range(FOLDERS):
        root, moment = fresh(), (2 * number + 1) * whole // (2 * FOLDERS)
        commit = bool(number % 2)
        assert work(root, moment, commit) is None
        middles += halfway(root)
        work(root, whole - moment, not commit)  # ends where less than that was left
        work(root, None, False)
        yield root
    assert middles, "the kills missed the middle of the work"


def test_a_cell_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(
    trained: Path, children: ForkServerContext, tmp_path: Path
) -> None:
    wanted = request(n=24, shard=2)
    key = evaluated(trained, tmp_path / "whole", wanted)
    numbers = itertools.count()

    def fresh() -> Path:
        return Path(shutil.copytree(trained, tmp_path / f"killed{next(numbers)}"))

    def work(root: Path, last: float | None, commit: bool) -> int | None:
        return worked(children, EVALUATE, last, commit, root=root, request=wanted)

    def halfway(root: Path) -> bool:
        """Whether some shards are there, and not the whole."""
        store = Store(root)
        shards = len(list((store.cell(key) / "shards").glob("*.parquet")))
        return 0 < shards < 12 and not store.outcomes(key).is_file()

    for root in killed_twice(work, fresh, halfway):
        assert_same(root, tmp_path / "whole", key)


class Killed(BaseException):
    """What a process that dies would be to itself: nothing in bench may catch it."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cell_can_die_at_every_single_commit(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    wanted = request(n=6, shard=3)
    key = evaluated(trained, tmp_path / "whole", wanted)
    commit: Any = Path.replace
    left = -1

    def replace(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            raise Killed
        moved: Path = commit(self, target)
        if left == 0 and moment == "after":
            raise Killed
        return moved

    monkeypatch.setattr(Path, "replace", replace)
    deaths = 0
    while True:
        root = Path(shutil.copytree(trained, tmp_path / f"dead{deaths}"))
        left = deaths + 1
        try:
            finish(evaluate(wanted, workspace=workspace(root)))
        except Killed:
            left = -1
            finish(evaluate(wanted, workspace=workspace(root)))
            write_runs(Store(root))
            assert_same(root, tmp_path / "whole", key)
            deaths += 1
        else:
            break
    # The cell, two shards of images, provenance and rows, the whole's provenance and rows.
    assert deaths == 1 + 1 + 2 * 3 + 2  # the probe, the cell, each block, what joins them


def test_a_cell_that_died_while_dropping_its_shards_is_done(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(n=4, shard=2)
    key = evaluated(trained, tmp_path / "whole", wanted)
    root = Path(shutil.copytree(trained, tmp_path / "dead"))
    with monkeypatch.context() as patch:

        def rmtree(path: Path, **options: Any) -> None:
            os.unlink(path / "000000.parquet")
            raise Killed

        patch.setattr("bench.results.store.shutil.rmtree", rmtree)
        with pytest.raises(Killed):
            finish(evaluate(wanted, workspace=workspace(root)))
    assert not Store(root).shard(key, 0).exists()
    assert Store(root).shard(key, 2).exists()
    finish(evaluate(wanted, workspace=workspace(root)))
    write_runs(Store(root))
    assert_same(root, tmp_path / "whole", key)
    assert not Store(root).shard(key, 0).parent.exists(), "nothing is left behind"


TRAINING = {"iterations": 20, "chain_steps": 2, "bank": 64, "batch": 16, "width": 4}


def weights(root: Path) -> dict[str, torch.Tensor]:
    (path,) = Store(root).checkpoints()
    return load_file(path)


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_training_that_is_killed_at_any_moment_ends_with_the_same_weights(
    children: ForkServerContext, tmp_path: Path
) -> None:
    params = {"training": TRAINING}
    finish(
        train("ebm", build("defenses", "ebm", params), dataset="digits",
              workspace=workspace(tmp_path / "whole"))
    )  # fmt: skip
    expected = weights(tmp_path / "whole")
    numbers = itertools.count()

    def fresh() -> Path:
        root = tmp_path / f"killed{next(numbers)}"
        root.mkdir()
        return root

    def work(root: Path, last: float | None, commit: bool) -> int | None:
        return worked(children, TRAIN, last, commit, root=root, params=params)

    def halfway(root: Path) -> bool:
        states = list((root / "training").glob("[!.]*.pt"))
        return bool(states) and 0 < torch.load(states[0])["run"]["step"] < 20

    for root in killed_twice(work, fresh, halfway):
        assert_same_weights(weights(root), expected)
        assert not list((root / "training").glob("[!.]*")), "the state outlives its training"


def test_a_training_that_died_before_it_dropped_its_state_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.models.train, "_SAVE_EVERY_S", -1.0)
    plugin = build("defenses", "ebm", {"training": {**TRAINING, "iterations": 2}})

    def trained_once() -> None:
        finish(train("ebm", plugin, dataset="digits", workspace=workspace(tmp_path)))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *args, **rest: None)
        trained_once()
    assert len(list((tmp_path / "training").glob("*.pt"))) == 1
    trained_once()
    assert not list((tmp_path / "training").glob("*.pt"))


def test_a_training_goes_on_where_its_state_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To begin anew after each kill would give the same weights too: count the iterations."""
    monkeypatch.setattr(bench.models.train, "_SAVE_EVERY_S", -1.0)
    advanced = 0
    plugin = build("defenses", "ebm", {"training": TRAINING})
    from bench_defenses.energies.contrastive import ContrastiveDivergence

    advance = ContrastiveDivergence.advance

    def dying(self: ContrastiveDivergence) -> None:
        nonlocal advanced
        advanced += 1
        if advanced == 12:
            raise Killed
        advance(self)

    monkeypatch.setattr(ContrastiveDivergence, "advance", dying)
    with pytest.raises(Killed):
        finish(train("ebm", plugin, dataset="digits", workspace=workspace(tmp_path)))
    finish(train("ebm", plugin, dataset="digits", workspace=workspace(tmp_path)))
    assert advanced == 21  # 20 iterations, one of which died and was done again
