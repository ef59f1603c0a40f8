"""A search in low precision: near the float32 networks, and never what decides."""

from __future__ import annotations

import dataclasses
import json
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.api import Access, Rng
from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.networks import frozen
from bench.core.passes import count_passes
from bench.core.precision import Lowered, lowered
from bench.data.load import load_test
from bench.errors import PlanError, PluginError
from bench.evaluation.judge import judge
from bench.evaluation.run import Prepared
from bench.experiments.plan import Plan
from bench.plugins.catalogue import build, catalogue
from bench.results.cell import Search
from bench.results.workspace import Workspace
from bench_attacks.pgd import Pgd
from bench_defenses.classifiers.resnet18 import ResNet18Net
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet
from bench_defenses.gaussian import Gaussian
from bench_defenses.none import Identity

from ..cells import about, classifier, langevin, prepared, proposals, rows, seeded
from ..command import TINY, Bench, is_one_clear_message

LOW = torch.bfloat16
ROUNDING = 2**-8  # half of bfloat16's spacing, relative
X = load_test("digits", root=__file__).images(0, 16).x
RNG = Rng.seeded(0, torch.arange(len(X)))


def energy(width: int = 16) -> nn.Module:
    """The shipped architecture with random weights."""
    return seeded(lambda: EnergyNet((1, 8, 8), width=width), torch.float32)


def shipped() -> Defense:
    purifier = LangevinPurifier(energy(), steps=10, step_size=20.0, noise=0.01)
    return Defense(purifier, classifier())


def resnet() -> nn.Module:
    return seeded(lambda: ResNet18Net(1, classes=10, width=8), torch.float32)


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# --- the networks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network", [classifier, resnet, energy], ids=lambda made: made.__name__
)
def test_a_network_says_the_same_up_to_the_rounding_and_not_quite(network: Any) -> None:
    whole = Defense(Identity(), network())
    low = lowered(whole, LOW)
    one, other = whole.classifier(X), low.classifier(X)
    assert other.dtype == torch.float32
    assert {value.dtype for value in low.classifier.parameters()} == {LOW}
    assert not torch.equal(one, other)
    # A rounding per layer, of logits that are sums of terms of their own size.
    assert float((one - other).abs().max()) < 20 * ROUNDING * float(one.abs().max())


def test_what_is_float64_stays_float64() -> None:
    low = lowered(Defense(langevin(torch.float64), classifier(torch.float64)), LOW)
    x = X.double()
    assert low.purify(x, rng=RNG).dtype == low.classify(x).dtype == torch.float64


def test_the_noise_is_the_very_same() -> None:
    """Without the energy's pull both purify alike, to the bit."""
    for purifier in (LangevinPurifier(energy(), steps=3, step_size=0.0, noise=0.1), Gaussian()):
        whole = Defense(purifier, classifier())
        low = lowered(whole, LOW)
        assert torch.equal(low.purify(X, rng=RNG), whole.purify(X, rng=RNG))
    moved = lowered(shipped(), LOW)
    assert not torch.equal(moved.purify(X, rng=RNG), shipped().purify(X, rng=RNG))


def test_derived_purifiers_keep_the_low_energy() -> None:
    whole = shipped()
    low = lowered(whole, LOW)
    for make in (lambda p: p.coarser(3), lambda p: p):
        one, other = make(whole.purifier), make(low.purifier)
        assert isinstance(other.energy, Lowered)
        near = one.purify(X, rng=RNG) - other.purify(X, rng=RNG)
        assert 0 < float(near.abs().max()) < 0.02
    noises = [p.purifier.noise_alone().purify(X, rng=RNG) for p in (whole, low)]
    assert torch.equal(*noises)


def test_the_float32_defense_is_left_as_it_was() -> None:
    whole = shipped()
    before, said = bits(whole), whole.classify(whole.purify(X, rng=RNG))
    low = lowered(whole, LOW)
    with torch.no_grad():
        for value in low.parameters():
            value.zero_()
    after = bits(whole)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(whole.classify(whole.purify(X, rng=RNG)), said)


