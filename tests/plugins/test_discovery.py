"""A stranger's distribution: found without being imported, used, and broken only for itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.plugins.catalogue import blocked, catalogue, summary

from ..command import NOISE, RUN, TINY, Bench

# What the README asks of a stranger: a defense in twenty lines.
FOGGY = '''
"""Fog."""
import pathlib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from bench.api import Rng

pathlib.Path(__file__).with_name("imported").touch()

@dataclass(frozen=True)
class Foggy:
    """Pull every pixel towards gray.

    And more lines that the listing leaves out.
    """
    share: Annotated[float, Field(ge=0, le=1)] = 0.25
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        """Return foggy images (N, C, H, W)."""
        return x + self.share * (0.5 - x)
'''


@pytest.fixture
def foggy(install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    return install(
        "fog-bench", "fog_bench", FOGGY, "[bench.defenses]\nfoggy = fog_bench:Foggy\n"
    )


def test_a_plugin_is_listed_by_its_first_line_and_not_imported(
    bench: Bench, foggy: Path
) -> None:
    said = bench("list", "defenses")
    assert said.code == 0
    (line,) = [line for line in said.out.splitlines() if "foggy" in line]
    assert line.split(maxsplit=1) == ["foggy", "Pull every pixel towards gray."]
    assert "jpeg" in said.out
    assert "fog_bench" not in sys.modules
    assert not (foggy / "imported").exists()


@pytest.mark.parametrize(
    ("line", "head"),
    [("", "  others:"), ("    kind: ClassVar[str] = 'learned'\n", "  learned:"),
     ("    kind = 'weather'\n", "  weather:"), ("    kind = 3\n", "  others:")],
)  # fmt: skip
def test_a_plugin_is_listed_under_its_kind_or_under_others(
    bench: Bench, install: Callable[..., Path], line: str, head: str
) -> None:
    source = FOGGY.replace("    revision", f"{line}    revision")
    site = install("fog-kind", "fog_kind", source, "[bench.defenses]\nfoggy = fog_kind:Foggy\n")
    lines = bench("list", "defenses").out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if "foggy" in line]
    assert [line for line in lines[:place] if line.endswith(":")][-1] == head
    assert not (site / "imported").exists()


def test_a_plugin_inside_a_package_is_listed_without_importing_the_package(
    bench: Bench, install: Callable[..., Path]
) -> None:
    """Where a package's __init__ imports torch or fails, `bench list` must not wait or hide."""
    site = install(
        "deep-fog", "unused", "", "[bench.defenses]\ndeep = deep_fog.weather.fog:Foggy\n"
    )
    (site / "deep_fog" / "weather").mkdir(parents=True)
    for folder in (site / "deep_fog", site / "deep_fog" / "weather"):
        (folder / "__init__.py").write_text(
            "import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n"
        )
    (site / "deep_fog" / "weather" / "fog.py").write_text(FOGGY)
    assert "Pull every pixel towards gray." in bench("list", "defenses").out
    assert list(site.rglob("imported")) == []
    for name in ("deep_fog", "deep_fog.weather", "deep_fog.weather.fog"):
        sys.modules.pop(name, None)


def test_another_plugin_is_run_without_importing_this_one(bench: Bench, foggy: Path) -> None:
    assert bench(*RUN).code == 0
    assert not (foggy / "imported").exists()


def test_a_plugin_is_shown_with_its_parameters(bench: Bench, foggy: Path) -> None:
    said = bench("show", "foggy")
    assert said.code == 0, said.err
    assert "foggy (defense, fog_bench.Foggy)" in said.out
    assert "Pull every pixel towards gray." in said.out
    assert "defense.share" in said.out
    assert "= 0.25" in said.out
    assert "deterministic" in said.out
    assert (foggy / "imported").exists()


