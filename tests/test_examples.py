"""The examples run as they are, by their scripts, by the command line and as a notebook."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from .cells import assert_equal
from .command import Bench

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# The training comes first, and the stochastic purifier is compared with its command.
SCRIPTS = {path.stem for path in EXAMPLES.glob("*.py")} - {"train", "stochastic_purifier"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples in a folder of their own, with the weights that their training writes."""
    folder = tmp_path_factory.mktemp("examples")
    for path in EXAMPLES.iterdir():
        shutil.copy(path, folder)
    with pytest.MonkeyPatch.context() as patched:
        run("train", folder, patched)
    return folder


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script as `python name.py` does, and forget what it imported from its folder."""
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    try:
        runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    finally:
        for new in set(sys.modules) - before:
            if str(getattr(sys.modules[new], "__file__", "")).startswith(str(folder)):
                del sys.modules[new]


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_an_example_runs_as_a_script(
    name: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name == "diffusers_pipeline":
        pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    run(name, trained, monkeypatch)
    assert capsys.readouterr().out.startswith("robust ")


def test_the_command_of_an_example_gives_the_rows_of_its_script(
    bench: Bench, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bench(
        "run", f"--defense={trained}/stochastic_purifier.py:noisy",
        f"--classifier={trained}/classifier_with_weights.py:classifier", "--attack=apgd",
        "--eps=0.1", "-n", "50", "--set=defense.sigma=0.3", "--set=attack.steps=20",
        "--set=attack.eot=5", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    (row,) = said.rows
    run("stochastic_purifier", trained, monkeypatch)
    mine = f"results/cells/{row['key']}/outcomes.parquet"
    cells = {
        path: json.loads(path.read_text()) for path in Path("results/cells").glob("*/cell.json")
    }
    (other,) = [
        path.with_name("outcomes.parquet")
        for path, cell in cells.items()
        if cell["defense"]["name"] == "python:noisy"
        and cell["defense"]["params"] == {"sigma": 0.3}
    ]
    assert_equal(pd.read_parquet(mine), pd.read_parquet(other))


@pytest.fixture
def as_main(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module in the place of the one that Python was started with."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def test_the_notebook_runs_from_top_to_bottom(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_main: ModuleType
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((trained / "notebook.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    if find_spec("nbclient") and find_spec("ipykernel"):
        import nbformat
        from nbclient import NotebookClient

        done = nbformat.from_dict(notebook)
        NotebookClient(done, timeout=300).execute()
        shown = [one for cell in done.cells for one in cell.get("outputs", [])]
        kinds = {kind for one in shown for kind in one.get("data", {})}
        assert {"text/html", "image/png"} <= kinds
        return
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "cell", "exec"), vars(as_main))
    assert vars(as_main)["row"].show([0]).png.startswith(b"\x89PNG")
