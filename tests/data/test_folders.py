"""Data sets in folders: torchvision's order and sizes, one block in memory, faults in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.datasets import dataset_info
from bench.data.load import load_test, load_train
from bench.errors import DataError, UsageError

from .own import digits, save_folder

X, Y = digits()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of three sizes: a landscape, a portrait and a square of two classes."""
    chance = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "val" / label).mkdir(parents=True)
        for number, size in enumerate([(30, 21), (16, 37), (24, 24)]):
            pixels = chance.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / label / f"{number}.png")
    return tmp_path / "val"


def load(name: str | Path, first: int = 0) -> Any:
    return load_test(f"folder:{name}", root=Path("nowhere"), first=first)


def test_gray_images_have_one_channel_and_others_three(tmp_path: Path) -> None:
    gray = load(save_folder(tmp_path / "gray", X, Y))
    expected = torch.from_numpy(X)[:, None].float() / 255
    assert torch.equal(gray.images(0, 20).x, expected)
    assert torch.equal(gray.images(5, 9).x, expected[5:9])
    assert gray.y.tolist() == sorted(gray.y.tolist())
    assert dataset_info(f"folder:{tmp_path}/gray").shape == (1, 8, 8)
    colour = load(save_folder(tmp_path / "colour", X, Y, mode="RGB"))
    assert torch.equal(colour.images(0, 20).x, expected.expand(-1, 3, -1, -1))
    # One image in colour makes all of them RGB, as many a photo of ImageNet is gray.
    Image.fromarray(X[0]).convert("RGB").save(tmp_path / "gray" / "00" / "0.png")
    mixed = load(tmp_path / "gray").images(1, 21).x
    assert torch.equal(mixed, expected.expand(-1, 3, -1, -1))


def test_order_and_labels_are_those_of_image_folder(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = tmp_path / "val"
    names = [
        "b/10.png", "b/9.png", "b/Z.PNG", "b/sub/1.png", "b/sub/a/1.jpg", "a/x.jpeg", "a/é.bmp",
        "B/1.ppm", "10/1.png", "9/1.webp", "9/1.tif",
        *(f"b/{part}/1.png" for part in "qzkxcvm"),  # a file system has an order of its own
    ]  # fmt: skip
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number * 9, np.uint8)).save(root / name)
    (root / "b" / "notes.txt").write_text("no image")
    (root / "LICENSE").write_text("no class")
    theirs = ImageFolder(str(root))
    pixels = load(root)
    assert pixels.y.tolist() == [label for _, label in theirs.samples]
    assert dataset_info(f"folder:{root}").classes == len(theirs.classes) == 5
    for number, (image, _) in enumerate(theirs):
        ours = pixels.images(number, number + 1).x[0] * 255
        assert np.array_equal(ours.round().byte()[0], np.asarray(image)[..., 0])
    # What a file manager leaves behind is neither a class nor an image.
    (root / ".thumbs").mkdir()
    (root / "b" / "._10.png").write_bytes(b"\0\5")
    assert load(root).digest == pixels.digest


def test_resized_images_are_those_of_torchvision(photos: Path) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    for size in (16, 21, 40):
        steps = Compose([Resize(size), CenterCrop(size), PILToTensor()])
        theirs = torch.stack([x for x, _ in ImageFolder(str(photos), steps)])
        ours = load(f"{photos}@{size}")
        assert torch.equal((ours.images(0, 6).x * 255).round().byte(), theirs), size
        info = dataset_info(f"folder:{photos}@{size}")
        assert (info.name, info.shape) == (f"folder:val@{size}", (3, size, size))


def test_the_size_is_part_of_the_identity(photos: Path) -> None:
    assert load(f"{photos}@16").digest != load(f"{photos}@17").digest
    with pytest.raises(DataError) as caught:
        load(photos)
    for part in ("0.png has 30 x 21 pixels", "1.png 16 x 37", "--image-size 21"):
        assert part in str(caught.value)
    (photos.parent / "val@16").mkdir()
    with pytest.raises(DataError, match=r"val@16 has no images and no folder for a class"):
        load(f"{photos}@16/")
    with pytest.raises(UsageError, match="1 to 8192 pixels, not 0"):
        load(f"{photos}@0")


