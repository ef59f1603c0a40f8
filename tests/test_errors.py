"""Whatever a user gets wrong: one message that says what to do, and never a traceback."""

from __future__ import annotations

import errno
import gzip
import importlib
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench import cli
from bench.errors import UsageError, unknown_name

TINY = ("--set", "classifier.training.epochs=1", "-n", "4")
NOISE = ("run", "--defense=none", "--attack=noise", "--set=attack.tries=1", *TINY)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Bench = Callable[..., Said]


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("BENCH_RESULTS", "BENCH_DATA", "BENCH_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        monkeypatch.setattr(cli, "_shown", [])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Said(code, *capsys.readouterr())

    return run


def is_one_clear_message(said: Said, *parts: str, code: int) -> None:
    assert said.code == code, said
    assert "Traceback" not in said.out + said.err
    assert said.err.count("error: ") == 1
    message = said.err.partition("error: ")[2]
    for part in parts:
        assert part in message
    assert len(message) < 1200, "nobody reads a message of this length"


# --- what argv alone gets wrong ------------------------------------------------------------


def run_with(*words: str) -> tuple[str, ...]:
    return (*NOISE, "--dry-run", *words)


WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown defense": (run_with("--defense=gausian"),
        ("'gausian'", "Did you mean 'gaussian'?", "jpeg")),
    "unknown attack": (run_with("--attack=pdg"),
        ("'pdg'", "Did you mean 'pgd'?", "autoattack")),
    "unknown data set": (run_with("--dataset=mnsit"),
        ("'mnsit'", "Did you mean 'mnist'?", "cifar10")),
    "unknown classifier": (run_with("--classifier=smal_cnn"),
        ("Did you mean 'small_cnn'?", "resnet18")),
    "unknown norm": (run_with("--norm=L1"), ("'L1'", "Linf", "L2")),
    "unknown access": (run_with("--access=qery"), ("'qery'", "Did you mean 'query'?", "bpda")),
    "unknown device": (run_with("--device=tpu"), ("'tpu'", "auto, cpu, cuda")),
    "unsupported device": (run_with("--device=meta"), ("'meta'", "auto, cpu, cuda")),
    "unknown format": (("table", "--format=markdown"), ("'markdown'", "csv", "latex", "md")),
    "unknown listing": (("list", "defences"), ("Did you mean 'defenses'?", "attacks")),
    "unknown plugin to show": (("show", "nones"), ("Did you mean 'none'?", "autoattack")),
    "unknown data set to show": (("show", "none", "--dataset=digit"),
        ("Did you mean 'digits'?",)),
    "unknown defense to train": (("train", "ebn"), ("'ebn'", "Did you mean 'ebm'?")),
    "unknown classifier to train": (("train", "smal_cnn"), ("Did you mean 'small_cnn'?",)),
    "an attack to train": (("train", "pgd"), ("pgd", "nothing to train")),
    "nothing to train": (("train", "jpeg"),
        ("jpeg has nothing to train", "bench run --defense jpeg")),
    "eps in 255ths": (run_with("--eps=8"), ("8", "[0, 1]", "Did you mean 8/255?", "inf")),
    "negative eps": (run_with("--eps=-1"), ("-1", "0 or larger")),
    "negative infinite eps": (run_with("--eps=-inf"), ("-inf", "8/255")),
    "eps in words": (run_with("--eps=abc"), ("'abc'", "8/255", "0.3", "inf")),
    "eps over zero": (run_with("--eps=1/0"), ("'1/0'", "8/255")),
    "eps not a number": (run_with("--eps=nan"), ("'nan'", "8/255")),
    "no eps": (run_with("--eps="), ("''", "8/255")),
    "more images than there are": (run_with("-n", "501"), ("501", "digits", "500")),
    "no images": (run_with("-n", "0"), ("n is 0", "1 or more")),
    "less than no images": (run_with("-n", "-1"), ("n is -1", "1 or more")),
    "no draws": (run_with("--draws=0"), ("draws is 0", "1 or more")),
    "no shard": (run_with("--shard=0"), ("shard is 0", "1 or more")),
    "negative seed": (run_with("--seed=-1"), ("seed is -1", "0 or more")),
    "--set without =": (run_with("--set=attack.tries"), ("attack.tries", "NAME=VALUE")),
    "--set of nothing": (run_with("--set="), ("NAME=VALUE",)),
    "--set of no target": (run_with("--set=tries=3"), ("tries=3", "attack.NAME=VALUE")),
    "--set of an unknown target": (run_with("--set=atack.tries=3"),
        ("atack.tries=3", "attack.NAME")),
    "--set of a whole target": (run_with("--set=attack=3"), ("attack=3", "no parameter")),
    "--set of an unknown parameter": (run_with("--set=attack.tires=3"),
                                      ("attack.tires", "Did you mean 'attack.tries'?", "eot")),
    "--set of the wrong type": (run_with("--set=attack.tries=many"),
        ("attack.tries = 'many'", "integer")),
    "--set out of range": (run_with("--set=attack.tries=0"),
        ("attack.tries = 0", "greater than or equal to 1")),
    "--set of no value": (run_with("--set=attack.tries="), ("attack.tries", "integer")),
    "--set of an unknown nested parameter": (
        run_with("--set=classifier.training.epoch=3"),
        ("classifier.training.epoch", "Did you mean 'classifier.training.epochs'?", "batch")),
    "--set of nesting that is not there": (run_with("--set=attack.eot.x=3"),
        ("attack.eot", "integer")),
    "--set of a number for parameters": (run_with("--set=classifier.training=3"),
                                         ("classifier.training",)),
    "--set against an earlier one": (run_with("--set=attack.tries.x=3"),
        ("tries", "earlier --set")),
    "--set with broken YAML": (run_with("--set=attack.tries=[1"),
        ("attack.tries=[1", "cannot be read")),
    "--set of infinity": (run_with("--defense=gaussian", "--set=defense.sigma=.inf"),
                          ("defense.sigma", "finite")),
    "--set of no number": (run_with("--defense=gaussian", "--set=defense.sigma=.nan"),
        ("defense.sigma",)),
    "several parameters at once": (run_with("--set=attack.tires=3", "--set=attack.eto=3"),
                                   ("attack.tires", "attack.eto")),
    "a data set that the zoo has not": (
        run_with("--classifier=robustbench:Standard"), ("digits", "cifar10", "cifar100")),
    "no results to tabulate": (("table",), ("no results in results", "bench run", "--results")),
    "missing plan": (("matrix", "missing.yaml"), ("missing.yaml", "No such file")),
    "a folder for a plan": (("matrix", "."), ("plan", "Is a directory")),
}  # fmt: skip
IMPOSSIBLE = {
    "autoattack by queries": (
        ("--attack=autoattack", "--access=query"),
        ("cannot work", "--access transfer or bpda or full"),
    ),
    "a gradient through jpeg": (
        ("--attack=pgd", "--access=full", "--defense=jpeg"),
        ("cannot work", "jpeg", "--access bpda"),
    ),
    "autoattack without a ball": (
        ("--attack=autoattack", "--eps=inf"),
        ("cannot work", "finite --eps"),
    ),
}
WORDS |= {
    why: (("run", "--defense=none", *TINY, *words), parts)
    for why, (words, parts) in IMPOSSIBLE.items()
}


