"""Whatever a user gets wrong: one message that says what to do, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.errors import UsageError, unknown_name

from ..command import RUN, TINY, Bench, is_one_clear_message


def run_with(*words: str) -> tuple[str, ...]:
    return (*RUN, "--dry-run", *words)


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
    "a misspelt data set to show": (("show", "mnits"), ("Did you mean 'mnist'?",)),
    "a network of the zoo to show": (("show", "robustbench:Any"), ("RobustBench's own",)),
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
        ("attack.tries = 'many'", "write a whole number")),
    "--set out of range": (run_with("--set=attack.tries=0"),
        ("attack.tries = 0", "greater than or equal to 1")),
    "--set of no value": (run_with("--set=attack.tries="), ("attack.tries", "whole number")),
    "--set of an unknown nested parameter": (
        run_with("--set=classifier.training.epoch=3"),
        ("classifier.training.epoch", "Did you mean 'classifier.training.epochs'?", "batch")),
    "--set of nesting that is not there": (run_with("--set=attack.eot.x=3"),
        ("attack.eot", "write a whole number")),
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
    "missing plan": (("matrix", "missing.yaml"), ("there is no plan missing.yaml", "Check")),
    "a folder for a plan": (("matrix", "."), ("plan", "Is a directory")),
}  # fmt: skip
IMPOSSIBLE = {
    "autoattack by queries": (
        ("--attack=autoattack", "--access=query"),
        ("not supported", "--access transfer or bpda or full"),
    ),
    "a gradient through jpeg": (
        ("--attack=pgd", "--access=full", "--defense=jpeg"),
        ("not supported", "jpeg", "--access bpda"),
    ),
    "autoattack without a ball": (
        ("--attack=autoattack", "--eps=inf"),
        ("not supported", "finite --eps"),
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
    [("run",), ("run", "--defense=none"), ("runs",), ("run", "--n=3"), (*RUN, "-n", "x"),
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
        bench(*RUN, f"--device=cuda:{number}"), "CUDA", "--device cpu", "doctor", code=2
    )


def test_an_error_leaves_the_stdout_of_json_empty(bench: Bench) -> None:
    said = bench(*RUN, "--json", "--attack=pdg")
    assert said.code == 2
    assert said.out == ""


def test_a_file_of_weights_alone_is_told_where_it_belongs(bench: Bench) -> None:
    said = bench("run", "--defense=none", "--attack=noise", "--classifier=net.pth")
    is_one_clear_message(said, "Weights belong to a network: mine.py:Net=net.pth", code=2)


def test_debug_shows_the_traceback(bench: Bench) -> None:
    with pytest.raises(UsageError, match="pdg"):
        bench("--debug", *RUN, "--attack=pdg")


def test_in_a_shell_of_its_own(tmp_path: Path) -> None:
    """The one that the other tests stand for: real argv, real exit code, real stderr."""

    def shell(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    wrong = ("table", "--format=markdown")
    plain, debug = shell(*wrong), shell("--debug", *wrong)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("error: no format is called 'markdown'")
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr


def test_a_near_name_is_offered_and_a_far_one_is_not() -> None:
    assert "Did you mean 'noise'?" in str(unknown_name("attack", "noize", ["noise", "pgd"]))
    assert "Did you mean" not in str(unknown_name("attack", "xyz", ["noise", "pgd"]))
    assert "Known: noise, pgd." in str(unknown_name("attack", "xyz", ["pgd", "noise"]))
    assert "Known: none." in str(unknown_name("attack", "xyz", []))


PLANS: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty": ("", ("plan.yaml", "defenses, attacks and threats", "plans/smoke.yaml")),
    "a list": ("- none\n", ("plan.yaml", "defenses, attacks and threats")),
    "not YAML": ("defenses: [none\n", ("plan.yaml", "not valid YAML", "line 1")),
    "not text": (b"\xff\xfe\x00", ("plan.yaml", "is no text")),
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
        ("5 faults", "plan.yaml: the key 'threats' is missing", "line 4, seeds", "'nne'",
         "attack.stps", "'digit'")),
    "a key that is no text": ("1.5: x\ndefenses: nne\nattacks: noise\nthreats: {eps: 0.1}\n",
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