def test_the_digest_is_of_bytes_order_and_labels(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "val", X, Y)
    seen = [load(root).digest]
    (root / "05").rename(root / "15")  # another class, and so another order
    seen.append(load(root).digest)
    (root / "15").rename(root / "05")
    assert load(root).digest == seen[0]
    for path in sorted((root / "08").iterdir()):  # the same files in the same order
        path.rename(root / "09" / f"0{path.name}")
    (root / "08").rmdir()
    seen.append(load(root).digest)
    Image.fromarray(255 - X[0]).save(root / "00" / "x.png")
    seen.append(load(root).digest)
    assert len(set(seen)) == len(seen)


def test_only_the_block_that_is_asked_for_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.data import load as module

    pixels, decoded = load(save_folder(tmp_path / "val", X, Y)), []
    monkeypatch.setattr(
        module, "decoded", lambda file, info: decoded.append(file) or np.zeros((1, 8, 8))
    )
    pixels.images(4, 7)
    assert len(decoded) == 3
    assert len(pixels) == len(pixels.y) == 20


def test_an_image_that_changes_under_the_command_is_no_other_image(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "val", X, Y)
    pixels = load(root)
    path = sorted((root / "00").iterdir())[0]
    path.write_bytes(sorted((root / "01").iterdir())[0].read_bytes())
    with pytest.raises(DataError, match=r"000\.png has changed since the command began"):
        pixels.images(0, 3)
    assert load(root).digest != pixels.digest


def test_an_unreadable_image_is_named_before_any_work(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "val", X, Y)
    path = sorted((root / "00").iterdir())[0]
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[:30]):
        path.write_bytes(content)
        os.utime(root / "00", ns=(0, len(content)))  # an upload would change it as well
        with pytest.raises(DataError) as caught:
            load(root)
        assert str(path) in str(caught.value)
        assert "no image that can be read" in str(caught.value)
        assert "BytesIO" not in str(caught.value)
    # Its head is whole: only who decodes it sees that the rest is missing.
    path.write_bytes(whole[:-30])
    os.utime(root / "00", ns=(1, 1))
    assert len(load(root)) == 20
    with pytest.raises(DataError, match=r"000\.png is no image that can be read"):
        load(root, first=1)
    path.unlink()
    path.symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cannot read .*000\.png: No such file"):
        load(root)


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    root = save_folder(tmp_path / "val", X, Y)
    Image.fromarray(X[0].astype(np.uint16) * 257).save(root / "00" / "000.png")
    with pytest.raises(DataError, match=r"000\.png has more than 8 bits a pixel .*I;16"):
        load(root)


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    def fault(path: Path | str, *parts: str) -> None:
        with pytest.raises(DataError) as caught:
            load(path)
        for part in parts:
            assert part in str(caught.value), str(caught.value)

    root = tmp_path / "val"
    fault(root, "there is no folder", "val. Check the path")
    root.mkdir()
    fault(root, "val has no images and no folder for a class", "val/cat/1.png")
    Image.fromarray(X[0]).save(root / "1.png")
    fault(root, "val has images (1.png, ...) but no folder for a class")
    fault(root / "1.png", "cannot read the folder", "Not a directory")
    for name in ("cat", "cow", "dog"):
        (root / name).mkdir()
    Image.fromarray(X[0]).save(root / "cat" / "1.png")
    (root / "cow" / "1.txt").touch()
    fault(root, "no images for 2 of its classes (cow, dog)", "Remove those folders", ".png")
    with pytest.raises(UsageError, match="names no folder"):
        load("")


def test_nothing_is_trained_on_a_folder(tmp_path: Path) -> None:
    name = f"folder:{save_folder(tmp_path / 'val', X, Y)}"
    with pytest.raises(UsageError, match="folder:val has none"):
        load_train(name, root=tmp_path)


def test_the_name_is_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "val", X, Y)
    monkeypatch.chdir(tmp_path / "val" / "00")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("..", "../", "../../val", "~/val/", str(tmp_path / "val" / "..") + "/val"):
        assert dataset_info(f"folder:{path}").name == "folder:val", path
    with pytest.raises(UsageError, match="'folder:' is no name for a data set"):
        dataset_info("folder:/")
    with pytest.raises(UsageError, match=r"'\.\.' is a folder\. .* folder:\.\."):
        dataset_info("..")
