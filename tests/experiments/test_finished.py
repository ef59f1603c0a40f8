"""A finished command is answered without torch, in the same words, and never by a stale row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.experiments import finished, matrix
from bench.plugins import sources
from bench.results.store import Store

from ..command import NOISE, RUN, Bench, Said, is_one_clear_message

PLAN = """
classifiers: {name: small_cnn, set: {training: {epochs: 1}}}
defenses: [none, jpeg]
attacks: [{name: noise, set: {tries: 1}}, {name: pgd, access: full, set: {steps: 1, eot: 1}}]
threats: {eps: 0.1}
n: 4
draws: 2
ladder: true
"""
MATRIX = ("matrix", "plan.yaml")


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What went the usual way, by the function that was called."""
    found: list[str] = []

    def noted(name: str) -> None:
        real = getattr(matrix, name)

        def call(*args: Any, **options: Any) -> Any:
            found.append(name)
            return real(*args, **options)

        monkeypatch.setattr(matrix, name, call)

    noted("evaluate")
    noted("ordered")
    return found


@pytest.fixture
def folder(filled_by: Callable[..., Path]) -> Path:
    return filled_by(RUN)


def forget(folder: Path) -> None:
    shutil.rmtree(folder / "cache")


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["table", "json"])
def test_both_ways_say_the_same(
    bench: Bench, folder: Path, usual: list[str], more: tuple[str, ...]
) -> None:
    (folder / "runs.csv").unlink()
    quick = bench(*RUN, *more)
    assert (usual, quick.code) == ([], 0)
    written = (folder / "runs.csv").read_text()
    forget(folder)
    assert bench(*RUN, *more) == quick
    assert usual == ["evaluate"]
    assert (folder / "runs.csv").read_text() == written


def test_a_finished_plan_and_its_status_say_the_same(
    bench: Bench, tmp_path: Path, usual: list[str]
) -> None:
    """With a cell that is not supported, and attacks on survivors."""
    (tmp_path / "plan.yaml").write_text(PLAN)
    assert bench(*MATRIX).code == 0
    forget(tmp_path / "results")
    once = {words: bench(*words) for words in (MATRIX, ("status", "plan.yaml"))}
    assert usual == ["ordered"] * 2  # the second time by what the status remembered
    usual.clear()
    assert {words: bench(*words) for words in once} == once
    assert usual == []
    assert "skipped" in once["status", "plan.yaml"].out


def test_a_plan_with_an_audit_or_an_executor_goes_the_usual_way(
    bench: Bench, tmp_path: Path, usual: list[str]
) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    assert bench(*MATRIX).code == 0
    assert bench(*MATRIX, "--dry-run").code == 0
    assert bench(*MATRIX, "--executor=local", "--jobs=1").code == 0
    assert usual == ["ordered"] * 3


def cell_of(folder: Path) -> Path:
    (found,) = Store(folder).cells()
    return found


def checkpoint(folder: Path) -> Path:
    (found,) = Store(folder).checkpoints()
    return found


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


CHANGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda folder: edit(checkpoint(folder)),
    "a card": lambda folder: edit(checkpoint(folder).with_suffix(".json")),
    "no weights": lambda folder: checkpoint(folder).unlink(),
    "no cell": lambda folder: shutil.rmtree(cell_of(folder)),
    "no outcomes": lambda folder: (cell_of(folder) / "outcomes.parquet").unlink(),
    "no content": lambda folder: (cell_of(folder) / "cell.json").unlink(),
    "shards": lambda folder: (cell_of(folder) / "shards").mkdir(),
    "failed": lambda folder: (cell_of(folder) / "failed.json").write_text("{}"),
    "a damaged record": lambda folder: [
        path.write_text(path.read_text()[:-9]) for path in folder.glob("cache/requests/*")
    ],
    "a record of nothing": lambda folder: [
        path.write_text("{}") for path in folder.glob("cache/requests/*")
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_changed_in_the_folder_goes_the_usual_way(
    bench: Bench, folder: Path, usual: list[str], change: Callable[[Path], object]
) -> None:
    change(folder)
    bench(*RUN)
    assert usual == ["evaluate"]


def test_a_damaged_cell_has_no_number(bench: Bench, folder: Path, usual: list[str]) -> None:
    path = cell_of(folder) / "outcomes.parquet"
    path.write_bytes(path.read_bytes()[:-40] + b"\0" + path.read_bytes()[-39:])
    quick = bench(*RUN)
    assert (usual, quick.code) == ([], 1)
    assert "damaged" in quick.err
    forget(folder)
    assert bench(*RUN) == quick


SETTINGS: dict[str, tuple[str, object]] = {
    "another version of bench, or an edited plugin": ("digest_of_shipped", lambda: "another"),
    "another Python": ("python_version", lambda: "3.99"),
    "another library": ("version", lambda name: "99"),
    "a claimed name": ("is_ours", lambda kind, name: False),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS.keys())
def test_what_changed_around_it_goes_the_usual_way(
    bench: Bench, folder: Path, usual: list[str], monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, object],
) -> None:  # fmt: skip
    assert bench(*RUN).code == 0
    assert usual == []
    monkeypatch.setattr(finished, *change)
    assert bench(*RUN).code == 0
    assert usual == ["evaluate"]


