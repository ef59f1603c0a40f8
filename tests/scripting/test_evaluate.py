"""`bench.api.evaluate`: the rows of the command line, for objects that have no name."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import api
from bench.core.isolation import generator_states
from bench.core.threat import Norm
from bench.evaluation import run as evaluation
from bench.results.files import read_json
from bench.scripting.row import Row
from bench_attacks.noise import Noise
from bench_defenses.bit_depth import BitDepth

from ..cells import assert_equal, classifier
from ..command import Bench, never
from ..data.own import digits

FAST: dict[str, Any] = {"attack": "noise", "eps": "0.1", "draws": 3, "shard": 3,
                        "settings": {"attack": {"tries": 1}}, "progress": False}  # fmt: skip
PGD: dict[str, Any] = {
    **FAST, "attack": "pgd", "access": "full", "settings": {"attack": {"steps": 2, "eot": 1}},
}  # fmt: skip
N = 6


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("BENCH_RESULTS", "BENCH_DATA", "BENCH_ZOO", "BENCH_MODELS"):
        monkeypatch.delenv(name, raising=False)


class Noisy(nn.Module):
    """Adds noise, after a convolution that changes nothing."""

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        self.sigma = sigma
        self.same = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.same.weight)
        nn.init.zeros_(self.same.bias)

    def forward(self, x: Tensor, *, rng: api.Rng) -> Tensor:
        return self.same(x) + self.sigma * rng.normal_like(x)


def by_itself(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def images(n: int = N) -> tuple[Tensor, Tensor]:
    x, y = digits(n)
    return torch.tensor(x)[:, None] / 255, torch.tensor(y)


def row(purifier: Any = None, net: Any = None, **options: Any) -> Row:
    return api.evaluate(purifier, net or classifier(), *images(), **{**FAST, **options})


def cell(found: Row) -> dict[str, Any]:
    return read_json(Path("results", "cells", found.key, "cell.json"))


MINE = """
import torch
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
from bench.api import Rng

with torch.random.fork_rng():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

@dataclass(frozen=True)
class Shaken:
    sigma: float = 0.1
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def purify(self, x, *, rng: Rng):
        return x + self.sigma * rng.normal_like(x)
