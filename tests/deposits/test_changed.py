"""A deposit that somebody changed is named, and nothing of it is written by its own names."""

from __future__ import annotations

import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.results.cell import digest_of

from ..command import Bench, is_one_clear_message
from .forge import Members, manifest, members, with_manifest, zipped

Change = Callable[[Path, Members], None]


def put(path: Path, found: Members, name: str, content: bytes) -> None:
    zipped(path, {**found, name: content}.items())


def rows_of(found: Members) -> str:
    return next(name for name in found if name.endswith("outcomes.parquet"))


def images_of(found: Members) -> str:
    return next(name for name in found if name.startswith("images/"))


def a_vote(path: Path, found: Members) -> None:
    put(path, found, rows_of(found), found[rows_of(found)][:-60] + b"x" * 60)


def an_image(path: Path, found: Members) -> None:
    name = images_of(found)
    put(path, found, name, found[name][:-1] + b"\x3d")


def an_image_and_its_digest(path: Path, found: Members) -> None:
    import hashlib

    name = images_of(found)
    content = found[name][:-1] + b"\x3d"
    said = manifest(found)
    said["members"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    zipped(path, {**found, name: content, "deposit.json": json.dumps(said).encode()}.items())


def a_cell_and_its_digest(path: Path, found: Members) -> None:
    """All that a forger can write who does not know how provenance is sealed."""
    import hashlib

    name = next(name for name in found if name.endswith("provenance.json"))
    about = json.loads(found[name])
    about["commit"] = "f" * 40
    content = json.dumps(about).encode()
    said = manifest(found)
    said["members"][name] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    for told in said["cells"].values():
        told["commit"] = about["commit"]
    zipped(path, {**found, name: content, "deposit.json": json.dumps(said).encode()}.items())


def claim(change: Callable[[dict[str, Any]], None]) -> Change:
    """Change what the manifest says of the only cell."""

    def changed(path: Path, found: Members) -> None:
        with_manifest(path, lambda said: change(next(iter(said["cells"].values()))))

    return changed


def whole(change: Callable[[dict[str, Any]], None]) -> Change:
    return lambda path, found: with_manifest(path, change)


def more(name: str) -> Change:
    return lambda path, found: put(path, found, name, b"more")


def without(which: Callable[[Members], str]) -> Change:
    def changed(path: Path, found: Members) -> None:
        zipped(path, {n: c for n, c in found.items() if n != which(found)}.items())

    return changed


def without_and_unsaid(path: Path, found: Members) -> None:
    name = images_of(found)
    said = manifest(found)
    del said["members"][name], found[name]
    zipped(path, {**found, "deposit.json": json.dumps(said).encode()}.items())


def twice(path: Path, found: Members) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zipped(path, [*found.items(), (rows_of(found), b"the other one")])


def a_link(path: Path, found: Members) -> None:
    name = images_of(found)
    link = zipfile.ZipInfo(name)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    rest = {n: c for n, c in found.items() if n != name}
    zipped(path, [*rest.items(), (link, b"/etc/passwd")])


def cut_off(path: Path, found: Members) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def a_flipped_bit(path: Path, found: Members) -> None:
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(images_of(found)).header_offset + 150
    content[place] ^= 0xFF
    path.write_bytes(content)


def a_bomb(path: Path, found: Members) -> None:
    """The central directory says 4 GB of a member, whatever there is."""
    content = bytearray(path.read_bytes())
    name = images_of(found).encode()
    place = content.rfind(name) - 46
    assert content[place : place + 4] == b"PK\x01\x02"
    struct.pack_into("<I", content, place + 24, 0xFFFFFFF0)
    path.write_bytes(content)


def another_method(path: Path, found: Members) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in found.items():
            archive.writestr(name, content)


def a_comment(path: Path, found: Members) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"by me"


def something_before(path: Path, found: Members) -> None:
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())


def no_zip(path: Path, found: Members) -> None:
    path.write_text("<html>")