@pytest.mark.usefixtures("foggy")
def test_a_plugin_is_run_with_parameters_under_every_access(bench: Bench) -> None:
    for access in ("query", "transfer"):
        said = bench("run", "--defense=foggy", *NOISE, f"--access={access}", "--json",
                     "--set=defense.share=1.0")  # fmt: skip
        assert said.code == 0, said.err
        (row,) = json.loads(said.out)
        assert (row["defense"], row["state"], row["access"]) == ("foggy", "done", access)
        assert "defense.share=1.0" in row["settings"]
        # All images are the same gray, hence the same class: at most a few are right.
        assert row["clean"] == row["robust"]
    said = bench("run", "--defense=foggy", "--attack=pgd", *TINY, "--access=full", "--json",
                 "--set=attack.steps=2")  # fmt: skip
    assert said.code == 0, said.err


@pytest.mark.usefixtures("foggy")
def test_parameters_are_part_of_the_cell(bench: Bench) -> None:
    run = ("run", "--defense=foggy", *NOISE, "--dry-run", "--json")
    outlines = [
        json.loads(bench(*run, *more).out)
        for more in ((), ("--set=defense.share=0.25",), ("--set=defense.share=0.5",))
    ]
    keys = [outline["key"] for outline in outlines]
    assert keys[0] == keys[1] != keys[2]
    assert outlines[0]["cell"]["defense"]["params"] == {"share": 0.25}


@pytest.mark.parametrize(
    ("setting", "part"),
    [("share=2", "less than or equal to 1"), ("share=fog", "number"),
     ("shar=0.1", "Did you mean 'defense.share'?")],
)  # fmt: skip
@pytest.mark.usefixtures("foggy")
def test_parameters_are_checked(bench: Bench, setting: str, part: str) -> None:
    said = bench("run", "--defense=foggy", *NOISE, f"--set=defense.{setting}")
    assert said.code == 2
    assert part in said.err


@pytest.mark.parametrize("name", ["foggy", "jpeg"], ids=["two strangers", "one of ours"])
def test_a_name_claimed_twice_blocks_that_name_only_and_names_both_owners(
    bench: Bench, install: Callable[..., Path], foggy: Path, name: str
) -> None:
    install("smog", "smog", FOGGY, f"[bench.defenses]\n{name} = smog:Foggy\n", version="2.5")
    owner = "fog-bench 1.0" if name == "foggy" else "purifybench"
    said = bench("list")
    assert said.code == 0
    assert "  nl_means " in said.out
    assert f"  {name} " not in said.out
    assert said.err.count("not usable: ") == 1
    for words in (("run", f"--defense={name}", *NOISE), ("show", name), ("train", name)):
        failed = bench(*words)
        assert failed.code == 1
        for text in (failed.err, said.err):
            assert f"'{name}'" in text
            assert owner in text
            assert "smog 2.5" in text
            assert "rename" in text
        assert "Traceback" not in failed.err
    assert bench(*RUN).code == 0
    assert list(blocked("defenses")) == [name]
    assert blocked("attacks") == {}


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "na.me", "x" * 101])
def test_a_name_that_no_file_could_have_blocks_itself_only(
    bench: Bench, install: Callable[..., Path], name: str
) -> None:
    install("smog", "smog", FOGGY, f"[bench.defenses]\n{name} = smog:Foggy\n")
    assert name not in catalogue("defenses")
    said = bench("run", f"--defense={name}", *NOISE)
    assert said.code == 1
    assert "smog 1.0 has a name that cannot be used" in said.err
    assert "jpeg" in catalogue("defenses")


def test_a_name_may_stand_for_an_attack_and_for_a_defense(
    bench: Bench, install: Callable[..., Path]
) -> None:
    install("fog-noise", "fog_noise", FOGGY, "[bench.defenses]\nnoise = fog_noise:Foggy\n")
    said = bench("show", "noise")
    assert said.code == 0
    assert "noise (defense, " in said.out
    assert "noise (attack, " in said.out
    assert bench("run", "--defense=noise", *NOISE).code == 0