def test_channels_stay_last_and_nothing_is_trained() -> None:
    low = lowered(Defense(Identity(), resnet()), LOW)
    weights = [value for value in low.parameters() if value.dim() == 4 and value.shape[2] > 1]
    assert weights
    for value in weights:
        assert value.is_contiguous(memory_format=torch.channels_last)
    assert not any(value.requires_grad for value in low.parameters())
    assert not any(module.training for module in low.modules())


# --- gradients -----------------------------------------------------------------------------


GRAY = 0.4 + 0.2 * X  # away from the box, on whose border a rounding more or less decides


def gradient(defense: Defense, access: Access = Access.FULL) -> Tensor:
    leaf = GRAY.clone().requires_grad_()
    y = torch.arange(len(X)) % 10
    logits = view_of(defense, access)(leaf, rng=RNG)
    return torch.autograd.grad(nn.functional.cross_entropy(logits, y), leaf)[0].flatten(1)


def bend(defense: Defense) -> Tensor:
    """What the energy's Hessians do to a vector, over all steps: no identity that hides it."""
    leaf = GRAY.clone().requires_grad_()
    outer = torch.linspace(-1, 1, leaf[0].numel()).reshape(leaf[:1].shape).expand_as(leaf)
    moved = defense.purify(leaf, rng=RNG)
    return (torch.autograd.grad(moved, leaf, outer)[0] - outer).flatten(1)


@pytest.mark.parametrize("what", [gradient, bend], ids=lambda made: made.__name__)
def test_the_exact_gradient_has_the_direction_of_the_float32_one(what: Any) -> None:
    whole = shipped()
    low = lowered(whole, LOW)
    one, other = what(whole), what(low)
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert float(torch.cosine_similarity(one, other).min()) > 0.99
    assert float((one.norm(dim=1) / other.norm(dim=1)).log().abs().max()) < 0.15


def test_the_second_derivative_reaches_the_low_gradient() -> None:
    low = lowered(shipped(), LOW)
    assert not torch.allclose(gradient(low), gradient(low, Access.BPDA), rtol=1e-3)


# --- what strangers build ------------------------------------------------------------------


class Scale(nn.Module):
    """A network of several arguments, with a number that its purifier reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.3))
        self.level = 0.25

    def forward(self, x: Tensor, times: Tensor, *, extra: Tensor) -> dict[str, Tensor]:
        assert x.dtype == extra.dtype == LOW
        assert times.dtype == torch.int64
        return {"out": x * self.weight + extra * times[:, None, None, None]}


class Several(nn.Module):
    """Networks in a list, and one that is held twice."""

    stochastic = False
    differentiable = True

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList([Scale(), Scale()])
        self.plain = [self.networks[0]]

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        network = self.networks[0]
        assert self.plain[0] is network
        times = torch.ones(len(x), dtype=torch.int64)
        out: Tensor = network(x, times, extra=torch.zeros_like(x))["out"]
        return out + network.level


def test_lists_of_networks_several_arguments_and_attributes() -> None:
    low = lowered(Defense(Several(), classifier()), LOW)
    purified = low.purify(X, rng=RNG)
    assert purified.dtype == torch.float32
    assert torch.allclose(purified, 0.3 * X + 0.25, atol=2 * ROUNDING)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = low.purifier.networks[0].nonsense


class Unet(nn.Module):
    """A network as diffusion models call it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.3))

    def forward(self, *, timestep: Tensor, sample: Tensor) -> Tensor:
        assert timestep.dim() == 0
        assert sample.dtype == self.factor.dtype
        return self.factor * sample + timestep