@pytest.mark.parametrize(("words", "parts"), WORDS.values(), ids=list(WORDS))
def test_what_a_user_words_wrongly_is_said_at_once(
    bench: Bench, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    is_one_clear_message(bench(*words), *parts, code=2)
    assert list(tmp_path.iterdir()) == [], "nothing is computed or written before it"


@pytest.mark.parametrize(
    "words",
    [("run",), ("run", "--defense=none"), ("runs",), ("run", "--n=3"), (*NOISE, "-n", "x"),
     ("matrix",), ("table", "--wurst-case"), ("--debg",)],
    ids=" ".join,
)  # fmt: skip
def test_a_command_line_that_cannot_be_parsed_is_a_usage_error(
    bench: Bench, words: tuple[str, ...]
) -> None:
    said = bench(*words)
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert "bench" in said.err
    assert "-h" in said.err


def test_a_cuda_device_that_is_not_there(bench: Bench) -> None:
    number = torch.cuda.device_count()
    is_one_clear_message(
        bench(*NOISE, f"--device=cuda:{number}"), "CUDA", "--device cpu", "doctor", code=2
    )


def test_an_error_leaves_the_stdout_of_json_empty(bench: Bench) -> None:
    said = bench(*NOISE, "--json", "--attack=pdg")
    assert said.code == 2
    assert said.out == ""


def test_debug_shows_the_traceback(bench: Bench) -> None:
    with pytest.raises(UsageError, match="pdg"):
        bench("--debug", *NOISE, "--attack=pdg")


def test_in_a_shell_of_its_own(tmp_path: Path) -> None:
    """The one that the other tests stand for: real argv, real exit code, real stderr."""

    def shell(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench.cli", *words]
            if importlib.util.find_spec("bench.__main__")
            else [sys.executable, "-c", "from bench.cli import main; main()", *words],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    plain, debug = shell("show", "nones"), shell("--debug", "show", "nones")
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("error: no defense, attack or classifier is called 'nones'")
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr


def test_a_near_name_is_offered_and_a_far_one_is_not() -> None:
    assert "Did you mean 'noise'?" in str(unknown_name("attack", "noize", ["noise", "pgd"]))
    assert "Did you mean" not in str(unknown_name("attack", "xyz", ["noise", "pgd"]))
    assert "Known: noise, pgd." in str(unknown_name("attack", "xyz", ["pgd", "noise"]))
    assert "Known: none." in str(unknown_name("attack", "xyz", []))


# --- plans ---------------------------------------------------------------------------------

PLANS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty": ("", ("plan.yaml", "defenses, attacks and threats", "plans/smoke.yaml")),
    "a list": ("- none\n", ("plan.yaml", "defenses, attacks and threats")),
    "not YAML": ("defenses: [none\n", ("plan.yaml", "not valid YAML", "line 1")),
    "not text": (b"\xff\xfe\x00", ("plan.yaml", "not valid YAML")),
    "nothing in it": ("defenses: []\nattacks: []\nthreats: []\n",
                      ("3 faults", "defenses", "attacks", "threats")),
    "nothing of it": ("n: 3\n", ("3 faults", "defenses", "attacks", "threats")),
    "unknown key": ("defenses: none\nattacks: noise\nthreats: {eps: 0.1}\ndataset: digits\n",
                    ("dataset", "Did you mean 'datasets'?")),
    "a threat without its name": ("defenses: none\nattacks: noise\nthreats: 8/255\n",
                                  ("threats", "eps")),
    "many faults of form": ("defenses: none\nattacks: noise\nthreats: {eps: 0.1}\n"
                            "n: x\nseeds: y\n",
                            ("2 faults", "n:", "seeds")),
    "many faults of content": (
        "defenses: [nne, none]\nattacks: [{name: pgd, set: {stps: 3}}, noize]\n"
        "threats: [{norm: Linf, eps: 0.1}]\nclassifiers: smal_cnn\ndatasets: digit\n",
        ("'nne'", "attack.stps", "'noize'", "'smal_cnn'", "'digit'")),
    "many faults of threats": (
        "defenses: nne\nattacks: noise\nthreats: [{norm: L3, eps: 0.1}, {eps: 8}]\nn: 0\n",
        ("'L3'", "Did you mean 8/255?", "n is 0", "'nne'")),
    "names beside missing fields": (
        "defenses: nne\nattacks: [{name: pgd, set: {stps: 3}}]\ndatasets: digit\nseeds: y\n",
        ("5 faults", "threats: Field required", "seeds", "'nne'", "attack.stps", "'digit'")),
    "a key that is no text": ("1: x\ndefenses: nne\nattacks: noise\nthreats: {eps: 0.1}\n",
                              ("2 faults", "'nne'")),
    "the same key twice": ("defenses: none\ndefenses: jpeg\nattacks: noise\n"
                           "threats: {eps: 0.1}\n",
                           ("defenses", "twice")),
}  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), PLANS.values(), ids=list(PLANS))
def test_all_faults_of_a_plan_are_said_together_before_anything_runs(
    bench: Bench, tmp_path: Path, text: str | bytes, parts: tuple[str, ...]
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(text if isinstance(text, bytes) else text.encode())
    is_one_clear_message(bench("matrix", "plan.yaml", "--dry-run"), *parts, code=2)
    assert list(tmp_path.iterdir()) == [plan]


# --- the disk ------------------------------------------------------------------------------


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: object) -> None:
        pytest.fail("a training began that could not be kept")

    monkeypatch.setattr("bench_defenses.small_cnn.SmallCnn.start", start)


