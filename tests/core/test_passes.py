"""Counted passes, exactly: by hand for each access, and against the estimate of the cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.eot import averaged_gradient
from bench.core.losses import cross_entropy
from bench.core.passes import count_passes
from bench.core.rng import Rng
from bench.core.threat import Access, Norm, ThreatModel
from bench.evaluation.judge import judge
from bench.experiments.attack_order import estimate
from bench.experiments.prepare import resolve
from bench.results.cell import Request
from bench_attacks.pgd import Pgd
from bench_defenses.energies.langevin import LangevinPurifier
from bench_defenses.energies.network import EnergyNet

N, K = 3, 4  # images, steps of the purifier
RNG = Rng.seeded(0, range(N))


@pytest.fixture(autouse=True)
def _same_networks() -> Iterator[None]:
    """Networks of fresh weights, the same in every run: some leave no image on a border."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(N, 1, 8, 8, generator=generator), torch.arange(N)


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def langevin(steps: int = K) -> Defense:
    energy = EnergyNet((1, 8, 8), width=2)
    purifier = LangevinPurifier(energy, steps=steps, step_size=1.0, noise=0.01)
    return Defense(purifier, classifier())


class Denoiser(nn.Module):
    """A purifier that is one pass of one network."""

    stochastic = False
    differentiable = True

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3, padding=1)

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        cleaned: Tensor = self.net(x)
        return cleaned


def per_image(counts: Mapping[str, int]) -> dict[str, float]:
    return {name: count / N for name, count in counts.items()}


def passes_of_a_gradient(defense: Defense, access: Access) -> dict[str, float]:
    x, y = images()
    with count_passes(defense.networks()) as counts:
        leaf = x.requires_grad_()
        logits = view_of(defense, access)(leaf, rng=RNG)
        torch.autograd.grad(cross_entropy(logits, y).sum(), leaf)
    return per_image(counts)


def test_a_forward_pass() -> None:
    defense = langevin()
    with count_passes(defense.networks()) as counts, torch.no_grad():
        view_of(defense, Access.FULL)(images()[0], rng=RNG)
    assert per_image(counts) == {
        "energy forward": K, "energy backward": K, "classifier forward": 1,
    }  # fmt: skip


def test_a_gradient_of_bpda_forgets_the_purifier() -> None:
    assert passes_of_a_gradient(langevin(), Access.BPDA) == {
        "energy forward": K, "energy backward": K,
        "classifier forward": 1, "classifier backward": 1,
    }  # fmt: skip


def test_a_full_gradient_replays_each_step_and_differentiates_it_twice() -> None:
    assert passes_of_a_gradient(langevin(), Access.FULL) == {
        "energy forward": 2 * K, "energy backward": 3 * K,
        "classifier forward": 1, "classifier backward": 1,
    }  # fmt: skip


def test_a_transfer_gradient_sees_the_classifier_alone() -> None:
    assert passes_of_a_gradient(langevin(), Access.TRANSFER) == {
        "classifier forward": 1, "classifier backward": 1,
    }  # fmt: skip


def test_a_purifier_of_one_network() -> None:
    bpda = {"net forward": 1, "classifier forward": 1, "classifier backward": 1}
    assert passes_of_a_gradient(Defense(Denoiser(), classifier()), Access.BPDA) == bpda
    full = {**bpda, "net backward": 1}
    assert passes_of_a_gradient(Defense(Denoiser(), classifier()), Access.FULL) == full


def test_a_leaf_of_many_calls_is_not_counted_twice() -> None:
    net = classifier()
    x = images()[0].requires_grad_()
    with count_passes({"net": net}) as counts:
        total = sum((net(x).sum() for _ in range(5)), torch.zeros(()))
        torch.autograd.grad(total, x)
    assert per_image(counts) == {"net forward": 5, "net backward": 5}


def test_only_what_is_differentiated_counts_as_backward() -> None:
    net = classifier()
    x = images()[0].requires_grad_()
    with count_passes({"net": net}) as counts:
        used, _unused = net(x), net(x)
        torch.autograd.grad(used.sum(), x)
        with torch.no_grad():
            net(x)
    assert per_image(counts) == {"net forward": 3, "net backward": 1}


def test_counting_changes_no_value_and_ends_with_its_block() -> None:
    defense = langevin()
    x, y = images()

    def gradient() -> Tensor:
        view = view_of(defense, Access.FULL)
        return averaged_gradient(view, x, y, loss=cross_entropy, draws=2, rng=RNG).gradient

    plain = gradient()
    with count_passes(defense.networks()) as counts:
        assert torch.equal(gradient(), plain)
    before = dict(counts)
    assert before["classifier forward"] == 2 * N
    gradient()
    assert dict(counts) == before


def test_an_error_ends_the_counting_too() -> None:
    net = classifier()
    with pytest.raises(RuntimeError), count_passes({"net": net}):
        net(torch.rand(1, 3))
    assert not net._forward_pre_hooks


@pytest.mark.parametrize("access", [Access.FULL, Access.BPDA, Access.TRANSFER])
@pytest.mark.parametrize(("eps", "restarts"), [("0", 2), ("8/255", 1)])
def test_the_estimate_of_pgd_is_exact_while_no_image_leaves(
    access: Access, eps: str, restarts: int
) -> None:
    """PGD drops images that are done after every tenth step, and before every restart."""
    request = Request.parse(
        defense="ebm", attack="pgd", eps=eps, access=access.value, n=N, draws=5,
        settings={
            "defense": {"steps": K}, "attack": {"steps": 3, "eot": 2, "restarts": restarts}
        },
    )  # fmt: skip
    plugins = resolve(request)
    defense = langevin()
    x, view = images()[0], view_of(defense, access)
    with torch.no_grad():
        y = view(x, rng=RNG).argmax(1)
    with count_passes(defense.networks()) as attacked:
        proposed = plugins.attack(view, x, y, threat=plugins.threat, rng=RNG)
    expected = estimate(plugins)
    assert per_image(attacked) == shared(expected["attack"], 2)
    with count_passes(defense.networks()) as judged:
        judge(defense, x, y, proposed, threat=plugins.threat, draws=5, rng=RNG)
    assert per_image(judged) == shared(expected["judge"], 5)


def shared(passes: dict[str, int], draws: int) -> dict[str, float]:
    """Take the first of K steps once for all draws of an image."""
    part = (draws * (K - 1) + 1) / (draws * K)
    return {n: count * part if n.startswith("energy") else count for n, count in passes.items()}


def test_images_that_leave_make_it_cheaper_than_the_estimate() -> None:
    defense = langevin(steps=1)
    x, _ = images()
    with torch.no_grad():
        seen = defense.classifier(x).argmax(1)
    pgd = Pgd(steps=25, eot=1)
    threat = ThreatModel(Norm.LINF, Fraction(0), Access.TRANSFER)
    with count_passes(defense.networks()) as counts:
        pgd(view_of(defense, Access.TRANSFER), x, (seen + 1) % 10, threat=threat, rng=RNG)
    assert per_image(counts) == {"classifier forward": 10, "classifier backward": 10}
    bound = pgd.calls(stochastic=False, classes=10)
    assert (bound.forward, bound.backward) == (1, 25)
