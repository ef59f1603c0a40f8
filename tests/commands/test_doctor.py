"""The doctor: what works, what does not, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.commands import doctor as checks
from bench.commands import import_apart
from bench.commands.doctor import Finding, diagnose
from bench.models.checkpoints import save_checkpoint
from bench.plugins.catalogue import KINDS, catalogue
from bench.results.cell import digest_of

from ..command import imported_well

Disk = namedtuple("Disk", "total used free")


def found(tmp_path: Path, start: str, **options: Path) -> Finding:
    """The finding of this subject, or the only one whose subject begins so."""
    folders = {"data_root": tmp_path / "data", "results": tmp_path / "results", **options}
    findings = diagnose(**folders)
    exact = [finding for finding in findings if finding.subject == start]
    (finding,) = exact or [f for f in findings if f.subject.startswith(start)]
    return finding


@pytest.fixture(autouse=True)
def _nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import in a process of its own takes seconds: tests that need one use ``apart``."""
    monkeypatch.setattr(checks, "import_apart", imported_well)


@pytest.fixture
def apart(_nothing_is_imported: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports in a process of its own, as the doctor does them."""
    monkeypatch.setattr(checks, "import_apart", import_apart.import_apart)


@pytest.fixture
def doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], tuple[int, str]]:
    """`bench doctor` in this process: exit code and stdout."""
    monkeypatch.chdir(tmp_path)
    for name in ("BENCH_RESULTS", "BENCH_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run() -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bench", "doctor"])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().out
        return 0, capsys.readouterr().out

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    import torch

    names = ("name", "revision", "recipe", "dataset", "data", "classifier")
    card = {**dict.fromkeys(names), "name": "small_cnn"}
    folder = tmp_path / "results" / "checkpoints" / "digits"
    path = folder / f"small_cnn-{digest_of(card)[:8]}.safetensors"
    save_checkpoint(path, {"w": torch.zeros(3)}, card)
    return path


def test_a_sound_environment_has_no_failure_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported(what: Any, argument: str) -> tuple[list[str], str]:
        """RobustBench imports torch and torchvision, and a plugin imports pyautoattack."""
        known = what == "module" and argument != "robustbench"
        return (imported_well if known else import_apart.import_apart)(what, argument)

    monkeypatch.setattr(checks, "import_apart", imported)
    findings = diagnose(data_root=tmp_path / "data", results=tmp_path / "results")
    assert [finding for finding in findings if finding.state == "fail"] == []
    subjects = [finding.subject for finding in findings]
    assert len(set(subjects)) == len(subjects)
    for name in ("Python", "command", "torch", "devices", "torchvision", "pyautoattack",
                 "robustbench", "disk", "data digits", "data mnist", "plugins"):  # fmt: skip
        assert name in subjects
    assert list(tmp_path.iterdir()) == []
    for finding in findings:
        assert finding.found
        assert finding.state == "ok" or finding.todo, "a problem without an advice"


def test_torch_is_named_with_its_version(tmp_path: Path) -> None:
    import torch

    finding = found(tmp_path, "torch")
    assert (finding.state, finding.found) == ("ok", torch.__version__)


def test_every_gpu_is_asked_for_a_convolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from bench.commands import doctor

    names = ["GPU A", "GPU B"]
    tried: list[int] = []

    def convolve(device: torch.device) -> None:
        tried.append(device.index)
        if broken and device.index == 1:
            raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: names[number])
    doctor._convolve(torch.device("cpu"))  # what is done is something that can be done
    monkeypatch.setattr(doctor, "_convolve", convolve)
    broken = False
    sound = doctor._cuda()
    assert (sound.state, sound.found) == ("ok", "GPU A, GPU B")
    broken = True
    finding = doctor._cuda()
    assert finding.state == "warn"
    assert "GPU B fails in a convolution (RuntimeError: no kernel image" in finding.found
    assert "--device cpu" in finding.todo
    assert tried == [0, 1, 0, 1]


def test_an_old_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    finding = found(tmp_path, "torch")
    assert finding.state == "fail"
    assert "pip install" in finding.todo


def test_a_library_that_is_missing_or_untested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name == "robustbench":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.3.0" if name == "pyautoattack" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    assert found(tmp_path, "pyautoattack").state == "warn"
    assert "pyautoattack==0.2.0" in found(tmp_path, "pyautoattack").todo
    assert found(tmp_path, "robustbench").state == "warn"
    assert "purifybench[robustbench]" in found(tmp_path, "robustbench").todo


def test_robustbench_without_pkg_resources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "pkg_resources" else find(name, *rest),
    )
    finding = found(tmp_path, "robustbench")
    assert finding.state == "warn"
    assert "setuptools<82" in finding.todo


# --- broken libraries ----------------------------------------------------------------------


@pytest.fixture
def library(
    tmp_path: Path, apart: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], None]:
    """Put a library in front of the one that is installed, for processes that import it."""

    def write(name: str, source: str) -> None:
        path = tmp_path / "front" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        monkeypatch.setattr(sys, "path", [str(tmp_path / "front"), *sys.path])

    return write


def test_a_library_that_cannot_be_imported_fails_by_itself(
    tmp_path: Path, library: Callable[[str, str], None]
) -> None:
    """Metadata says nothing: only an import does."""
    library("torchvision.py", "raise RuntimeError('operator torchvision::nms does not exist')")
    finding = checks._torchvision()
    assert finding.state == "fail"
    assert "RuntimeError: operator torchvision::nms does not exist" in finding.found
    assert "pip install -U torch torchvision" in finding.todo
    finding = checks._robustbench()
    assert finding.state == "warn"
    assert "torchvision::nms" in finding.found
    assert "(in torchvision)" in finding.found, "the culprit is another one"
    library("pyautoattack.py", "import os; print('noise'); os._exit(0)")
    finding = checks._pyautoattack()
    assert finding.state == "fail"
    assert "ends the process with status 0" in finding.found


def test_an_import_that_never_ends(
    tmp_path: Path, library: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_apart, "LIMIT_S", 1.0)
    library("endless.py", "import time\nwhile True: time.sleep(60)")
    assert checks._fault("endless") == "its import takes more than 1 s"


def test_a_wheel_that_writes_into_another_package_is_named(
    tmp_path: Path, install: Callable[..., Path]
) -> None:
    site = install("torch-intruder", "intruder", "", "", version="3.5.1")
    record = site / "torch_intruder-3.5.1.dist-info" / "RECORD"
    record.write_text("intruder.py,,\nrobustbench/__init__.py,,\nrobustbench/utils.py,,\n")
    finding = found(tmp_path, "robustbench")
    assert finding.state == "warn"
    assert "torch-intruder 3.5.1 wrote" in finding.found
    assert "pip uninstall torch-intruder" in finding.todo


def test_a_check_that_raises_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: Path) -> Disk:
        raise PermissionError("no")

    monkeypatch.setattr(shutil, "disk_usage", unreadable)
    finding = found(tmp_path, "disk")
    assert (finding.state, finding.found) == ("fail", "PermissionError: no")
    assert found(tmp_path, "plugins").state == "ok", "the others go on"


def test_whose_command_it_is(
    tmp_path: Path, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "bin" / "bench"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    script.write_text("from bench.__main__ import main")
    finding = found(tmp_path, "command")
    assert (finding.state, finding.found) == ("ok", f"{script} is purifybench")
    install("other-bench", "otherbench", "", "[console_scripts]\nbench = otherbench:main\n")
    finding = found(tmp_path, "command")
    assert finding.state == "warn"
    assert "other-bench 1.0" in finding.found
    script.write_text("from bench.cli import cli")  # frappe-bench
    finding = found(tmp_path, "command")
    assert finding.state == "fail"
    assert "Uninstall" in finding.todo
    script.unlink()
    assert found(tmp_path, "command").state == "warn"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(10**12, 10**12, 10**8))
    finding = found(tmp_path, "disk")
    assert finding.state == "warn"
    assert "0.1 GB" in finding.found
    assert "--results" in finding.todo


# --- checkpoints ---------------------------------------------------------------------------


def test_a_sound_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    finding = found(tmp_path, "checkpoint")
    assert finding.state == "ok"
    assert checkpoint.stem in finding.subject


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"\x80\x02.", b"cut off"],
    ids=["empty", "page", "pickle", "cut"],
)
def test_a_damaged_checkpoint_is_a_failure_with_an_advice(
    tmp_path: Path, checkpoint: Path, content: bytes, doctor: Callable[[], tuple[int, str]]
) -> None:
    checkpoint.write_bytes(content)
    finding = found(tmp_path, "checkpoint")
    assert finding.state == "fail"
    assert "damaged" in finding.found
    assert "Delete it and its card" in finding.todo
    code, out = doctor()
    assert code == 1
    assert f"-> {finding.todo}" in out


@pytest.mark.parametrize("card", [None, "", "{}", "[]"])
def test_a_checkpoint_without_a_sound_card_is_a_failure(
    tmp_path: Path, checkpoint: Path, card: str | None
) -> None:
    path = checkpoint.with_suffix(".json")
    if card is None:
        path.unlink()
    else:
        path.write_text(card)
    finding = found(tmp_path, "checkpoint")
    assert finding.state == "fail"
    assert finding.todo
    assert "Delete its folder" not in finding.todo, "the folder holds all other checkpoints"


# --- plugins -------------------------------------------------------------------------------


@pytest.fixture
def site(install: Callable[..., Path]) -> Path:
    """A distribution called 'sad-fog' whose plugin is broken on import."""
    broken = "raise RuntimeError('no fog')\n"
    return install(
        "sad-fog", "sad_fog_doctor", broken, "[bench.defenses]\nsad = sad_fog_doctor:Sad\n"
    )


def plugins_of(findings: list[Finding]) -> tuple[Finding, Finding]:
    """Find what is said of the plugin 'sad', and of those that load."""
    named = {finding.subject: finding for finding in findings}
    return named["plugin sad"], named["plugins"]


def all_but_one_load() -> str:
    return f"{sum(len(catalogue(kind)) for kind in KINDS) - 1} load"


@pytest.mark.usefixtures("apart")
def test_a_broken_plugin_is_a_failure_and_the_others_are_counted(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch,
    doctor: Callable[[], tuple[int, str]],
) -> None:  # fmt: skip
    sad, others = plugins_of(checks._plugins())
    assert sad.state == "fail"
    assert "sad-fog 1.0" in sad.found
    assert "no fog" in sad.found
    assert "uninstall" in sad.todo
    assert (others.state, others.found) == ("ok", all_but_one_load())
    monkeypatch.setattr(checks, "import_apart", imported_well)
    monkeypatch.setattr(checks, "_plugins", lambda: [sad, others])
    code, out = doctor()
    assert code == 1
    assert f"fail  {sad.subject} " in out
    assert f"-> {sad.todo}" in out


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("ends", ["raise SystemExit(0)\n", "import os\nos._exit(0)\n"])
def test_a_plugin_that_exits_on_import_does_not_end_the_doctor(site: Path, ends: str) -> None:
    (site / "sad_fog_doctor.py").write_text(ends)
    sad, others = plugins_of(checks._plugins())
    assert sad.state == "fail"
    assert "sad-fog 1.0" in sad.found
    assert others.found == all_but_one_load(), "those after it are looked at, too"


def test_a_name_claimed_twice_is_a_failure(tmp_path: Path, site: Path) -> None:
    (site / "sad_fog-1.0.dist-info" / "entry_points.txt").write_text(
        "[bench.defenses]\njpeg = sad_fog_doctor:Sad\n"
    )
    importlib.invalidate_caches()
    finding = found(tmp_path, "plugin jpeg")
    assert finding.state == "fail"
    assert "sad-fog" in finding.found
    assert "purifybench" in finding.found


def test_the_exit_code_is_0_where_there_are_warnings_alone(
    doctor: Callable[[], tuple[int, str]],
) -> None:
    code, out = doctor()
    assert code == 0
    assert "warn" in out, "MNIST is not in this folder"
