"""Published networks with proofs of what can be broken, and their files.

WK17a: Tjeng, Xiao and Tedrake 2019, "Evaluating Robustness of Neural Networks with Mixed
Integer Programming", arXiv 1711.07356: 4.38 % of all test images have an adversarial example,
and no other has. The lists: Zhang et al. 2022, "A Branch and Bound Framework for Stronger
Adversarial Attacks of ReLU Networks": images that gradient attacks failed on, proven breakable
by a mixed-integer solver, or undecided; their attack and certificates decide all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core.networks import frozen
from bench.core.protocols import Images, Pixels
from bench.data.load import load_test
from bench.errors import DataError
from bench.models.published import PublishedFile
from bench.plugins.state_dicts import load_weights


@dataclass(frozen=True)
class ProvenNetwork:
    """A network on ``dataset`` and what is proven of it within ``eps`` (Linf).

    ``wrong``: test images that it mistakes without an attack. ``error``: how many images of the
    whole test set have an adversarial example, those included, where exactly that is proven.
    Otherwise ``breakable`` and ``undecided`` are files that list test images.
    """

    name: str
    dataset: str
    make: Callable[[], nn.Sequential]
    weights: PublishedFile
    eps: Fraction
    wrong: int
    error: int | None = None
    breakable: PublishedFile | None = None
    undecided: PublishedFile | None = None

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """All files that it needs."""
        lists = [file for file in (self.breakable, self.undecided) if file is not None]
        return (self.weights, *lists)


def _wong_kolter() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def _small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(4, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


_MIPVERIFY = "vtjeng/MIPVerify_data", "35578a19"  # repository and commit
_CROWN = "Verified-Intelligence/alpha-beta-CROWN", "8250d5fb"
_LISTS = "complete_verifier/exp_configs/bab_attack/attack_idx"
KNOWN = (
    ProvenNetwork(
        "WK17a", "mnist", _wong_kolter,
        PublishedFile(
            "wk17a_linf0.1.pth",
            "665cce40af979286eabde7ba405af0a3a2575bbe6abbcaddc2c5e6f58621efc3",
            *_MIPVERIFY, "weights/mnist/WK17a/linf0.1/master_seed_1_epochs_100.pth",
        ),
        Fraction(1, 10), wrong=189, error=438,
    ),
    ProvenNetwork(
        "Small-Adv", "mnist", _small,
        PublishedFile(
            "small_adv.pt",
            "171ffe80d82dcc80f28d22d5bafccf570e8d456836a6c02c2c8eaaee51547779",
            *_CROWN, "complete_verifier/models/bab_attack/MadryCNN_no_maxpool_tiny.pt",
        ),
        Fraction(3, 10), wrong=206,
        breakable=PublishedFile(
            "small_adv_unsafe.txt",
            "fd798966bcb2bff9eaafbdfd94b1d513e285d086e3f8de331566fc2d78fd451d",
            *_CROWN, f"{_LISTS}/mnist_MadryCNN_no_maxpool_tiny/mip_unsafe_idx.txt",
        ),
        undecided=PublishedFile(
            "small_adv_unknown.txt",
            "cd22a7ea34c16887dedd2a72731ca72aef63719738ae6774d9ece5428e7d80dd",
            *_CROWN, f"{_LISTS}/mnist_MadryCNN_no_maxpool_tiny/mip_unknown_idx.txt",
        ),
    ),
    ProvenNetwork(
        "CNN-A-Adv", "mnist", _wong_kolter,
        PublishedFile(
            "mnist_cnn_a_adv.pt",
            "3a1dbfc656e45be2cf6e8ae709c43da0fa0f3b71762c8a0842df72868f2b3459",
            *_CROWN, "complete_verifier/models/sdp/mnist_cnn_a_adv.model",
        ),
        Fraction(3, 10), wrong=367,
        breakable=PublishedFile(
            "cnn_a_adv_unsafe.txt",
            "5fe7319d3536a649ed1994468d8016dc2a911eb039fb9327a0e7b02f74cc3d53",
            *_CROWN, f"{_LISTS}/mnist_cnn_a_adv/mip_unsafe_idx.txt",
        ),
        undecided=PublishedFile(
            "cnn_a_adv_unknown.txt",
            "6a510d1bd9d08da6a1f0fd20fcabd3483608fa36d5f0f599397c88b32799216c",
            *_CROWN, f"{_LISTS}/mnist_cnn_a_adv/mip_unknown_idx.txt",
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A known network with its test set and lists, all read and checked.

    ``contradictions``: what the proof excludes and is so all the same, before any attack.
    """

    known: ProvenNetwork
    net: nn.Sequential
    pixels: Pixels
    wrong: frozenset[int]
    breakable: frozenset[int]
    undecided: frozenset[int]
    contradictions: tuple[str, ...]