def test_a_network_that_is_called_by_keywords_with_a_step_without_dimensions() -> None:
    whole, step = Unet(), torch.tensor(2)
    for dtype in (torch.float32, torch.float64):
        x = X.to(dtype)
        found = Lowered(whole, LOW)(timestep=step, sample=x)
        assert found.dtype == dtype
        assert torch.allclose(found, 0.3 * x + 2, atol=8 * ROUNDING)


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.ones(64, 10)


def test_a_network_that_cannot_run_so_low_is_named() -> None:
    low = lowered(Defense(Identity(), Stubborn()), LOW)
    with pytest.raises(
        PluginError, match=r"Stubborn cannot run in bfloat16.*Search in float32"
    ):
        low.classify(X)


@pytest.mark.parametrize("holder", ["purifier", "network"])
def test_what_cannot_be_copied_is_told(holder: str) -> None:
    purifier = langevin()
    held = purifier if holder == "purifier" else purifier.energy
    held.lock = threading.Lock()
    with pytest.raises(PluginError, match=r"cannot be copied for a search in bfloat16.*lock"):
        lowered(Defense(frozen(purifier), frozen(classifier())), LOW)


# --- cells ---------------------------------------------------------------------------------


def searching(made: Prepared) -> Prepared:
    cell = dataclasses.replace(made.cell, search=Search.BFLOAT16)
    return dataclasses.replace(made, cell=cell)


def test_the_judge_decides_in_float32(workspace: Workspace) -> None:
    from safetensors.torch import load_file

    made = searching(prepared(n=12, shard=12, eps=Fraction(4, 100)))
    found = rows(made, workspace)
    (path,) = proposals(workspace)
    images = made.pixels.images(0, 12)
    x_adv = load_file(path)["x_adv"]

    def logits(defense: Defense) -> Any:
        return judge(
            defense, images.x, images.y, x_adv, threat=made.cell.threat,
            draws=made.cell.draws, rng=Rng.seeded(0, images.indices).fork("judge"),
        )  # fmt: skip

    again = logits(made.defense)
    for name in ("votes", "clean_votes", "logits", "clean_logits"):
        assert np.array_equal(np.stack(list(found[name])), getattr(again, name).numpy()), name
    assert found["robust"].tolist() == again.robust.tolist()
    assert 0 < found["robust"].sum() < found["clean"].sum()
    low = logits(lowered(made.defense, LOW))  # else it would not matter who judges
    assert not np.array_equal(np.stack(list(found["logits"])), low.logits.numpy())


@pytest.mark.parametrize("access", [Access.FULL, Access.BPDA, Access.TRANSFER])
def test_the_search_sees_low_networks_and_counts_their_passes(
    access: Access, workspace: Workspace
) -> None:
    """Where no image falls both searches make the same passes, on other images."""
    one = prepared(attack=Pgd(steps=3, eot=2), access=access, n=4)
    one = dataclasses.replace(one, defense=Defense(shipped().purifier, classifier()))
    other = searching(one)
    rows(one, workspace)
    rows(other, workspace)
    first, second = proposals(workspace)
    assert first.read_bytes() != second.read_bytes()
    costs = [about(made, workspace) for made in (one, other)]
    assert costs[0]["judge passes"] == costs[1]["judge passes"]
    assert costs[0]["attack passes"].keys() == costs[1]["attack passes"].keys()
    assert ("energy forward" in costs[1]["attack passes"]) == (access is not Access.TRANSFER)


def test_passes_of_one_gradient_are_counted_alike() -> None:
    whole = shipped()
    counts = []
    for defense in (whole, lowered(whole, LOW)):
        with count_passes(defense.networks()) as passes:
            gradient(defense)
        counts.append(dict(passes))
    assert counts[0] == counts[1]
    assert counts[0]["energy backward"] > 0


QUICK = {"steps": 3, "eot": 2, "tries": 3, "queries": 20, "restarts": 1}
ATTACKS = sorted(catalogue("attacks"))


