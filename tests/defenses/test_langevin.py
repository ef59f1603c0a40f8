"""The Langevin purifier against plain autograd, finite differences and its own promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from bench.core.access import view_of
from bench.core.defense import Defense
from bench.core.rng import Rng
from bench.core.threat import Access
from bench_defenses.energies.langevin import LangevinPurifier, LangevinStep, energy_gradient
from bench_defenses.energies.network import EnergyNet

N, SHAPE = 3, (1, 8, 8)
RNG = Rng.seeded(0, range(N))


def smooth(width: int = 4) -> nn.Module:
    """The shipped network with large random weights, so that its Hessian matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = EnergyNet(SHAPE, width=width).double()
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.2)
    return net.requires_grad_(False)


class Piecewise(nn.Module):
    """A piecewise linear energy: its Hessian is zero wherever it exists."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Flatten(),
                nn.Linear(256, 1),
            ).double()
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        energy: Tensor = self.layers(x).squeeze(1)
        return energy


class Head(nn.Module):
    """A smooth classifier of three classes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(torch.randn(64, 3, generator=generator).double())

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight / 8).tanh()


def images(low: float = 0.0, high: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(N, *SHAPE, generator=generator, dtype=torch.float64)
    return low + (high - low) * x


def purifier(energy: nn.Module, *, steps: int = 4, noise: float = 0.05) -> LangevinPurifier:
    return LangevinPurifier(energy, steps=steps, step_size=0.2, noise=noise)


def unrolled(purify: LangevinPurifier, x: Tensor, *, rng: Rng) -> Tensor:
    """The algorithm written down once more, for autograd to go through."""
    for k in range(purify.steps):
        (slope,) = torch.autograd.grad(purify.energy(x).sum(), x, create_graph=True)
        x = x - purify.step_size * slope + purify.noise * rng.fork("langevin", k).normal_like(x)
        x = x.clamp(0.0, 1.0)
    return x


def weights_of(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_value_and_gradient_are_those_of_the_unrolled_loop(steps: int, noise: float) -> None:
    purify = purifier(smooth(), steps=steps, noise=noise)
    ours, theirs = images().requires_grad_(), images().requires_grad_()
    found, expected = purify.purify(ours, rng=RNG), unrolled(purify, theirs, rng=RNG)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    at_border = ((expected == 0) | (expected == 1)).double().mean()
    assert 0 < at_border < 0.5 or noise == 0, "the case does not exercise the clamp"
    (gradient,) = torch.autograd.grad((found * weights_of(found)).sum(), ours)
    (wanted,) = torch.autograd.grad((expected * weights_of(found)).sum(), theirs)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-10)
    straight = weights_of(found) * ((expected > 0) & (expected < 1))
    assert not torch.allclose(gradient, straight, atol=1e-3), "the Hessian does not matter here"


@pytest.mark.parametrize("steps", [1, 4])
def test_the_gradient_is_that_of_finite_differences(steps: int) -> None:
    purify = purifier(smooth(), steps=steps, noise=0.01)
    x = images(0.2, 0.8)
    leaf = x.clone().requires_grad_()
    found = purify.purify(leaf, rng=RNG)
    (gradient,) = torch.autograd.grad((found * weights_of(x)).sum(), leaf)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        toward = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        ahead, behind = (purify.purify(x + h * toward, rng=RNG) for h in (1e-6, -1e-6))
        measured = ((ahead - behind) * weights_of(x)).flatten(1).sum(1) / 2e-6
        assert torch.allclose((gradient * toward).flatten(1).sum(1), measured, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4])
def test_draws_that_share_their_first_gradient_are_the_draws_of_repeated_images(
    steps: int,
) -> None:
    purify, draws = purifier(smooth(), steps=steps, noise=0.05), 3
    many = RNG.repeat(draws)
    shared, apart = images().requires_grad_(), images().requires_grad_()
    found = purify.purify_draws(shared, rng=many)
    expected = purify.purify(apart.repeat_interleave(draws, dim=0), rng=many)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(found[::draws], found[1::draws], atol=1e-2), "one noise for all"
    assert ((found == 0) | (found == 1)).any(), "the case does not exercise the clamp"
    (gradient,) = torch.autograd.grad((found * weights_of(found)).sum(), shared)
    (wanted,) = torch.autograd.grad((expected * weights_of(found)).sum(), apart)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-10)


