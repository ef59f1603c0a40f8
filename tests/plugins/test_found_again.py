"""A stored cell finds the files of its plugins: where they were, here, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.evaluation.run import run_cell
from bench.experiments.prepare import prepare, resolve
from bench.results.cell import Request
from bench.results.progress import finish

from ..cells import assert_equal, at, rows, stop_after
from ..command import Bench, Said, is_one_clear_message

MINE = """
import torch
from torch import nn
from model import Net

net = Net()

def purify(x, sigma: float = 0.2):
    return x + sigma * torch.randn_like(x)

def attack(view, x, y, *, threat, rng):
    return (x + threat.radius * rng.sign_like(x)).clamp(0, 1)
"""
MODEL = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
"""
NAMES = ("--defense=lab/mine.py:purify", "--classifier=lab/mine.py:net",
         "--attack=lab/mine.py:attack")  # fmt: skip
SMALL = ("-n", "6", "--draws=4", "--shard=2", "--eps=0.1", "--json")


@pytest.fixture
def lab(bench: Bench, tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "model.py").write_text(MODEL)
    return folder


@pytest.fixture
def key(bench: Bench, lab: Path) -> str:
    return measured(bench)["key"]


def measured(bench: Bench) -> Any:
    said = bench("run", *NAMES, *SMALL)
    assert said.code == 0, said.err
    return said.rows[0]


def test_a_cell_says_beside_its_key_where_its_files_are(key: str, lab: Path) -> None:
    content = json.loads(Path("results", "cells", key, "cell.json").read_text())
    assert content["names"] == {
        "attack": "lab/mine.py:attack",
        "classifier": "lab/mine.py:net",
        "defense": "lab/mine.py:purify",
    }
    assert content["defense"]["name"] == "mine.py:purify"
    assert not (lab / "__pycache__").exists(), "nothing is written into a user's folder"


def test_judge_verify_and_report_load_the_files_again(bench: Bench, key: str) -> None:
    said = bench("report", "--defense=lab/mine.py:purify", "--eps=0.1", "-n", "6")
    assert said.code == 0, said
    assert "noise by block" in said.out
    for words in (
        ("judge", key, "--draws=5", "--json"),
        ("judge", key, "--defense=none", "--json"),
        ("judge", key, "--defense=lab/mine.py:purify", "--set=defense.sigma=0.1", "--json"),
        ("verify", "--votes"),
    ):
        said = bench(*words)
        assert said.code == 0, (words, said)
        assert "WRONG" not in said.out
    assert "come with mine.py:net, which only --votes loads" in bench("verify").out
    assert "only --votes" not in said.out, "they were loaded, and are those of the key"


def test_a_file_that_moved_is_found_in_the_current_folder(
    bench: Bench, key: str, lab: Path, tmp_path: Path
) -> None:
    for name in ("mine.py", "model.py"):
        (lab / name).rename(tmp_path / name)
    assert bench("judge", key, "--draws=5", "--json").code == 0
    (tmp_path / "mine.py").unlink()
    said = bench("judge", key, "--draws=6")
    is_one_clear_message(
        said, f"cell {key} was measured with mine.py:net", "lab/mine.py is not there", code=1
    )


@pytest.mark.parametrize("name", ["mine.py", "model.py"])
def test_another_source_is_another_cell_and_not_judged_as_this_one(
    bench: Bench, key: str, lab: Path, name: str
) -> None:
    with (lab / name).open("a") as file:
        file.write("\n# other\n")
    is_one_clear_message(
        bench("judge", key, "--draws=5"), "lab/mine.py has changed since cell", code=1
    )
    assert "has changed" in bench("verify", "--votes").out
    assert measured(bench)["key"] != key


