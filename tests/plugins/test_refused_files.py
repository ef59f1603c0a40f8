"""What is wrong with a file is said in one sentence, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..command import Bench, is_one_clear_message, never

SOURCE = '''
import functools
import torch
from torch import nn

NUMBER = 3

class Nothing:
    """Purifies nothing."""

class Needs(nn.Module):
    def __init__(self, other):
        super().__init__()

class Typed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x

class Purifies(nn.Module):
    def purify(self, x):
        return x

class Fails(nn.Module):
    def __init__(self):
        raise OSError("no such folder")

def two(x, other):
    return x

def smaller(x):
    return x[..., 1:]

def broken(x):
    return x + undefined

def purify(x):
    return x

@functools.cache
def late():
    return nn.Conv2d(1, 1, 1)

def hidden(x):
    return late()(x)

def rounds(x):
    return (8 * x).round() / 8

def descends(x):
    x = x.clone().requires_grad_()
    return x - torch.autograd.grad((x ** 2).sum(), x)[0]

def number(shape):
    return 3

def attack(view, x):
    return x

def asks(view, x, y, *, model):
    return x
'''
RUN = ("run", "--dataset=digits", "-n", "4", "--draws=2", "--eps=0.1",
       "--classifier=mine.py:Net", "--attack=noise", "--set=attack.tries=1")  # fmt: skip
NET = """
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize(
    ("option", "parts", "code"),
    [
        ("defense=none.py:purify", ["there is no file none.py", "Did you mean mine.py?"], 2),
        ("defense=mine.py", ["mine.py is a file: name what is in it", "Nothing"], 2),
        ("defense=mine.py:purifi", ["defines no 'purifi'", "Did you mean 'purify'?"], 2),
        ("defense=mine.py:Nothing", ["a class that purifies nothing", "purify(x, *, rng)"], 1),
        ("defense=mine.py:NUMBER", ["is an int, not a purifier", "purify(x, *, rng)"], 1),
        ("defense=mine.py:two", ["takes 'other', which has neither", "purify(x, *, rng)"], 1),
        ("defense=mine.py:Needs", ["takes 'other', which has neither a default"], 1),
        ("defense=mine.py:Typed", ["--set defense.width=VALUE"], 2),
        ("defense=mine.py:Fails", ["OSError: no such folder", "mine.py:"], 1),
        ("defense=mine.py:smaller", ["mine.py:smaller returned shape (4, 1, 8, 7)"], 1),
        ("defense=mine.py:broken", ["NameError: name 'undefined' is not defined"], 1),
        ("defense=mine.py:hidden", ["calls a network (Conv2d) that bench cannot see",
                                    "NET = load()"], 1),
        ("defense=mine.py:descends", ["asks for a gradient of its own",
                                      "with torch.enable_grad()"], 1),
        ("classifier=mine.py:number", ["made an int, not a network", "nn.Module"], 1),
        ("classifier=mine.py:Purifies", ["a purifier, not a classifier", "forward(x)"], 1),
        ("defense=mine.py:purify=w.pth", ["is a function, which has no place for weights"], 1),
        ("classifier=mine.py:NUMBER", ["is an int, not a classifier"], 1),
        ("attack=mine.py:attack", ["other arguments", "attack(view, x, y, *, threat, rng)"], 1),
        ("attack=mine.py:asks", ["takes 'model', which has neither a default"], 1),
        ("attack=mine.py:NUMBER", ["is an int that attacks nothing"], 1),
        ("attack=mine.py:Nothing", ["is a class that attacks nothing"], 1),
    ],
)  # fmt: skip
def test_what_is_no_plugin_is_told(
    bench: Bench, option: str, parts: list[str], code: int
) -> None:
    Path("mine.py").write_text(SOURCE + NET)
    said = bench(*RUN, "--defense=none", f"--{option}")
    is_one_clear_message(said, *parts, code=code)
    assert not list(Path("results").glob("cells/*/outcomes.parquet"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("import torch\n\nraise ValueError('not\\ntoday')", ["ValueError: not (mine.py:3)"]),
        ("def purify(x:\n", ["SyntaxError", "(mine.py:1)"]),
        ("import beside", ["ZeroDivisionError: division by zero (beside.py:2)"]),
        ("import missing_package", ["ModuleNotFoundError", "missing_package", "(mine.py:1)"]),
        ("import sys\nsys.exit(0)", ["SystemExit: 0 (mine.py:2)"]),
    ],
)
def test_a_file_that_cannot_be_loaded_names_the_line(
    bench: Bench, text: str, parts: list[str]
) -> None:
    Path("mine.py").write_text(text)
    Path("beside.py").write_text("\n1 / 0\n")
    said = bench("run", "--defense=mine.py:purify", "--attack=noise", "-n", "2")
    is_one_clear_message(said, "mine.py cannot be loaded", *parts, code=1)