def test_one_step_is_the_first_of_many() -> None:
    purify = purifier(smooth(), steps=1)
    once = purify.step(images(), rng=RNG.fork("langevin", 0))
    assert torch.equal(once, purify.purify(images(), rng=RNG))


def test_a_pixel_that_the_box_stops_has_no_gradient() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * x.square().flatten(1).sum(1)  # its gradient is x, its Hessian 1

    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).reshape(1, 1, 1, 3).requires_grad_()
    noise = torch.tensor([-0.5, 0.0, 0.5], dtype=torch.float64).reshape(1, 1, 1, 3)
    moved = LangevinStep.apply(x, noise, Flat(), 0.1)
    assert moved.flatten().tolist() == pytest.approx([0.0, 0.45, 1.0])
    (gradient,) = torch.autograd.grad(moved.sum(), x)
    assert gradient.flatten().tolist() == pytest.approx([0.0, 0.9, 0.0])


class Zero(nn.Module):
    """No energy at all: what moves is the noise alone."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1).sum(1)


class Stuck(LangevinPurifier):
    """A purifier with the fault that the next test is there to find."""

    def purify(self, x: Tensor, *, rng: Rng) -> Tensor:
        for _ in range(self.steps):
            x = self.step(x, rng=rng.fork("langevin", 0))
        return x


def noises(kind: type[LangevinPurifier]) -> list[Tensor]:
    """The noise that each step added, read off the energy's arguments."""
    seen: list[Tensor] = []
    energy = Zero()
    energy.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    made = kind(energy, steps=6, step_size=1.0, noise=1e-3)
    end = made.purify(images(0.3, 0.7), rng=RNG)
    states = [*seen, end]
    return [after - before for before, after in itertools.pairwise(states)]


def fresh(steps: list[Tensor]) -> bool:
    """Whether the steps' noises are uncorrelated, image by image."""
    flat = torch.stack(steps).transpose(0, 1).flatten(2)  # (N, K, pixels)
    return all(
        bool((torch.corrcoef(image) - torch.eye(len(steps))).abs().max() < 0.6)
        for image in flat.double()
    )


def test_every_step_has_noise_of_its_own() -> None:
    steps = noises(LangevinPurifier)
    assert len(steps) == 6
    assert fresh(steps)
    spread = torch.stack(steps).std()
    assert spread == pytest.approx(1e-3, rel=0.1)
    assert not fresh(noises(Stuck)), "the check finds no noise that is used twice"


def test_the_noise_belongs_to_the_image_and_not_to_the_batch() -> None:
    purify, x = purifier(smooth()), images()
    whole = purify.purify(x, rng=RNG)
    last = purify.purify(x[2:], rng=RNG[2:])
    assert torch.allclose(whole[2:], last, rtol=0, atol=1e-12)
    assert not torch.allclose(whole[:1], purify.purify(x[:1], rng=RNG[1:2]), atol=1e-3)


@pytest.mark.parametrize(("noise", "stochastic"), [(0.0, False), (0.01, True)])
def test_it_is_stochastic_where_it_has_noise(noise: float, stochastic: bool) -> None:
    made = purifier(smooth(), noise=noise)
    assert made.stochastic is stochastic
    one, other = (made.purify(images(), rng=Rng.seeded(seed, range(N))) for seed in (0, 1))
    assert torch.equal(one, other) is not stochastic