def opened(known: ProvenNetwork, *, weights: Path, data: Path, device: torch.device) -> Opened:
    """Read a network and its lists; raises DataError or CheckpointError."""
    for file in known.files:
        file.found(weights)
    net = frozen(load_weights(known.make(), weights / known.weights.name)).to(device)
    pixels = load_test(known.dataset, root=data)
    breakable, undecided = (
        _listed(file, weights, len(pixels)) for file in (known.breakable, known.undecided)
    )
    wrong = _wrong(net, pixels, device)
    contradictions = []
    if len(wrong) != known.wrong:
        contradictions.append(
            f"{len(wrong)} images are wrong without an attack, and {known.wrong} should be: "
            "pixels, labels or network are not those of the proof"
        )
    for what, found in (
        ("listed and wrong without an attack", wrong & (breakable | undecided)),
        ("listed as breakable and as undecided", breakable & undecided),
    ):
        if found:
            contradictions.append(f"images {some(found)} are {what}")
    return Opened(known, net, pixels, wrong, breakable, undecided, tuple(contradictions))


def _listed(file: PublishedFile | None, folder: Path, images: int) -> frozenset[int]:
    """Read a list of test images, one a line; raises DataError."""
    if file is None:
        return frozenset()
    try:
        found = [int(word) for word in (folder / file.name).read_text().split()]
    except ValueError as error:
        raise DataError(f"{file.name} lists no image numbers ({error}).") from None
    if found and not 0 <= min(found) <= max(found) < images:
        raise DataError(
            f"{file.name} lists image {max(found)}, and the test set has {images} images: it "
            "is another data set's. Check --weights."
        )
    return frozenset(found)


@torch.no_grad()
def _wrong(net: nn.Module, pixels: Pixels, device: torch.device) -> frozenset[int]:
    found: list[int] = []
    for start in range(0, len(pixels), 1000):
        block = pixels.images(start, min(start + 1000, len(pixels))).to(device)
        found += block.indices[net(block.x).argmax(1) != block.y].tolist()
    return frozenset(found)


@dataclass(frozen=True)
class Chosen(Pixels):
    """Some images of a test set, by their numbers ``chosen`` (N,), which they keep."""

    chosen: Tensor

    @classmethod
    def of(cls, pixels: Pixels, numbers: Iterable[int]) -> Chosen:
        """Choose images by number, in increasing order."""
        chosen = torch.tensor(sorted(numbers), dtype=torch.int64)
        content = hashlib.sha256(pixels.digest.encode() + chosen.numpy().tobytes())
        return cls(pixels.x[chosen], pixels.y[chosen], pixels.top, content.hexdigest(), chosen)

    def images(self, start: int, stop: int) -> Images:
        """Cut a block out and scale it to [0, 1]."""
        block = super().images(start, stop)
        return Images(self.chosen[start:stop], block.x, block.y)


def some(images: Iterable[int]) -> str:
    """Name the first few images."""
    first = sorted(images)
    return ", ".join(map(str, first[:10])) + (", ..." if len(first) > 10 else "")
