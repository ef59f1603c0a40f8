"""Learned purifiers: they learn, go on exactly after a stop, and say what they cannot learn."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.api import PluginError, Rng, Task
from bench.data.load import load_train
from bench_defenses.dae import Dae
from bench_defenses.denoisers.training import SpoiledRecipe, SpoiledTraining
from bench_defenses.vae import DefenseVae, Vae, VaeRecipe

TINY: dict[str, Any] = {"iterations": 4, "batch": 8, "width": 4, "ema": 0.5}
PLUGINS = [
    Dae(SpoiledRecipe(**TINY)),
    Dae(SpoiledRecipe(**TINY, spoiled_by="attacks", precision="bfloat16")),
    DefenseVae(VaeRecipe(**TINY, code=8)),
]
each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=["dae", "attacks", "vae"])


@functools.cache
def task() -> Task:
    """Digits; the first 20 "attacked" by gray stripes."""
    train, held_out, _ = load_train("digits", root=Path())
    attacked = train.x[:20].clone()
    attacked[:, :, ::2] = 0.5
    return Task(train, held_out, classes=10, device=torch.device("cpu"), adversarial=attacked)


def ended(run: SpoiledTraining) -> SpoiledTraining:
    while run.step < run.total:
        run.advance()
    return run


@each_plugin
def test_a_run_that_is_stored_and_restored_goes_on_exactly(plugin: Any, tmp_path: Path) -> None:
    whole, run = ended(plugin.start(task())), plugin.start(task())
    before = torch.get_rng_state()
    while run.step < run.total:
        run.advance()
        torch.save(run.state(), tmp_path / "state.pt")
        run = plugin.start(task())
        run.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for name, value in whole.weights().items():
        assert torch.equal(run.weights()[name], value), name
    assert torch.equal(torch.get_rng_state(), before)
    seeded = dataclasses.replace(plugin.training, seed=1)
    other = ended(dataclasses.replace(plugin, training=seeded).start(task()))
    assert not torch.equal(*(next(iter(one.weights().values())) for one in (whole, other)))


@pytest.mark.parametrize("cls", [Dae, DefenseVae])
def test_it_learns_to_be_closer_to_the_clean_image_than_the_noise_leaves_it(cls: Any) -> None:
    shipped = cls().training.__class__(
        **{**cls.recipe("digits")["training"], "spoiled_by": "noise", "iterations": 300}
    )
    plugin = cls(dataclasses.replace(shipped, sigma_min=0.1, sigma_max=0.3))
    run = ended(plugin.start(task()))
    found = run.evaluate()
    assert found["squared error held out"] < 0.8 * found["squared error of the noise"]
    purifier = plugin.load(run.weights(), shape=(1, 8, 8))
    clean = task().validation.x
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    noisy = (clean + 0.3 * noise).clamp(0, 1)
    cleaned = purifier.purify(noisy, rng=Rng.seeded(0, list(range(len(clean)))))
    assert cleaned.min() >= 0
    assert cleaned.max() <= 1
    assert (cleaned - clean).square().mean() < 0.9 * (noisy - clean).square().mean()


def test_noise_and_attacks_spoil_as_the_recipe_says() -> None:
    rows, clean = torch.arange(20), task().train.x[:20]

    def offset(**recipe: Any) -> Tensor:
        run = Dae(SpoiledRecipe(**TINY, **recipe)).start(task())
        x, target = run.spoiled(rows, torch.Generator().manual_seed(0))
        assert torch.equal(target, clean)
        assert x.min() >= 0
        assert x.max() <= 1
        return x - clean

    assert not offset(sigma_min=0.0, sigma_max=0.0).any()
    quiet, loud = (offset(sigma_min=s, sigma_max=s).std() for s in (0.05, 0.3))
    assert 4 < loud / quiet < 7
    moved = offset(sigma_min=0.0, sigma_max=0.0, spoiled_by="attacks")
    assert task().adversarial is not None
    toward = task().adversarial - clean
    share = (moved * toward).flatten(1).sum(1) / toward.square().flatten(1).sum(1)
    assert torch.allclose(moved, share.reshape(-1, 1, 1, 1) * toward, atol=1e-6)
    assert ((share > 0) & (share < 1)).all()
    assert share.std() > 0.1


def test_attacks_are_asked_for_only_where_they_are_learned_from() -> None:
    assert Dae().negatives() is None
    assert not Dae().needs_classifier
    attacked = Dae(SpoiledRecipe(spoiled_by="attacks", eps="0.3", images=7))
    assert attacked.needs_classifier
    wanted = attacked.negatives()
    assert wanted is not None
    assert (wanted.images, wanted.threat.radius) == (7, pytest.approx(0.3))
    assert DefenseVae().negatives() is not None
    unbounded = Dae(SpoiledRecipe(spoiled_by="attacks", eps="inf"))
    with pytest.raises(PluginError, match="finite eps"):
        unbounded.negatives()
    bare = dataclasses.replace(task(), adversarial=None)
    with pytest.raises(PluginError, match="no adversarial images"):
        attacked.start(bare)


def test_only_the_first_images_are_learned_from_where_only_they_are_attacked() -> None:
    run = Dae(SpoiledRecipe(**TINY, spoiled_by="attacks")).start(task())
    seen: list[Tensor] = []
    kept = run.loss
    run.loss = lambda rows, chance: (seen.append(rows), kept(rows, chance))[1]
    ended(run)
    assert torch.cat(seen).max() < 20


def test_draws_of_an_image_share_its_code_and_differ() -> None:
    with torch.random.fork_rng():
        vae = Vae((1, 8, 8), width=4, code=8)
    calls = []
    vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    x, rng = task().train.x[:3], Rng.seeded(0, [0, 1, 2])
    draws = vae.purify_draws(x, rng=rng.repeat(4))
    assert len(calls) == 1
    expected = vae.purify(x.repeat_interleave(4, 0), rng=rng.repeat(4))
    assert torch.allclose(draws, expected, atol=1e-6)
    assert len({tuple(image.flatten().tolist()) for image in draws}) == 12


def test_the_prior_is_the_divergence_from_a_standard_normal() -> None:
    run = DefenseVae(VaeRecipe(**TINY, code=8, kl=2.0)).start(task())
    flat = DefenseVae(VaeRecipe(**TINY, code=8, kl=1.0)).start(task())
    rows = torch.arange(5)
    with torch.no_grad():
        doubled, single = (
            one.loss(rows, torch.Generator().manual_seed(1)) for one in (run, flat)
        )
    x, clean = run.spoiled(rows, torch.Generator().manual_seed(1))
    mean, deviation = run.net.codes(x)
    normal = torch.distributions.Normal
    apart = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0)).sum()
    assert float(doubled - single) == pytest.approx(
        float(apart.detach()) / clean.numel(), rel=1e-4
    )