def quick(name: str) -> Any:
    known = {field.name for field in dataclasses.fields(build("attacks", name, {}))}
    chosen = {field: value for field, value in QUICK.items() if field in known}
    return build("attacks", name, chosen)


@pytest.mark.parametrize(
    ("name", "access"),
    [(name, access) for name in ATTACKS for access in quick(name).accesses],
    ids=str,
)
def test_every_attack_searches_in_low_precision(
    name: str, access: Access, workspace: Workspace
) -> None:
    made = searching(prepared(Identity(), quick(name), name="none", access=access, n=2))
    found = rows(made, workspace)
    assert found["legal"].all()
    assert len(found) == 2


def test_a_surrogate_is_of_the_low_networks(workspace: Workspace) -> None:
    attack = build("attacks", "apgd", {"steps": 4, "eot": 2, "surrogate": 2})
    assert rows(searching(prepared(attack=attack, n=4)), workspace)["legal"].all()


# --- commands and plans --------------------------------------------------------------------

RUN = ("run", "--defense=gaussian", "--attack=pgd", "--set=attack.steps=2", "--eps=0.3", *TINY)


def test_a_cell_says_how_it_was_searched_and_is_judged_again(bench: Bench) -> None:
    dry = json.loads(bench(*RUN, "--search=bfloat16", "--dry-run", "--json").out)
    assert dry["cell"]["search"] == "bfloat16"
    assert "search" not in json.loads(bench(*RUN, "--dry-run", "--json").out)["cell"]

    (plain,) = bench(*RUN, "--json").rows
    (low,) = bench(*RUN, "--search=BFloat16", "--json").rows
    assert low["key"] != plain["key"]
    assert "search=bfloat16" in low["settings"].split()
    assert "search" not in plain["settings"]
    assert bench("verify", "--votes").code == 0
    said = bench("judge", low["key"], "--draws=5", "--json")
    assert said.code == 0, said
    new = json.loads(said.out)["rows"][-1]
    assert new["draws"] == 5
    assert "search=bfloat16" in new["settings"].split()

    text = bench("table", "--worst-case", "--format=md").out
    assert text.count("search=bfloat16") == 4, text  # two cells and their worst cases
    rows_of_csv = bench("table", "--worst-case", "--format=csv").out
    notes = ("pgd, pgd search=bfloat16", "pgd search=bfloat16, pgd")
    assert any(f"minimum per image over {note}" in rows_of_csv for note in notes)


def test_a_report_names_the_search(bench: Bench) -> None:
    assert bench(*RUN, "--search=bfloat16").code == 0
    page = bench("report", "--defense=gaussian", "--eps=0.3").out
    assert page.count("search bfloat16") == 1


def test_cells_of_one_search_are_compared(bench: Bench) -> None:
    other = ("run", "--defense=none", *RUN[2:])
    for words in ((*RUN, "--search=bfloat16"), other):
        assert bench(*words).code == 0
    said = bench("compare", "gaussian", "none")
    is_one_clear_message(said, "share no attack", "search=bfloat16", code=2)
    assert bench(*other, "--search=bfloat16").code == 0
    said = bench("compare", "gaussian", "none")
    assert said.code == 0, said
    assert "search=bfloat16" in said.out


def test_a_precision_that_is_none_is_refused(bench: Bench) -> None:
    said = bench(*RUN, "--search=float16")
    is_one_clear_message(said, "'float16'", "Known: bfloat16, float32", code=2)


def plan(**changes: Any) -> Plan:
    return Plan(defenses="none", attacks="noise", threats={"eps": "0.1"}, **changes)


def test_a_plan_has_a_search() -> None:
    assert [one.search for one in plan(search="bfloat16").requests()] == [Search.BFLOAT16]
    assert [one.search for one in plan().requests()] == [Search.FLOAT32]
    with pytest.raises(PlanError, match=r"'half'.*Known: bfloat16, float32"):
        plan(search="half").requests()
