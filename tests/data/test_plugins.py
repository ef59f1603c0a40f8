"""Data sets of plugins: a class that says what there is and loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.data.datasets import check_known, dataset_info
from bench.data.load import load_test, load_train
from bench.errors import BenchError, DataError, PluginError, UsageError

from ..command import Bench

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar
import numpy as np

@dataclass(frozen=True)
class Stripes:
    """Stripes, upright or not."""
    shape: ClassVar = (1, 8, 8)
    classes: ClassVar = 2
    test_images: ClassVar = 20
    train_images: ClassVar = 60

    def load(self, *, root, train):
        (root / ("train" if train else "test")).touch()
        y = np.arange(60 if train else 20) % 2
        x = np.zeros((len(y), 8, 8, 1), np.float32)
        x[y == 0, ::2], x[y == 1, :, ::2] = 1, 1
        return x, y
'''
POINTS = "[bench.datasets]\nstripes = striped:Stripes\n"

Install = Callable[..., Path]


@pytest.fixture
def changed(install: Install) -> Callable[..., None]:
    """Install the plugin with a change to its source."""

    def changed(
        old: str = "", new: str = "", points: str = POINTS, name: str = "striped-x"
    ) -> None:
        assert old in SOURCE
        install(name, "striped", SOURCE.replace(old, new) if old else SOURCE, points)

    return changed


def test_a_plugin_is_a_data_set_as_others_are(
    changed: Callable[..., None], tmp_path: Path
) -> None:
    changed()
    info = dataset_info("stripes")
    assert (info.name, info.shape, info.classes) == ("stripes", (1, 8, 8), 2)
    assert (info.test_images, info.train_images) == (20, 60)
    pixels = load_test("stripes", root=tmp_path)
    images = pixels.images(1, 3)
    assert images.y.tolist() == [1, 0]
    assert images.x[0, 0, 3].tolist() == [1, 0] * 4
    train, held_out, digest = load_train("stripes", root=tmp_path)
    assert (len(train), len(held_out)) == (54, 6)
    assert len(load_test("stripes:validation", root=tmp_path)) == 6
    assert digest != pixels.digest
    assert {path.name for path in tmp_path.iterdir()} == {"train", "test"}, "it is told where"
    assert check_known("stripes") == "stripes"


def test_it_is_listed_and_measured(changed: Callable[..., None], bench: Bench) -> None:
    changed()
    assert "stripes                 Stripes, upright or not." in bench("list", "datasets").out
    said = bench(
        "run", "--dataset=stripes", "--defense=none", "--attack=noise", "-n", "20", "--json",
        "--set=classifier.training.epochs=1", "--set=classifier.width=4", "--data=.",
    )  # fmt: skip
    assert said.code == 0, said
    assert [said.rows[0][name] for name in ("dataset", "state")] == ["stripes", "done"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(1, 8, 8)\n", "[1, 8]\n", r"its shape is \[1, 8\], not \(channels"),
        (
            "classes: ClassVar = 2",
            "classes: ClassVar = 2.0",
            "classes is 2.0 and test_images 20",
        ),
        ("images: ClassVar = 60", "images: ClassVar = -1", "train_images is -1, not a count"),
        ("    test_images: ClassVar = 20\n", "", "does not define test_images"),
        ("@dataclass(frozen=True)", "", "is a class, but no dataclass"),
        ("import numpy", "import nimpy", "cannot be imported: ModuleNotFoundError"),
        ("return x, y", "return x[:9], y[:9]", r"\(9, 1, 8, 8\), but declares \(20, 1, 8, 8\)"),
        ("return x, y", "return x, y + 1", "has the label 2, but declares 2 classes"),
        ("return x, y", "return x", "failed: ValueError: too many values to unpack"),
        ("return x, y", "return x, 1 / 0", r"failed: ZeroDivisionError.*\(striped.py:19\)"),
        (
            "return x, y",
            "return x * 9, y",
            "x of the data set 'stripes' has floats from 0 to 9",
        ),
        ("return x, y", "return x, y[:, None]", r"y of the data set 'stripes' has the shape"),
    ],
)
def test_a_fault_names_the_plugin(
    old: str, new: str, message: str, changed: Callable[..., None], tmp_path: Path
) -> None:
    changed(old, new)
    with pytest.raises((PluginError, DataError), match=message) as caught:
        load_test("stripes", root=tmp_path)
    assert "stripes" in str(caught.value)


def test_a_name_is_claimed_once(
    changed: Callable[..., None], bench: Bench, tmp_path: Path
) -> None:
    changed(points="[bench.datasets]\ndigits = striped:Stripes\n")
    with pytest.raises(PluginError, match="'digits' is one that ships, and a plugin has"):
        dataset_info("digits")
    changed(points="[bench.datasets]\nmy.stripes = striped:Stripes\n", name="other-x")
    with pytest.raises(BenchError, match="has a name that cannot be used"):
        dataset_info("my.stripes")
    assert "not usable: the data set 'my.stripes'" in bench("list", "datasets").err


def test_an_unknown_name_tells_what_there_is(changed: Callable[..., None]) -> None:
    changed()
    for call in (dataset_info, check_known):
        with pytest.raises(UsageError) as caught:
            call("stripe")
        for part in ("Did you mean 'stripes'?", "digits", "file.npz", "folder:PATH", "svhn"):
            assert part in str(caught.value)


def test_an_array_may_be_anything_with_slices(
    changed: Callable[..., None], tmp_path: Path
) -> None:
    """Only slices of what a plugin returns are read: a set may be larger than the memory."""
    changed(
        "        return x, y\n",
        """
        class Lazy:
            shape, dtype, read = x.shape, x.dtype, []
            def __getitem__(self, rows):
                self.read.append(rows)
                return x[rows]
        self.made.append(Lazy())
        return self.made[0], y.tolist()
    made: ClassVar = []
""",
    )
    pixels = load_test("stripes", root=tmp_path)
    import striped

    lazy: Any = striped.Stripes.made[0]
    lazy.read.clear()
    assert pixels.images(4, 6).x.shape == (2, 1, 8, 8)
    assert lazy.read == [slice(4, 6)]