"""


def test_a_file_an_entry_point_and_an_object_have_the_same_rows(
    bench: Bench, install: Callable[..., Path]
) -> None:
    site = install("mine", "mine", MINE, "[bench.defenses]\nshaken = mine:Shaken\n")
    import mine

    options = {**PGD, "dataset": "digits", "n": N}
    settings = {**PGD["settings"], "defense": {"sigma": 0.3}}
    ours = api.evaluate(mine.Shaken(0.3), mine.net, **{**options, "settings": PGD["settings"]})
    assert cell(ours)["defense"]["name"] == "shaken"
    held = api.evaluate(mine.Shaken(0.3).purify, mine.net, **options)
    by_name = api.evaluate(f"{site}/mine.py:Shaken", f"{site}/mine.py:net",
                           **{**options, "settings": settings})  # fmt: skip
    words = ("run", f"--classifier={site}/mine.py:net", "--attack=pgd", "--access=full",
             "--eps=0.1", "--draws=3", "--shard=3", "-n", str(N), "--set=attack.steps=2",
             "--set=attack.eot=1", "--set=defense.sigma=0.3", "--json")  # fmt: skip
    in_file = bench(*words, f"--defense={site}/mine.py:Shaken").rows[0]
    assert by_name.key == in_file["key"]
    installed = bench(*words, "--defense=shaken").rows[0]
    for key in (in_file["key"], installed["key"], held.key):
        assert_equal(ours.outcomes, Row(key, ours.question).outcomes)


def test_what_has_a_name_is_the_cell_of_the_command_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bench("run", "--defense=bit_depth", "--set=defense.bits=2", "--attack=noise",
                 "--set=attack.tries=1", "--set=classifier.training.epochs=1", "-n", str(N),
                 "--draws=3", "--json")  # fmt: skip
    never(monkeypatch, "bench.evaluation.run.judge")
    found = api.evaluate(
        BitDepth(bits=2), dataset="digits", attack=Noise(tries=1), n=N, draws=3, progress=False,
        settings={"classifier": {"training": {"epochs": 1}}},
    )  # fmt: skip
    assert found.key == said.rows[0]["key"]


def test_images_are_the_same_in_every_form() -> None:
    x, y = digits(N)
    net = classifier()
    forms = [(x, y), (x[..., None], list(y)), (torch.tensor(x), torch.tensor(y)),
             (x[:, None] / np.float32(255), y.astype(np.uint8))]  # fmt: skip
    rows = [api.evaluate(by_itself, net, a, b, **PGD).outcomes for a, b in forms]
    for other in rows[1:]:
        assert_equal(rows[0], other)


@pytest.mark.parametrize(
    ("purifier", "name", "flags"),
    [
        (None, "none", ()),
        (Noisy(), "python:Noisy", ()),
        (Noisy, "python:Noisy", ()),
        (Noisy().forward, "python:forward", ()),
        (by_itself, "python:by_itself", ("noise by block",)),
        (lambda x: x, "python:lambda", ()),
        ("median", "median", ()),
    ],
)
def test_what_can_be_a_purifier(purifier: Any, name: str, flags: tuple[str, ...]) -> None:
    found = row(purifier)
    assert cell(found)["defense"]["name"] == name
    assert found.flags == flags
    assert found.state == "done"


def attack(view: api.View, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
    return (x + eps).clamp(0, 1)


class Logits:
    def __init__(self) -> None:
        self.net = classifier()

    def of(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_functions_and_methods_are_classifiers_and_attacks() -> None:
    one = row(Noisy(), attack=attack, settings=None)
    assert (cell(one)["attack"]["name"], one.state) == ("python:attack", "done")
    other = row(Noisy(), Logits().of, attack=attack, settings=None)
    assert cell(other)["classifier"]["checkpoint"]
    assert_equal(one.outcomes, other.outcomes)


def test_what_is_the_callers_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # then a CPU gets one thread
    purifier, net = Noisy().train(), classifier().train()
    net.requires_grad_(True)
    things = [*purifier.parameters(), *net.parameters(), *net.buffers()]
    before = [(t.clone(), t.stride(), t.requires_grad, t.grad) for t in things]
    modes = [module.training for module in (*purifier.modules(), *net.modules())]
    torch.set_num_threads(2)
    random.seed(3)
    states = generator_states()
    try:
        row(purifier, net, **PGD).show([0])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert generator_states() == states
    assert modes == [module.training for module in (*purifier.modules(), *net.modules())]
    for now, (values, stride, grad, none) in zip(things, before, strict=True):
        assert torch.equal(now, values)
        assert (now.stride(), now.requires_grad, now.grad) == (stride, grad, none)


def test_other_weights_values_or_images_are_another_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [row(Noisy()).key, row(Noisy(0.2)).key]
    heavier = Noisy()
    nn.init.constant_(heavier.same.weight, 2.0)
    keys.append(row(heavier).key)
    net = classifier()
    with torch.no_grad():
        next(net.parameters()).mul_(1.5)
    keys.append(row(Noisy(), net).key)
    x, y = images()
    keys.append(api.evaluate(Noisy(), classifier(), x, 9 - y, **FAST).key)
    assert len(set(keys)) == len(keys)
    never(monkeypatch, "bench.evaluation.run.judge")
    assert row(Noisy()).key == keys[0]


def test_what_was_interrupted_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = row(by_itself, results="whole").outcomes
    judged: list[int] = []
    judge = evaluation.judge

    def interrupted(*args: Any, **options: Any) -> Any:
        judged.append(len(judged))
        if len(judged) == 2:
            raise KeyboardInterrupt
        return judge(*args, **options)

    monkeypatch.setattr(evaluation, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        row(by_itself)
    found = row(by_itself)
    assert len(judged) == 3  # the second shard again, and not the first
    assert_equal(found.outcomes, whole)


def test_a_row_says_what_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    found = row(Noisy(), **{**PGD, "progress": True})
    assert "python:Noisy under pgd: 0/6 images" in capsys.readouterr().err
    outcomes = found.outcomes
    assert found.robust == pytest.approx(100 * outcomes["robust"].mean(), abs=0.01)
    assert found.clean == pytest.approx(100 * outcomes["clean"].mean(), abs=0.01)
    assert found.interval[0] <= found.robust <= found.interval[1]
    for text in (repr(found), found._repr_html_()):
        assert "python:Noisy" in text
        assert f"{found.robust:.1f}" in text
    assert list(found.to_pandas()["key"]) == [found.key]
    stages = found.images()
    distance = (stages["attacked"] - stages["clean"]).abs().amax((1, 2, 3))
    np.testing.assert_allclose(distance, outcomes["distance"], atol=1e-6)
    assert torch.equal(found.images([4, 1])["attacked"], stages["attacked"][[4, 1]])
    assert found.show([0, 5]).png.startswith(b"\x89PNG")


def test_a_void_row_has_no_number() -> None:
    def far(view: api.View, x: Tensor, y: Tensor) -> Tensor:
        return (x + 0.5) % 1

    found = row(Noisy(), attack=far, settings=None)
    assert found.state == "void"
    assert all(np.isnan(number) for number in (found.robust, found.clean, *found.interval))
    for text in (repr(found), found._repr_html_()):
        assert "void" in text
        assert "nan" not in text.lower()
    assert "%" not in repr(found)


def test_judge_draws_again_on_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    found = row(Noisy(), **PGD)
    never(monkeypatch, "bench_attacks.pgd.Pgd.__call__")
    again = api.judge(found, draws=7, progress=False)
    assert again.outcomes["votes"].map(sum).eq(7).all()
    assert torch.equal(again.images()["attacked"], found.images()["attacked"])
    rounded = api.judge(found, bits=3, progress=False).images()["attacked"] * 7
    assert torch.allclose(rounded, rounded.round(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"dataset": "digits"}, "give the images x"),
        ({"eps": 0.03137254901960784}, "Did you mean 8/255?"),
        ({"settings": {"purifier": {}}}, "'purifier' are not known"),
        ({"settings": {"attack": {"stepz": 1}}}, "attack.stepz is no parameter"),
        ({"attack": "nois"}, "Did you mean 'noise'?"),
        ({"attack": "python:mine"}, "object of a script"),
        ({"attack": 3}, "attacks nothing"),
        ({"purifier": 3}, "not a purifier"),
        ({"net": 3}, "not a classifier"),
        ({"purifier": lambda x: x[:1], "attack": "pgd", "access": "bpda"}, "returned shape"),
        ({"purifier": lambda x: exit(3)}, "SystemExit: 3"),
    ],
)
def test_errors_are_sentences(options: dict[str, Any], part: str) -> None:
    with pytest.raises(api.BenchError) as error:
        row(**{"settings": None, **options})
    assert part in str(error.value)


def test_images_out_of_range_and_labels_without_a_class() -> None:
    x, y = images()
    for images_, labels, part in (
        (2 * x, y, "x has floats"), (x, y + 20, "only 10 classes"), (x, y[:3], "3,"),
    ):  # fmt: skip
        with pytest.raises(api.BenchError, match=part):
            api.evaluate(None, classifier(), images_, labels, **FAST)
    with pytest.raises(api.BenchError, match="no image 9"):
        row().images([9])


def test_a_network_that_would_change_is_refused() -> None:
    class Hidden:
        def __init__(self, net: nn.Module) -> None:
            self.clean = lambda x: net(x)  # a closure is not copied with its object

        def purify(self, x: Tensor) -> Tensor:
            return self.clean(x)

    with pytest.raises(api.PluginError, match="Hold it as an attribute"):
        row(Hidden(nn.Conv2d(1, 1, 1)))


def test_commands_read_the_cells_of_a_script_and_say_what_they_lack(bench: Bench) -> None:
    found = row(Noisy(), **PGD)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bench.audit.run.CHECKS", ())
        patched.setattr("bench.audit.run._accuracy", lambda *_: None)
        audited = api.audit(
            Noisy(), classifier(), *images(), eps="0.1", draws=3, progress=False
        )
    assert (audited.state, audited.findings, len(audited.to_pandas())) == ("stands", (), 0)
    assert audited.verdict in repr(audited)
    assert "<table" in audited._repr_html_()
    for words in (("table",), ("report", "--defense=python:Noisy", "--eps=0.1",
                               f"--dataset={found.question.request.dataset}")):  # fmt: skip
        said = bench(*words)
        assert said.code == 0, said
        assert "python:Noisy" in said.out
    said = bench("verify", "results", "--votes")
    assert said.code == 0, said
    assert "0 wrong" in said.out
    assert "no command has them" in said.out
    for words in (("judge", found.key, "--draws=5"),
                  ("run", "--defense=python:Noisy", "--attack=noise"),
                  ("audit", "--defense=python:Noisy")):  # fmt: skip
        said = bench(*words)
        assert said.code == 2, said
        assert "bench.api" in said.err


def test_l2_and_a_bound_of_none() -> None:
    assert row(norm="L2", eps=0.5).question.request.norm is Norm.L2
    assert cell(row(attack="noise", eps=1))["eps"] == "1"
