"""Attacks against proofs, on planted networks whose answers are known in closed form."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from bench.api import Access, Calls, Norm
from bench.calibration import known, linear_bounds, proven
from bench.calibration.known import KNOWN, ProvenNetwork, PublishedFile, opened
from bench.calibration.linear import largest_gain
from bench.data.load import load_test
from bench.errors import CheckpointError, DataError
from bench.plugins.catalogue import build
from bench.results.progress import finish
from tests.cells import CPU, at
from tests.command import exit_code

EPS = Fraction(1, 20)
ROOT = Path()


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def fitted():
    """Fit a linear classifier of digits to the images after the test images in use."""
    net, pixels = linear(), load_test("digits", root=ROOT)
    x, y = pixels.x.double().flatten(1) / pixels.top, pixels.y
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    ridge = ones.T @ ones + 0.1 * torch.eye(65)
    found = torch.linalg.solve(ridge, ones.T @ (10.0 * nn.functional.one_hot(y, 10).double()))
    net[1].weight.data, net[1].bias.data = found[:64].T.float(), found[64].float()
    return net


def margins(net, x, y, eps):
    """The lowest margin (N,) of each image in ball and box, exactly."""
    weight, bias = net[1].weight.double(), net[1].bias.double()
    flat = x.double().flatten(1)
    logits = flat @ weight.T + bias
    towards = weight[None] - weight[y][:, None]
    gains = largest_gain(towards, flat[:, None].expand_as(towards), Norm.LINF, eps)
    left = logits.gather(1, y[:, None]) - logits - gains
    return left.scatter(1, y[:, None], torch.inf).amin(1).detach()


@pytest.fixture(scope="module")
def answers():
    net, pixels = fitted(), load_test("digits", root=ROOT)
    block = pixels.images(0, len(pixels))
    clean, worst = (margins(net, block.x, block.y, eps) for eps in (0.0, float(EPS)))
    assert float(worst.abs().min()) > 1e-4  # no answer hangs on rounding
    wrong = set((clean < 0).nonzero()[:, 0].tolist())
    breakable = set((worst < 0).nonzero()[:, 0].tolist())
    assert 10 < len(wrong) < len(breakable) < len(pixels) - 10
    return net, wrong, breakable


def planted(folder, answers, *, error=None, breakable=None, undecided=(), **changed):
    """Save the network, and lists where there are some; return what is said of it."""
    net, wrong, _ = answers
    folder.mkdir(exist_ok=True)
    torch.save(net.state_dict(), folder / "net.pt")

    def file(name):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        return PublishedFile(name, digest, "me/nets", "1234", f"nets/{name}")

    lists = {}
    if breakable is not None:
        for name, numbers in (("breakable", breakable), ("undecided", undecided)):
            (folder / f"{name}.txt").write_text("\n".join(map(str, numbers)))
            lists[name] = file(f"{name}.txt")
    said = ProvenNetwork(
        "planted", "digits", linear, file("net.pt"), EPS, len(wrong), error, **lists
    )
    return dataclasses.replace(said, **changed)


@dataclass(frozen=True)
class Corner:
    """The best attack on a linear classifier: the best corner of the ball for each class."""

    revision: ClassVar[int] = 1
    norms: ClassVar[tuple[Norm, ...]] = (Norm.LINF,)
    accesses: ClassVar[tuple[Access, ...]] = (Access.FULL,)
    unbounded: ClassVar[bool] = False

    def __call__(self, view, x, y, *, threat, rng):
        best, least = x.clone(), torch.full((len(x),), torch.inf)
        for target in range(10):
            leaf = x.clone().requires_grad_()
            logits = view(leaf, rng=rng)
            towards = logits[:, target] - logits.gather(1, y[:, None])[:, 0]
            (gradient,) = torch.autograd.grad(towards.sum(), leaf)
            corner = (x + threat.radius * gradient.sign()).clamp(0, 1)
            seen = view(corner, rng=rng).detach()
            margin = seen.gather(1, y[:, None])[:, 0] - seen[:, target]
            better = (margin < least) & (y != target)
            best[better], least[better] = corner[better], margin[better]
        return best

    def calls(self, *, stochastic, classes):
        return Calls(forward=10, backward=10)


@pytest.fixture(autouse=True)
def a_perfect_attack(monkeypatch):
    """Under the name pgd, whose own ascents may follow the wrong rival."""

    def make(kind, name, params):
        return Corner() if name == "pgd" else build(kind, name, params)

    monkeypatch.setattr(proven, "build", make)


def measured(tmp_path, said, names=("pgd",)):
    work = proven.measure(
        weights=tmp_path / "weights", workspace=at(tmp_path), names=names, known=[said]
    )
    return finish(work)


@pytest.fixture(autouse=True)
def bare_only(monkeypatch):
    monkeypatch.setattr(proven, "DEFENSES", proven.DEFENSES[:1])
    monkeypatch.setattr(proven, "_DRAWS", 3)


def test_a_strong_attack_finds_exactly_what_is_proven(tmp_path, answers):
    said = planted(tmp_path / "weights", answers, error=len(answers[2]))
    (row,), (facts,) = measured(tmp_path, said)
    assert (row.broken, row.gap, row.fault) == (len(answers[2]), 0, "")
    assert row.found == row.breakable == len(answers[2]) - len(answers[1])
    assert row.attacked == row.images == facts.images  # cheap: certified images too
    assert facts.certified == facts.images - len(answers[2])


def test_what_is_certified_counts_as_right_without_an_attack(tmp_path, answers, monkeypatch):
    monkeypatch.setattr(proven, "_CHEAP", 0)
    said = planted(tmp_path / "weights", answers, error=len(answers[2]))
    rows, (facts,) = measured(tmp_path, said, ("pgd", "noise"))
    assert [row.attack for row in rows] == ["pgd", "noise", proven.TOGETHER]
    for row in rows:
        assert (row.attacked, row.images) == (len(answers[2]), facts.images)
    strong, weak, both = rows
    assert strong.gap == both.gap == 0 < weak.gap
    assert weak.broken < strong.broken == both.broken


@pytest.mark.parametrize("lie", [-1, -30])
def test_an_error_above_the_proven_one_is_a_violation(tmp_path, answers, lie):
    said = planted(tmp_path / "weights", answers, error=len(answers[2]) + lie)
    rows, _ = measured(tmp_path, said)
    assert f"images break where at most {said.error} can" in rows[0].fault
    (line,) = proven.failures(rows)
    assert line.startswith("pgd on planted behind none:")
    assert "a bug of bench or another network" in line


def test_an_image_that_breaks_and_is_certified_is_a_violation(tmp_path, answers, monkeypatch):
    def generous(net, x, y, eps):
        return torch.ones_like(y, dtype=torch.bool)

    monkeypatch.setattr(proven, "certified", generous)
    said = planted(tmp_path / "weights", answers, error=len(answers[2]))
    (row,), (facts,) = measured(tmp_path, said)
    assert facts.certified == facts.images
    assert f"images {known.some(answers[2])} break and are certified" in row.fault
    assert f"no more than {facts.images - len(answers[2])} can be" in row.fault


def test_pixels_or_labels_that_are_not_those_of_the_proof_are_found_out(tmp_path, answers):
    said = planted(tmp_path / "weights", answers, error=len(answers[2]), wrong=3)
    (row,), _ = measured(tmp_path, said)
    assert "images are wrong without an attack, and 3 should be" in row.fault


def test_lists_say_what_is_found_and_what_nobody_finds(tmp_path, answers):
    _, wrong, breakable = answers
    first, *others = sorted(breakable - wrong)
    solid = min(set(range(50)) - breakable)  # nothing breaks it, and the list says so
    said = planted(
        tmp_path / "weights", answers, breakable=[*others[:4], solid], undecided=[first]
    )
    (row,), (facts,) = measured(tmp_path, said)
    assert (row.found, row.breakable, row.undecided) == (4, 5, 1)
    assert (row.least, row.most, row.broken, row.images) == (5, 6, 5, 6)
    assert row.gap == pytest.approx(100 / 6)
    assert facts.unbroken == (solid,)
    assert facts.certified is None
    assert row.fault == ""


def test_a_list_of_other_images_is_a_violation(tmp_path, answers):
    _, wrong, breakable = answers
    lost, sound = min(wrong), min(breakable - wrong)
    said = planted(tmp_path / "weights", answers, breakable=[lost, sound], undecided=[sound])
    (row,), _ = measured(tmp_path, said)
    assert f"images {lost} are listed and wrong without an attack" in row.fault
    assert f"images {sound} are listed as breakable and as undecided" in row.fault


def test_behind_noise_nothing_is_proven(tmp_path, answers, monkeypatch):
    monkeypatch.setattr(proven, "DEFENSES", (("none", {}), ("gaussian", {"sigma": 0.02})))
    monkeypatch.setattr(proven, "_BEHIND_NOISE", 7)
    _, wrong, breakable = answers
    solid = min(set(range(50)) - breakable)
    few = sorted(breakable - wrong)[:5]
    folder = tmp_path / "weights"
    said = planted(folder, answers, breakable=[*few, solid], undecided=[])
    (bare, noisy), (facts,) = measured(tmp_path, said)
    assert (bare.found, bare.breakable) == (5, 6)
    assert (noisy.images, noisy.breakable) == (6, 6)  # of the provably breakable all
    assert (noisy.most, noisy.gap, noisy.undecided, noisy.fault) == (None, None, None, "")
    assert facts.unbroken == (solid,)  # what breaks with noise only would stay here
    said = planted(folder, answers, error=1)  # a lie, but not of this defense
    (bare, noisy), _ = measured(tmp_path, said)
    assert bare.fault
    assert noisy.fault == ""
    assert (noisy.images, noisy.breakable) == (7, 7)  # those that an attack broke


def test_expensive_attacks_see_only_what_has_an_answer(tmp_path, answers, monkeypatch):
    _, wrong, breakable = answers
    first, second, *_ = sorted(breakable - wrong)
    said = planted(tmp_path / "weights", answers, breakable=[first], undecided=[second])
    monkeypatch.setattr(proven, "_BEARABLE", 15)
    (row,), _ = measured(tmp_path, said)
    assert (row.attacked, row.least, row.most, row.undecided) == (1, 1, 1, 0)


def test_rows_are_not_measured_twice(tmp_path, answers, monkeypatch):
    said = planted(tmp_path / "weights", answers, error=len(answers[2]))
    rows = measured(tmp_path, said)

    def never(*given, **more):
        pytest.fail("done again what was done already")

    monkeypatch.setattr("bench.evaluation.run.propose", never)
    monkeypatch.setattr(proven, "certified", never)
    assert measured(tmp_path, said) == rows


def test_certificates_go_on_where_they_stopped(tmp_path, answers, monkeypatch):
    monkeypatch.setattr(proven, "_BLOCK", 50)
    counted, honest = [], proven.certified

    def counting(net, x, y, eps):
        if len(counted) == 3:
            raise KeyboardInterrupt
        counted.append(len(x))
        return honest(net, x, y, eps)

    said = planted(tmp_path / "weights", answers, error=len(answers[2]))
    monkeypatch.setattr(proven, "certified", counting)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path, said)
    monkeypatch.setattr(proven, "certified", lambda *a: counted.append(0) or honest(*a))
    (row,), (facts,) = measured(tmp_path, said)
    assert len(counted) == -(-facts.images // 50)
    assert row.fault == ""


def test_a_missing_file_and_a_wrong_one_are_rows_that_say_what_to_do(tmp_path, answers):
    folder = tmp_path / "weights"
    said = planted(folder, answers, breakable=[1], undecided=[2])
    (folder / "undecided.txt").write_text("3")
    rows, facts = measured(tmp_path, said)
    assert facts == []
    assert "undecided.txt is not the published file" in rows[0].missing
    (folder / "undecided.txt").unlink()
    rows, _ = measured(tmp_path, said)
    (line,) = proven.failures(rows)
    assert line.startswith("planted: the published file undecided.txt is not there and cannot")
    assert "from github.com/me/nets, commit 1234, nets/undecided.txt, save it" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [("1 two", "lists no image numbers"), ("0 99999", "lists image 99999"), ("-1", "-1")],
)
def test_a_list_that_is_none_is_refused(tmp_path, answers, text, said):
    planted(tmp_path, answers, breakable=[1], undecided=[2])
    (tmp_path / "undecided.txt").write_text(text)
    there = hashlib.sha256(text.encode()).hexdigest()
    one = planted(tmp_path, answers, breakable=[1], undecided=[2])
    (tmp_path / "undecided.txt").write_text(text)
    one = dataclasses.replace(one, undecided=dataclasses.replace(one.undecided, sha256=there))
    with pytest.raises(DataError, match=said):
        opened(one, weights=tmp_path, data=ROOT, device=CPU)


def test_the_command_says_what_it_found_and_its_exit_code_whether_it_can_be(
    tmp_path, answers, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, lie, code in (("honest", 0, 0), ("liar", -1, 1)):
        said = planted(tmp_path / "weights", answers, error=len(answers[2]) + lie)
        monkeypatch.setattr(proven, "KNOWN", (said,))
        words = ["calibrate", "--real", "--attack=pgd", "--json", "--weights=weights"]
        assert exit_code(monkeypatch, *words, f"--output={name}.md") == code
        heard = capsys.readouterr()
        (row,) = json.loads(heard.out)["proven"]
        assert ("can" in row["fault"]) is bool(lie)
        assert ("a bug of bench" in heard.err) is bool(lie)
        text = (tmp_path / f"{name}.md").read_text()
        assert "| planted | 0.05 | none | pgd | full |" in text
        assert said.weights.sha256[:16] in text


def test_of_a_linear_classifier_the_bounds_are_exact(answers):
    net, _, breakable = answers
    block = load_test("digits", root=ROOT).images(0, 200)
    found = linear_bounds.certified(net, block.x, block.y, float(EPS))
    assert set((~found).nonzero()[:, 0].tolist()) == breakable & set(range(200))


REAL = os.environ.get("BENCH_WEIGHTS")


@pytest.mark.skipif(not REAL, reason="BENCH_WEIGHTS names no folder of published weights")
@pytest.mark.parametrize("said", KNOWN, ids=lambda said: said.name)
def test_the_published_networks_are_what_their_proofs_are_about(said):
    data = Path(os.environ.get("BENCH_DATA", "data"))
    try:
        network = opened(said, weights=Path(REAL), data=data, device=CPU)
    except (CheckpointError, DataError) as error:
        pytest.skip(str(error))
    assert network.contradictions == ()
    if said.error is None:
        assert len(network.breakable) == 20