def test_a_purifier_without_a_gradient_is_asked_for_another_access(bench: Bench) -> None:
    Path("mine.py").write_text(SOURCE + NET)
    said = bench(*RUN, "--defense=mine.py:rounds", "--attack=pgd", "--access=full",
                 "--set=attack.steps=1")  # fmt: skip
    assert said.code == 2
    Path("plan.yaml").write_text(
        "defenses: [mine.py:rounds]\nclassifiers: mine.py:Net\nn: 4\ndraws: 2\n"
        "attacks: {name: pgd, set: {steps: 1}}\naccesses: [full, bpda]\nthreats: {eps: 0.1}\n"
    )
    said = bench("matrix", "plan.yaml", "--json")
    assert {row["access"]: row["state"] for row in said.rows} == {
        "full": "skipped",
        "bpda": "done",
    }
    assert "1 done, 1 skipped" in bench("status", "plan.yaml").out


SIZES = """
import torch
from torch import nn

colors = nn.Conv2d(3, 3, 1)
of_cifar = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4096, 10))
odd = nn.Sequential(nn.Flatten(), nn.Linear(77, 10))

def purify(x):
    return colors(x)

def fails(x):
    raise RuntimeError("no energy today")
"""
SIZED = "images (channels, height, width) (1, 8, 8) of digits: it "


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("classifier=mine.py:of_cifar", ["the classifier mine.py:of_cifar fails on " + SIZED,
                                         "takes (3, 32, 32)", "--image-size"]),
        ("classifier=mine.py:odd", ["the classifier mine.py:odd fails on " + SIZED,
                                    "is for another shape (mat1 and mat2"]),
        ("defense=mine.py:purify", ["the defense mine.py:purify fails on " + SIZED,
                                    "takes (3, 8, 8)", "resize"]),
        ("defense=mine.py:fails", ["RuntimeError: no energy today"]),
    ],
)  # fmt: skip
def test_what_is_for_another_size_is_told_before_anything_is_trained(
    bench: Bench, option: str, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch, "bench_defenses.classifiers.small_cnn.SmallCnn.start")
    Path("mine.py").write_text(SIZES)
    rest = RUN if option.startswith("classifier") else [w for w in RUN if "Net" not in w]
    said = bench(*rest, "--defense=none", f"--{option}")
    is_one_clear_message(said, *parts, code=1)


def test_a_combination_without_a_gradient_is_told_before_anything_is_trained(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    never(monkeypatch, "bench_defenses.classifiers.small_cnn.SmallCnn.start")
    Path("mine.py").write_text(SOURCE)
    said = bench("run", "--defense=mine.py:rounds", "--attack=pgd", "--access=full", "-n", "4")
    is_one_clear_message(said, "this combination is not supported", code=2)


def test_a_name_that_no_folder_can_have_is_refused(bench: Bench) -> None:
    Path("-odd&.py").write_text("def purify(x):\n    return x\n")
    said = bench("run", "--defense=./-odd&.py:purify", "--attack=noise", "-n", "2")
    is_one_clear_message(said, "cannot name a result. Rename the file", code=2)