def test_the_same_distribution_seen_twice_is_no_conflict(
    install: Callable[..., Path], foggy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable install beside a wheel's metadata says the same thing twice."""
    monkeypatch.setattr(sys, "path", [*sys.path, f"{foggy}/../fog-bench"])
    assert "foggy" in catalogue("defenses")


BROKEN = {
    "a syntax error": "def (:\n",
    "an import that is missing": "import no_such_package_at_all\n",
    "an exception": FOGGY + "\nraise RuntimeError('no fog today')\n",
    "an empty file": "",
    "a null byte": "\0",
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin_breaks_only_itself_and_loudly(
    bench: Bench, install: Callable[..., Path], source: str
) -> None:
    install("sad-fog", "sad_fog", source, "[bench.defenses]\nsad = sad_fog:Foggy\n")
    listed = bench("list")
    assert listed.code == 0
    assert "  sad " in listed.out
    assert "jpeg" in listed.out
    assert bench(*RUN).code == 0
    assert bench("show", "jpeg").code == 0
    for words in (("run", "--defense=sad", *NOISE), ("show", "sad")):
        said = bench(*words)
        assert said.code == 1
        assert said.err.count("error: ") == 1
        assert "the defense 'sad' of sad-fog 1.0 cannot be imported" in said.err
        assert "Repair or uninstall" in said.err
        assert "Traceback" not in said.err


def test_a_broken_plugin_is_marked_in_the_listing(install: Callable[..., Path]) -> None:
    install("sad-fog", "sad_fog", "def (:\n", "[bench.defenses]\nsad = sad_fog:Foggy\n"
            "gone = no_such_module:Foggy\n")  # fmt: skip
    found = catalogue("defenses")
    assert "bench doctor" in summary(found["sad"])
    assert "bench doctor" in summary(found["gone"])


def test_a_plugin_that_exits_on_import_is_an_error_like_others(
    bench: Bench, install: Callable[..., Path]
) -> None:
    """sys.exit at module level would end bench silently, with a code of the plugin's choice."""
    source = FOGGY + "\nraise SystemExit(0)\n"
    install("exit-fog", "exit_fog", source, "[bench.defenses]\nexits = exit_fog:Foggy\n")
    said = bench("run", "--defense=exits", *NOISE)
    assert said.code == 1
    assert "exit-fog 1.0" in said.err


LINEAR = """
from dataclasses import dataclass, field
from typing import Annotated, ClassVar
from pydantic import Field
from torch import nn
from bench.api import read_weights
from bench_defenses.classifiers.small_cnn import SmallCnn

@dataclass(frozen=True)
class Linear(SmallCnn):
    "A linear classifier."
    def load(self, weights, *, shape, classes):
        return super().load(weights, shape=shape, classes=classes)
"""


def linear_in(*groups: str) -> str:
    return "\n".join(f"[bench.{group}]\nlinear = lin_bench:Linear" for group in groups)


def test_a_plugin_with_a_classifier_of_its_own_is_trained_once(
    bench: Bench, install: Callable[..., Path]
) -> None:
    install("lin-bench", "lin_bench", LINEAR, linear_in("classifiers"))
    run = ("run", "--defense=none", "--classifier=linear", *NOISE, "--json")
    said = bench(*run)
    assert said.code == 0, said.err
    (row,) = json.loads(said.out)
    assert row["classifier"] == "linear"
    assert len(list(Path("results/checkpoints/digits").glob("linear-*.safetensors"))) == 1


@pytest.mark.filterwarnings("default::bench.errors.OldNameWarning")
def test_a_classifier_in_the_old_group_still_runs_and_its_author_is_told_what_to_rename(
    bench: Bench, install: Callable[..., Path]
) -> None:
    install("lin-bench", "lin_bench", LINEAR, linear_in("models"))
    listed = bench("list", "classifiers")
    assert "A linear classifier." in listed.out
    (warned,) = listed.err.splitlines()
    for part in ("warning: ", "'linear'", "lin-bench 1.0", "bench.models", "bench.classifiers"):
        assert part in warned
    said = bench("run", "--defense=none", "--classifier=linear", *NOISE, "--json")
    assert said.code == 0, said.err
    assert said.rows[0]["classifier"] == "linear"


def test_a_classifier_in_both_groups_is_one_without_a_warning(
    install: Callable[..., Path],
) -> None:
    """So one release of a package works with old and new versions of bench."""
    install("lin-bench", "lin_bench", LINEAR, linear_in("models", "classifiers"))
    assert catalogue("classifiers")["linear"].group == "bench.classifiers"