def test_two_files_do_not_share_the_modules_beside_them(bench: Bench, tmp_path: Path) -> None:
    keys = []
    for name, width in (("one", 1.0), ("other", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text(
            "import torch\nfrom torch import nn\nfrom parts import factor\n"
            "from package.inner import twice\n"
            "net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
            "def purify(x):\n    return (twice(factor) * x).clamp(0, 1)\n"
        )
        (folder / "parts.py").write_text(f"factor = {width}\n")
        (folder / "package").mkdir()
        (folder / "package" / "inner.py").write_text("def twice(x):\n    return 2 * x\n")
        said = bench("run", f"--defense={name}/mine.py:purify", "--attack=noise", *SMALL,
                     f"--classifier={name}/mine.py:net", "--set=attack.tries=1")  # fmt: skip
        assert said.code == 0, said.err
        keys.append(said.rows[0]["key"])
    assert keys[0] != keys[1]
    made = [json.loads(Path("results", "cells", k, "cell.json").read_text()) for k in keys]
    assert made[0]["defense"]["source"] != made[1]["defense"]["source"]


def test_a_plan_finds_files_beside_itself_and_workers_find_them_too(
    bench: Bench, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "defenses": ["mine.py:purify", "none"],
        "attacks": "mine.py:attack",
        "classifiers": "mine.py:net",
        "threats": {"eps": 0.1},
        "n": 6, "draws": 4, "shard": 2, "ladder": True,
    }  # fmt: skip
    (lab / "plan.yaml").write_text(yaml.safe_dump(content))
    said = bench("matrix", "lab/plan.yaml", "--json")
    assert said.code == 0, said.err
    assert {row["state"] for row in said.rows} == {"done"}
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    again = bench("matrix", "../lab/plan.yaml", "--json", "--results=own", "--executor=local",
                  "--jobs=1", "--device=cpu")  # fmt: skip
    assert again.code == 0, again.err
    assert [row["key"] for row in again.rows] == [row["key"] for row in said.rows]
    assert [row["robust"] for row in again.rows] == [row["robust"] for row in said.rows]


def test_a_worker_in_another_folder_gets_full_paths(
    bench: Bench, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab / "plan.yaml").write_text(
        "defenses: mine.py:purify\nattacks: noise\nclassifiers: mine.py:net\n"
        "threats: {eps: 0.1}\nn: 2\ndraws: 2\n"
    )
    tasks: list[Any] = []
    monkeypatch.setattr(
        "bench.executors.local.run_local", lambda *a, **_: iter(tasks.append(a[0]) or ())
    )
    said = bench("matrix", "lab/plan.yaml", "--executor=local", "--jobs=1", "--device=cpu")
    assert said.code == 0, said.err
    (plan,) = tasks[0].plans
    assert plan["defenses"][0]["name"] == f"{lab / 'mine.py'}:purify"
    assert plan["classifiers"][0]["name"] == f"{lab / 'mine.py'}:net"


@pytest.mark.parametrize("defense", ["purify", "Drawn"])
def test_noise_by_block_is_repeated_and_resumed(
    lab: Path, tmp_path: Path, defense: str
) -> None:
    (lab / "mine.py").write_text(
        MINE + "class Drawn:\n    def purify(self, x, *, generator):\n"
        "        return x + torch.randn(x.shape, generator=generator)\n"
    )
    path = lab / "mine.py"
    request = Request.parse(
        defense=f"{path}:{defense}", classifier=f"{path}:net", attack="pgd", access="full",
        eps="0.1", n=8, shard=2, draws=5, settings={"attack": {"steps": 2, "eot": 2}},
    )  # fmt: skip

    def ready(root: str) -> Any:
        workspace = at(tmp_path / root)
        return finish(prepare(resolve(request), workspace=workspace)), workspace

    whole = rows(*ready("whole"))
    assert_equal(whole, rows(*ready("again")))
    made, workspace = ready("killed")
    stop_after(made, workspace, 2)
    assert workspace.store.missing(made.cell)
    made, workspace = ready("killed")
    finish(run_cell(made, workspace=workspace))
    assert_equal(whole, rows(made, workspace))
    votes = whole["votes"].tolist()
    assert any(len(set(one)) > 2 for one in votes), "it does draw"


def test_a_shared_cell_tells_no_home_folder(
    bench: Bench, lab: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "work").mkdir(parents=True)
    for name in ("mine.py", "model.py"):
        (lab / name).rename(home / "work" / name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(lab)
    said: Said = bench("run", f"--defense={home}/work/mine.py:purify", "--attack=noise",
                       f"--classifier={home}/work/mine.py:net", *SMALL)  # fmt: skip
    assert said.code == 0, said.err
    folder = Path("results", "cells", said.rows[0]["key"])
    assert json.loads((folder / "cell.json").read_text())["names"] == {
        "classifier": "~/work/mine.py:net",
        "defense": "~/work/mine.py:purify",
    }
    for path in folder.glob("*.json"):
        assert str(home) not in path.read_text()
    assert bench("judge", said.rows[0]["key"], "--draws=5", "--json").code == 0