@pytest.mark.parametrize("kind", ["attacks", "datasets"])
def test_a_plugin_that_claims_the_name_is_told(
    bench: Bench, folder: Path, install: Callable[..., Path], kind: str
) -> None:
    name = {"attacks": "noise", "datasets": "digits"}[kind]
    install("other", "claims", "", f"[bench.{kind}]\n{name} = claims:Other\n")
    is_one_clear_message(bench(*RUN), name, "Uninstall", code=1)


def test_other_data_goes_the_usual_way(
    bench: Bench, folder: Path, tmp_path: Path, usual: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Files in the place of those of a data set; another folder with the same is the same."""
    monkeypatch.setattr(finished, "files_of", lambda name, *, root: [root / "images"])
    for root, content in (("one", "1"), ("same", "1"), ("two", "2")):
        (tmp_path / root).mkdir()
        (tmp_path / root / "images").write_text(content)

    def ways(root: str) -> list[str]:
        monkeypatch.setenv("BENCH_DATA", str(tmp_path / root))
        usual.clear()
        assert bench(*RUN).code == 0
        return list(usual)

    assert [ways(root) for root in ("one", "one", "same")] == [["evaluate"], [], []]
    assert ways("two") == ["evaluate"]
    (tmp_path / "two" / "images").write_text("3")
    assert ways("two") == ["evaluate"]
    (tmp_path / "two" / "images").unlink()
    assert ways("two") == ["evaluate"]


@pytest.mark.parametrize(
    "more", ["-n3", "--draws=2", "--seed=1", "--eps=0.2", "--norm=L2", "--sequential",
             "--set=attack.tries=2", "--shard=2", "--device=cpu:0"],
)  # fmt: skip
def test_another_question_is_another_answer(
    bench: Bench, folder: Path, usual: list[str], more: str
) -> None:
    bench(*RUN, more)  # the last of two counts
    assert usual == ["evaluate"]


def no_record(folder: Path) -> bool:
    return not list(folder.glob("cache/requests/*"))


MINE = """
def purify(x, *, rng):
    return x
"""


def test_what_a_user_wrote_goes_the_usual_way(
    bench: Bench, tmp_path: Path, usual: list[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = ("run", "--defense=mine.py:purify", *NOISE)
    assert bench(*words).code == 0
    assert bench(*words).code == 0
    assert usual == ["evaluate"] * 2
    assert no_record(tmp_path / "results")


def test_a_plugin_of_another_distribution_goes_the_usual_way(
    bench: Bench, tmp_path: Path, usual: list[str], install: Callable[..., Path]
) -> None:
    install("other", "elsewhere", MINE, "[bench.defenses]\nelse = elsewhere:purify\n")
    words = ("run", "--defense=else", *NOISE)
    assert bench(*words).code == 0
    assert bench(*words).code == 0
    assert usual == ["evaluate"] * 2
    assert no_record(tmp_path / "results")


def test_images_of_a_user_go_the_usual_way(
    bench: Bench, tmp_path: Path, usual: list[str]
) -> None:
    import numpy as np

    chance = np.random.default_rng(0)
    x, y = chance.integers(0, 255, (20, 1, 8, 8), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "mine.npz", x=x, y=y, x_train=x, y_train=y)
    assert bench(*RUN, "--dataset=mine.npz").code == 0
    assert no_record(tmp_path / "results")


def test_weights_from_elsewhere_go_the_usual_way(
    bench: Bench, folder: Path, tmp_path: Path
) -> None:
    """A checkpoint that no file of the folder has says nothing of what is there now."""
    store, key = Store(folder), cell_of(folder).name
    forget(folder)
    checkpoint(folder).unlink()
    finished.keep([finished.Known(key)], [], store=store, data=tmp_path)
    assert not (folder / "cache").exists()


def test_where_nothing_can_be_kept_nothing_is(bench: Bench, folder: Path) -> None:
    forget(folder)
    (folder / "cache").write_text("in the place of the folder")
    said: Said = bench(*RUN)
    assert (said.code, said.err.count("error")) == (0, 0)


def test_every_file_that_ships_is_in_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "made_for_a_test"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "recipe.yaml").write_text("steps: 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "SHIPPED", ("made_for_a_test",))
    seen = set()

    def digest() -> str:
        return sources.digest_of_shipped.__wrapped__()

    seen.add(digest())
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "inner.pyc").write_text("")
    assert digest() in seen
    for change in (
        lambda: (package / "inner" / "recipe.yaml").write_text("steps: 2"),
        lambda: (package / "more.py").write_text(""),
        lambda: (package / "more.py").rename(package / "other.py"),
        lambda: (package / "inner" / "recipe.yaml").unlink(),
    ):
        change()
        assert digest() not in seen
        seen.add(digest())


def test_the_record_names_no_folder(bench: Bench, folder: Path, tmp_path: Path) -> None:
    """Results are shared."""
    (path,) = folder.glob("cache/requests/*")
    assert str(folder) not in path.read_text()
    assert set(json.loads(path.read_text())) == {"cells", "inputs"}
