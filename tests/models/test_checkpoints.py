"""Checkpoints: bytes that are not ours are refused with advice, and never run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.core.defense import read_weights
from bench.errors import CheckpointError
from bench.models.checkpoints import complete, digest, load_checkpoint, save_checkpoint
from bench.results.cell import digest_of
from bench.results.store import Store
from bench_defenses.energies.network import EnergyNet

CARD = {
    "name": "ebm", "revision": 1, "recipe": {"seed": 0}, "dataset": "digits", "data": "00",
    "classifier": None,
}  # fmt: skip


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(30, 20, generator=generator),
        "layer.bias": torch.randn(30, generator=generator),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / f"ebm-{digest_of(CARD)[:8]}.safetensors"
    save_checkpoint(found, weights(), CARD)
    return found


def test_what_is_written_is_read(path: Path) -> None:
    found, hashed = load_checkpoint(path)
    assert found.keys() == weights().keys()
    assert all(torch.equal(found[name], value) for name, value in weights().items())
    card = json.loads(path.with_suffix(".json").read_text())
    assert card == {**CARD, "sha256": hashed}
    assert hashed == hashlib.sha256(path.read_bytes()).hexdigest() == digest(path)
    assert complete(path)
    assert sorted(os.listdir(path.parent)) == [path.with_suffix(".json").name, path.name]


def test_equal_weights_have_equal_digests(path: Path, tmp_path: Path) -> None:
    turned = dict(reversed(weights().items()))
    turned["layer.weight"] = turned["layer.weight"].T.contiguous().T.requires_grad_()
    again = save_checkpoint(tmp_path / "again.safetensors", turned, {"other": "card"})
    assert again == digest(path)
    other = save_checkpoint(tmp_path / "other.safetensors", weights(seed=1), {"name": "ebm"})
    assert other != digest(path)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html>404 Not Found</html>")


def torch_file(path: Path) -> None:
    torch.save({"x": torch.zeros(2), "run": Payload(path.parent / "mark")}, path)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.parent / "mark")))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut, r"\d+ bytes"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "HTML page": (page, "it is an HTML page"),
    "torch.save": (torch_file, "it is a pickle"),
    "pickle": (bare_pickle, "it is a pickle"),
    "other weights": (lambda path: save_file(weights(seed=1), path), r"SHA-256 \w{16} instead"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("vouched", [False, True], ids=["by its card", "by its format"])
def test_a_damaged_file_is_refused_with_advice(damage: str, vouched: bool, path: Path) -> None:
    """``vouched``: the card has the digest of the damaged file, so only the format is left."""
    spoil, said = DAMAGES[damage]
    spoil(path)
    if vouched:
        if damage == "other weights":
            pytest.skip("another checkpoint with its own card is no damage")
        path.with_suffix(".json").write_text(json.dumps({"sha256": digest(path)}))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert str(path) in text
    assert "Delete it and its card and run the command again, or restore" in text
    assert not (path.parent / "mark").exists(), "the payload ran"


def test_the_payload_of_these_tests_would_run(tmp_path: Path) -> None:
    """The tests above show something only because this is so."""
    for make in (torch_file, bare_pickle):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder / "file")
        if make is torch_file:
            torch.load(folder / "file", weights_only=False)
        else:
            pickle.loads((folder / "file").read_bytes())
        assert (folder / "mark").is_dir()


@pytest.mark.parametrize("card", ["missing", "damaged", "of another tool"])
def test_a_card_that_does_not_vouch_is_refused_with_advice(card: str, path: Path) -> None:
    place = path.with_suffix(".json")
    if card == "missing":
        place.unlink()
        assert not complete(path), "a checkpoint without a card is trained again"
    else:
        place.write_text("{" if card == "damaged" else '{"sha512": "0"}')
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert "Delete it and its card and run the command again" in str(caught.value)


def test_a_missing_file_is_refused(path: Path) -> None:
    path.unlink()
    assert not complete(path)
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(path)


def test_a_writer_that_dies_leaves_no_checkpoint_without_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Store(tmp_path).checkpoint("digits", "ebm", digest_of(CARD)[:8])

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bench.models.checkpoints.write_json", die)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, weights(), CARD)
    assert not complete(path)
    save_checkpoint(path, weights(), CARD)
    assert load_checkpoint(path)[1] == digest(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop("head.0.bias"), "Missing key"),
        (lambda found: found.update(stranger=torch.zeros(1)), "Unexpected key"),
        (lambda found: found.update({"head.0.bias": torch.zeros(3)}), "size mismatch"),
        (lambda found: found.clear(), "Missing key"),
    ],
    ids=["missing", "unexpected", "shape", "empty"],
)
def test_foreign_tensors_are_refused_with_advice(
    change: Callable[[dict[str, Tensor]], object], said: str, tmp_path: Path
) -> None:
    found = dict(EnergyNet((1, 8, 8), width=4).state_dict())
    change(found)
    path = tmp_path / f"a-{digest_of(CARD)[:8]}.safetensors"
    save_checkpoint(path, found, CARD)
    loaded, _ = load_checkpoint(path)
    with pytest.raises(
        CheckpointError, match=rf"EnergyNet: {said}.*Train again with"
    ) as caught:
        read_weights(EnergyNet((1, 8, 8), width=4), loaded)
    assert "\n" not in str(caught.value)


def test_weights_that_fit_are_read_to_the_bit() -> None:
    one, other = nn.Linear(20, 30), nn.Linear(20, 30)
    read = read_weights(other, one.state_dict())
    assert read is other
    assert all(torch.equal(one.state_dict()[k], v) for k, v in other.state_dict().items())


class Wrapped(nn.Module):
    """A network with a part that is called as DataParallel calls its own."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 3)
        self.other = nn.Linear(2, 3)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 3), Wrapped], ids=["plain", "wrapped"])
def test_what_torch_wraps_around_a_network_is_taken_off_its_names(
    make: Callable[[], nn.Module], prefix: str
) -> None:
    one, other = make(), make()
    given = {f"{prefix}{name}": tensor for name, tensor in one.state_dict().items()}
    read_weights(other, given)
    for name, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_many_names_that_differ_are_cut_short() -> None:
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))
    with pytest.raises(
        CheckpointError, match=r"Missing.*\.\.\..*Unexpected.*strange"
    ) as caught:
        read_weights(deep, {f"strange.{k}": torch.zeros(1) for k in range(300)})
    assert len(str(caught.value)) < 1000