def test_a_results_folder_that_is_a_file_is_found_before_the_training(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").write_text("mine")
    no_training(monkeypatch)
    is_one_clear_message(bench(*NOISE), "results", "--results", code=1)
    assert (tmp_path / "results").read_text() == "mine"


def test_a_results_folder_that_cannot_be_written_is_found_before_the_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_training(monkeypatch)
    # Not by permissions, which do not bind root.
    is_one_clear_message(bench(*NOISE, "--results=/proc/none/of"), "/proc", "--results", code=1)


def test_a_table_goes_to_no_folder(bench: Bench, tmp_path: Path) -> None:
    bench(*NOISE)
    is_one_clear_message(bench("table", "-o", "."), "cannot write .", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_table_of_another_data_set_says_that_the_filter_left_nothing(bench: Bench) -> None:
    bench(*NOISE)
    is_one_clear_message(bench("table", "--dataset=mnist"), "mnist", "digits", code=2)
    is_one_clear_message(bench("table", "--dataset=digit"), "'digits'", code=2)


def test_a_full_disk_as_the_system_says_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bench(*NOISE)
    monkeypatch.setattr(tempfile, "mkstemp", full)
    said = bench(*NOISE, "--seed=1")
    is_one_clear_message(said, "No space left", "Free some space", "--results", code=1)


@pytest.mark.parametrize("trained", [False, True], ids=["checkpoint", "images"])
def test_a_full_disk_in_the_middle_of_a_file(
    bench: Bench, tmp_path: Path, trained: bool
) -> None:
    """safetensors has an error of its own for a write that fails."""
    if trained:
        bench(*NOISE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        said = bench(*NOISE, "--seed=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    is_one_clear_message(said, "cannot write", "Free some space", code=1)
    assert [path for path in tmp_path.rglob(".*") if path.is_file()] == []
    assert bench(*NOISE, "--seed=1").code == 0, "the same command goes on"


# --- data sets and classifiers from elsewhere ----------------------------------------------


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*args: object, **options: object) -> None:
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10"])
def test_a_data_set_that_is_not_there_and_no_network(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    offline(monkeypatch)
    said = bench(*NOISE, "--json", f"--dataset={dataset}")
    is_one_clear_message(said, "--data", "BENCH_DATA", "raw", "--dataset digits", code=1)
    assert said.out == ""


@pytest.mark.parametrize(
    "content", [b"", b"<html>quota exceeded</html>", gzip.compress(bytes(100))],
    ids=["empty", "a page", "another file"],
)  # fmt: skip
def test_a_damaged_mnist_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    offline(monkeypatch)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(content)
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(content)
    said = bench(*NOISE, "--dataset=mnist")
    is_one_clear_message(said, "ubyte.gz is damaged", "md5", "Delete it", code=1)


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("robustbench", "pip install 'purifybench[robustbench]'"),
        ("pkg_resources", "setuptools"),
    ],
)
def test_robustbench_is_not_installed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, missing: str, line: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name)
    )
    said = bench("run", "--defense=none", "--attack=noise", "--dataset=cifar10",
                 "--classifier=robustbench:Standard")  # fmt: skip
    is_one_clear_message(said, missing, line, code=2)