def huge_header(path: Path, found: Members) -> None:
    """Images whose header says more than there is."""
    import hashlib

    name = images_of(found)
    content = found[name].replace(b"(4, 1, 8, 8)", b"(4, 9, 9, 9)")
    said = manifest(found)
    said["members"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    zipped(path, {**found, name: content, "deposit.json": json.dumps(said).encode()}.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_vote, "outcomes.parquet was changed: another SHA-256"),
        (an_image, ".npy was changed: another SHA-256"),
        (a_cell_and_its_digest, "provenance.json is not what was written"),
        (claim(lambda cell: cell.update(robust=99)), "robust: '99', not"),
        (claim(lambda cell: cell.update(commit="f" * 40)), "commit: "),
        (claim(lambda cell: cell["weights"].update(defense="0" * 64)), "weights: defense: "),
        (claim(lambda cell: cell.pop("eps")), "'eps' is missing"),
        (whole(lambda said: said.update(images="none")), "is foreign"),
        (whole(lambda said: said.update(more=1)), "'more' is foreign"),
        (whole(lambda said: said.update(format=2)), "has the format 2 of deposits"),
        (whole(lambda said: said.update(cells={})), "it names no cells"),
        (whole(lambda said: said["members"].update(a={})), "'a' is missing"),
        (whole(lambda said: said["cells"].update({"f" * 16: {}})), "is missing"),
        (more("deposit.json"), "deposit.json cannot be read"),
        (more(f"images/{'a' * 16}/000000-000004.npy"), "deposit.json does not list it"),
        (more("README"), "'README' is no name that a deposit has"),
        (more("../evil"), "'../evil' leads out of the deposit"),
        (more("/tmp/evil"), "leads out of the deposit"),
        (more("cells/../../evil"), "leads out of the deposit"),
        (more("C:evil"), "leads out of the deposit"),
        (without(images_of), ".npy' is missing"),
        (without(rows_of), "outcomes.parquet' is missing"),
        (without(lambda found: "deposit.json"), "it has no deposit.json"),
        (without_and_unsaid, "is missing"),
        (twice, "is in it 2 times"),
        (a_link, "is a link"),
        (cut_off, "it is no zip, or was cut off"),
        (a_flipped_bit, ".npy is damaged"),
        (a_bomb, "it unpacks to"),
        (another_method, "is packed in another way than deflate"),
        (a_comment, "bytes that belong to no member"),
        (something_before, "bytes that belong to no member"),
        (no_zip, "it is no zip, or was cut off"),
        (huge_header, "its size is not that of its shape"),
    ],
)
def test_what_was_changed_is_named(
    bench: Bench, deposit: Path, change: Change, message: str
) -> None:
    change(deposit, members(deposit))
    before = {path for path in Path().rglob("*") if "results" not in path.parts}
    is_one_clear_message(bench("verify", "deposit.zip"), message, "deposit.zip", code=1)
    after = {path for path in Path().rglob("*") if "results" not in path.parts}
    assert after == before, "nothing was written"


def test_another_image_under_a_new_digest_is_not_the_one_that_was_judged(
    bench: Bench, deposit: Path
) -> None:
    an_image_and_its_digest(deposit, members(deposit))
    said = bench("verify", "deposit.zip")
    assert said.code == 1
    assert "images 000000-000004.safetensors are not those that were judged" in said.out
    assert "MISMATCH" in said.out


def test_a_deposit_does_not_say_which_file_of_this_machine_is_run(
    bench: Bench, deposit: Path, tmp_path: Path
) -> None:
    """A path in a deposit is cut to its last part, which the current folder has or has not."""
    import hashlib

    from bench.deposits.archive import opened
    from bench.deposits.unpack import unpack

    found, said = members(deposit), manifest(members(deposit))
    (key,) = said["cells"]
    about = json.loads(found[f"cells/{key}/provenance.json"])
    cell = json.loads(found[f"cells/{key}/cell.json"])
    cell["names"] = {"defense": "~/evil/run.py:purify=/w/a.pth"}
    cell["sources"] = {"dataset": "/home/me/evil.py:Data"}
    about["sha256"]["cell.json"] = digest_of(cell)
    for name, content in (("cell.json", cell), ("provenance.json", about)):
        member = f"cells/{key}/{name}"
        found[member] = json.dumps(content).encode()
        said["members"][member] = {
            "sha256": hashlib.sha256(found[member]).hexdigest(),
            "bytes": len(found[member]),
        }
    zipped(deposit, {**found, "deposit.json": json.dumps(said).encode()}.items())
    made = unpack(opened(deposit), tmp_path / "here")
    kept = json.loads((made.store.cell(key) / "cell.json").read_text())
    assert kept["names"] == {"defense": "run.py:purify=a.pth"}
    assert kept["sources"] == {"dataset": "digits"}
