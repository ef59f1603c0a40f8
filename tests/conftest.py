"""Fixtures that all tests share. Tests run offline, single-threaded and on the CPU."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from .command import Bench, Said, exit_code

if TYPE_CHECKING:
    from bench.results.workspace import Workspace

# The benchmarks belong to the checkout and not to the package that is installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

# How long an example takes says nothing on a busy machine.
settings.register_profile(
    "no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no clock")

# Real data where it is at hand: BENCH_DATA, or a folder shared/data beside the checkout.
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if "BENCH_DATA" not in os.environ and _BESIDE.is_dir():
    os.environ["BENCH_DATA"] = str(_BESIDE)

# Results of several processes are compared to the bit, and a GPU machine is no other machine.
os.environ.setdefault("BENCH_DEVICE", "cpu")


# Nothing is downloaded: what would be fails at once, also where there is a network.
os.environ["https_proxy"] = os.environ["http_proxy"] = "http://127.0.0.1:9"


def pytest_collection_finish() -> None:
    """Take five thousand tests out of every later search for garbage: a fifth of the time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker waits for it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace without any results, on the CPU."""
    from .cells import at

    return at(tmp_path / "results")


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("BENCH_RESULTS", "BENCH_DATA", "BENCH_ZOO", "BENCH_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Said:
        return Said(exit_code(monkeypatch, *words), *capsys.readouterr())

    return run


_MADE: dict[tuple[tuple[str, ...], ...], Path] = {}


@pytest.fixture
def filled_by(
    bench: Bench, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Fill the results folder by commands, which run once: every test gets a copy."""

    def filled_by(*commands: tuple[str, ...]) -> Path:
        if commands not in _MADE:
            folder = tmp_path_factory.mktemp("filled") / "results"
            for words in commands:
                said = bench(*words, f"--results={folder}")
                assert said.code == 0, said.err
            _MADE[commands] = folder
        shutil.copytree(_MADE[commands], tmp_path / "results")
        return tmp_path / "results"

    return filled_by


@pytest.fixture
def short_autoattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with few queries and steps: its own take seconds where an image stands."""
    from pyautoattack.autopgd_base import APGDAttack
    from pyautoattack.fab_base import FABAttack
    from pyautoattack.square import SquareAttack

    for part, name, few in (
        (SquareAttack, "n_queries", 50), (APGDAttack, "n_iter", 20), (FABAttack, "n_iter", 10),
    ):  # fmt: skip
        fixed = property(lambda _, few=few: few, lambda _, given: None)
        monkeypatch.setattr(part, name, fixed, raising=False)


@pytest.fixture
def install(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Install a distribution the way pip does: a module and a dist-info folder."""

    def install(
        distribution: str, module: str, source: str, points: str, *, version: str = "1.0"
    ) -> Path:
        site = tmp_path_factory.mktemp("site") / distribution
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(points)
        (site / f"{module}.py").write_text(source)
        monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return site

    return install