# --- damaged results -----------------------------------------------------------------------

DAMAGES = {
    "cut off": (lambda whole: whole[:100], "100 bytes"),
    "empty": (lambda whole: b"", "empty"),
    "a web page": (lambda whole: b"<!DOCTYPE html><html>", "HTML page"),
    "a pickle": (lambda whole: b"\x80\x02}q\x00.", "pickle"),
    "a zip of torch.save": (lambda whole: b"PK\x03\x04", "pickle"),
    "one bit": (lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]), "SHA-256"),
}


@pytest.mark.parametrize(("damage", "part"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_checkpoint_is_neither_used_nor_replaced(
    bench: Bench, tmp_path: Path, damage: Callable[[bytes], bytes], part: str
) -> None:
    assert bench("train", "small_cnn", *TINY[:2]).code == 0
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    kept = path.read_bytes()
    is_one_clear_message(bench(*NOISE), path.name, "damaged", part, "Delete it", code=1)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0"}'])
def test_a_damaged_card_of_a_checkpoint(bench: Bench, tmp_path: Path, text: str) -> None:
    assert bench("train", "small_cnn", *TINY[:2]).code == 0
    (card,) = tmp_path.rglob("small_cnn*.json")
    card.write_text(text)
    for said in (bench(*NOISE), bench("show", "small_cnn")):
        is_one_clear_message(said, card.stem, code=1)
        assert "Delete its folder" not in said.err, "that would delete all other checkpoints"


@pytest.mark.parametrize(
    ("name", "content"),
    [("cell.json", "{"), ("cell.json", "{}"), ("cell.json", ""), ("provenance.json", "{}"),
     ("provenance.json", None), ("outcomes.parquet", "PAR1"), ("outcomes.parquet", "")],
)  # fmt: skip
def test_a_damaged_cell(bench: Bench, tmp_path: Path, name: str, content: str | None) -> None:
    assert bench(*NOISE).code == 0
    (path,) = tmp_path.glob(f"results/cells/*/{name}")
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    key = path.parent.name
    for words in (("table",), ("table", "--worst-case"), (*NOISE, "--seed=1")):
        said = bench(*words)
        is_one_clear_message(said, key, code=1)
        assert "Delete" in said.err or "Move the folder away" in said.err


# --- plugins that misbehave ----------------------------------------------------------------

FAKE = '''
import torch
from dataclasses import dataclass
from typing import ClassVar
from bench.api import Access, Calls, Norm

@dataclass(frozen=True)
class Far:
    """Leaves the ball."""
    revision: ClassVar[int] = 1
    norms: ClassVar = (Norm.LINF, Norm.L2)
    accesses: ClassVar = (Access.TRANSFER,)
    unbounded: ClassVar[bool] = False
    by: float = 0.5
    def __call__(self, view, x, y, *, threat, rng):
        return (x + self.by).clamp(0, 1)
    def calls(self, *, stochastic, classes):
        return Calls()

class Short(Far):
    """Returns too few images."""
    def __call__(self, view, x, y, *, threat, rng):
        return x[1:]

class Text(Far):
    """Returns no images."""
    def __call__(self, view, x, y, *, threat, rng):
        return "x"

@dataclass(frozen=True)
class Nan:
    """Returns NaN."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    def purify(self, x, *, rng):
        return x * float("nan")

class Flat(Nan):
    """Changes the shape."""
    def purify(self, x, *, rng):
        return x.flatten(1)

@dataclass(frozen=True)
class Mute:
    """Purifies nothing."""
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

class Plain:
    """Is no dataclass."""

@dataclass(frozen=True)
class Bare:
    """Says nothing of itself."""

def function():
    """Is no class."""
'''
POINTS = """
[bench.attacks]
far = fake_errors:Far
short = fake_errors:Short
text = fake_errors:Text
bare_attack = fake_errors:Bare
[bench.defenses]
nan = fake_errors:Nan
flat = fake_errors:Flat
mute = fake_errors:Mute
plain = fake_errors:Plain
bare = fake_errors:Bare
function = fake_errors:function
absent = fake_errors:Absent
nowhere = fake_errors_nowhere:Absent
broken = fake_errors_broken:Broken
"""


@pytest.fixture
def fakes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution whose plugins misbehave, each in one way."""
    site = tmp_path_factory.mktemp("site")
    info = site / "bad_plugins-3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugins\nVersion: 3.1\n")
    (info / "entry_points.txt").write_text(POINTS)
    (site / "fake_errors.py").write_text(FAKE)
    (site / "fake_errors_broken.py").write_text("raise RuntimeError('no GPU, no import')\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.delitem(sys.modules, "fake_errors", raising=False)
    importlib.invalidate_caches()


PLUGINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "breaks on import": (("--defense=broken",),
                         ("'broken'", "bad-plugins 3.1", "RuntimeError: no GPU,", "Repair")),
    "has no module": (("--defense=nowhere",),
        ("'nowhere'", "bad-plugins 3.1", "No module", "Repair")),
    "has no such class": (("--defense=absent",),
        ("'absent'", "bad-plugins 3.1", "Absent", "Repair")),
    "is no dataclass": (("--defense=plain",),
        ("'plain'", "bad-plugins 3.1", "dataclass", "README")),
    "is no class": (("--defense=function",),
        ("'function'", "bad-plugins 3.1", "dataclass", "README")),
    "has no purify": (("--defense=mute",), ("'mute'", "purify", "README")),
    "says nothing of itself": (("--defense=bare",),
        ("'bare'", "bad-plugins 3.1", "revision", "README")),
    "is no attack": (("--attack=bare_attack",),
                     ("'bare_attack'", "bad-plugins 3.1", "accesses", "README")),
    "returns NaN": (("--defense=nan",), ("NaN", "step size")),
    "changes the shape": (("--defense=flat",), ("purifier returned shape", "keeps the shape")),
    "loses images": (("--attack=short",), ("attack returned shape", "one image for each")),
    "returns text": (("--attack=text",), ("attack returned shape str", "one image for each")),
}  # fmt: skip


@pytest.mark.parametrize(("words", "parts"), PLUGINS.values(), ids=list(PLUGINS))
@pytest.mark.usefixtures("fakes")
def test_a_plugin_that(bench: Bench, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    base = ("run", "--defense=none", "--attack=noise", *TINY)
    is_one_clear_message(bench(*base, *words), *parts, code=1)


@pytest.mark.usefixtures("fakes")
def test_an_attack_that_leaves_the_ball_voids_the_cell_and_fails_the_command(
    bench: Bench,
) -> None:
    said = bench("run", "--defense=none", "--attack=far", *TINY)
    assert said.code == 1
    assert "void" in said.out
    assert "none under far: void: 4 images outside the ball" in said.err


@pytest.mark.parametrize("name", ["broken", "plain", "bare", "absent"])
@pytest.mark.usefixtures("fakes")
def test_a_broken_plugin_is_shown_as_an_error(bench: Bench, name: str) -> None:
    is_one_clear_message(bench("show", name), f"'{name}'", "bad-plugins 3.1", code=1)