def test_memory_holds_one_state_a_step_and_no_activation() -> None:
    pixels = images().numel()
    for width, steps in [(4, 5), (16, 5), (4, 10)]:
        run = purifier(smooth(width), steps=steps)
        # The energy's own graph is built and freed within a step: it would be counted if it
        # were kept, so only what lives after the step is asked for below.
        x = images().requires_grad_()
        end = run.purify(x, rng=RNG)
        states = held(end)
        assert states <= (steps + 1) * pixels
        assert held(unrolled(run, images().requires_grad_(), rng=RNG)) > 10 * states


def held(end: Tensor) -> int:
    """Count the elements of all distinct tensors that the graph behind a result holds."""
    stack, nodes, storages = [end.grad_fn], set(), {}
    while stack:
        node = stack.pop()
        if node is None or node in nodes:
            continue
        nodes.add(node)
        stack += [parent for parent, _ in node.next_functions]
        names = [name for name in dir(node) if name.startswith("_saved_")]
        found = [getattr(node, name) for name in names] + list(
            getattr(node, "saved_tensors", ())
        )
        for value in found:
            for tensor in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(tensor, Tensor):
                    storages[tensor.untyped_storage().data_ptr()] = tensor.numel()
    return sum(storages.values())


def gradient_through(energy: nn.Module, access: Access, *, noise: float = 0.01) -> Tensor:
    view = view_of(Defense(purifier(energy, noise=noise), Head()), access)
    x = images(0.3, 0.7).requires_grad_()
    (gradient,) = torch.autograd.grad(view(x, rng=RNG)[:, 0].sum(), x)
    return gradient


def test_the_full_gradient_of_a_smooth_energy_is_not_that_of_bpda() -> None:
    full, bpda = (gradient_through(smooth(), access) for access in (Access.FULL, Access.BPDA))
    assert (full - bpda).norm() > 0.05 * full.norm()


def test_the_full_gradient_of_a_piecewise_linear_energy_is_exactly_that_of_bpda() -> None:
    full, bpda = (
        gradient_through(Piecewise(), access) for access in (Access.FULL, Access.BPDA)
    )
    assert torch.equal(full, bpda)
    assert full.abs().max() > 0


def test_the_energy_gradient_is_each_images_own_and_leaves_no_graph() -> None:
    energy, x = smooth(), images()
    slope = energy_gradient(energy, x)
    assert not slope.requires_grad
    assert not x.requires_grad
    alone = torch.cat([energy_gradient(energy, x[i : i + 1]) for i in range(N)])
    assert torch.allclose(slope, alone, rtol=0, atol=1e-10)
    with torch.no_grad():
        assert torch.equal(energy_gradient(energy, x), slope)


@pytest.mark.parametrize(("factor", "steps"), [(2, 4), (3, 3), (7, 1), (50, 1)])
def test_a_coarser_process_goes_as_far_on_as_much_noise(factor: int, steps: int) -> None:
    fine = purifier(smooth(), steps=7, noise=0.05)
    coarse = fine.coarser(factor)
    assert coarse.energy is fine.energy
    assert coarse.steps == steps
    assert coarse.steps * coarse.step_size == pytest.approx(7 * 0.2)
    assert coarse.steps * coarse.noise**2 == pytest.approx(7 * 0.05**2)


def test_a_coarser_process_of_a_constant_drift_is_the_same() -> None:
    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0.1 * x.flatten(1).sum(1)

    fine = LangevinPurifier(Slope(), steps=7, step_size=0.2, noise=0.0)
    x = images(0.3, 0.9)
    coarse = fine.coarser(3)
    assert not coarse.stochastic
    torch.testing.assert_close(coarse.purify(x, rng=RNG), fine.purify(x, rng=RNG))


def test_inference_mode_changes_nothing() -> None:
    energy = EnergyNet((1, 8, 8), width=2).eval()
    defense = Defense(LangevinPurifier(energy, steps=2, step_size=5.0, noise=0.05), Head())
    x, streams = torch.rand(3, 1, 8, 8), Rng.seeded(0, range(3))
    with torch.no_grad():
        plain = defense.purify(x, rng=streams)
    with torch.inference_mode():
        inside = defense.purify(x.clone(), rng=streams)
    assert torch.equal(plain, inside)
