"""Open a deposit from anywhere: nothing is written by a member's name, nothing grows unseen."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.deposits.contents import MANIFEST, MOST_BYTES, MOST_UNPACKED, cell_of, proposal_of
from bench.errors import StoreError

_SHOWN = 5  # faults in a message
_MOST_JSON = 20_000_000
_ENCRYPTED = 1  # a bit of the flags


@dataclass(frozen=True)
class Archive:
    """A zip in memory whose names and sizes are those of a deposit."""

    path: Path
    sha256: str
    zip: zipfile.ZipFile

    @property
    def names(self) -> set[str]:
        """The names of all members."""
        return set(self.zip.namelist())

    def read(self, name: str) -> bytes:
        """Unpack a member in memory; raises StoreError where it is damaged."""
        size = self.zip.getinfo(name).file_size
        try:
            with self.zip.open(name) as member:
                content = member.read(size + 1)
        except _DAMAGED as error:
            raise broken(self.path, [f"{name} is damaged ({error})"]) from error
        if len(content) != size:
            raise broken(self.path, [f"{name} has another size than it says"])
        return content


_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError,
            RuntimeError, ValueError)  # fmt: skip


def opened(path: Path) -> Archive:
    """Open a deposit and check names and sizes before it is unpacked; raises StoreError."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise broken(path, [f"it has {size:,} bytes, and a deposit at most {MOST_BYTES:,}"])
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror or error}. Check the path."
        ) from error
    try:
        found = zipfile.ZipFile(io.BytesIO(content))
    except _DAMAGED as error:
        raise broken(path, [f"it is no zip, or was cut off ({error})"]) from error
    if faults := list(_faults(found)):
        raise broken(path, faults)
    return Archive(path, hashlib.sha256(content).hexdigest(), found)


def broken(path: Path, faults: list[str]) -> StoreError:
    """Build the error for a file that is not a deposit as `bench attest` writes it."""
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return StoreError(
        f"{path} is not what `bench attest` wrote: {'; '.join(faults[:_SHOWN])}{more}. Get it "
        "again from where it was published."
    )


def _faults(archive: zipfile.ZipFile) -> Iterator[str]:
    members = archive.infolist()
    for name, times in Counter(member.filename for member in members).items():
        if times > 1:
            yield f"{name[:100]!a} is in it {times} times"
    for member in members:
        if fault := _fault(member):
            yield f"{member.filename[:100]!a} {fault}"
    if MANIFEST not in archive.namelist():
        yield f"it has no {MANIFEST}"
    if (size := sum(member.file_size for member in members)) > MOST_UNPACKED:
        yield f"it unpacks to {size:,} bytes, and a deposit at most to {MOST_UNPACKED:,}"
    if archive.comment or min((one.header_offset for one in members), default=0):
        yield "it holds bytes that belong to no member"


def _fault(member: zipfile.ZipInfo) -> str | None:
    """Say what keeps a member from being one of a deposit."""
    name = member.filename
    if name.startswith(("/", "\\")) or ".." in name.split("/") or ":" in name:
        return "leads out of the deposit"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if not (name == MANIFEST or cell_of(name) or proposal_of(name)):
        return "is no name that a deposit has"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        return "is packed in another way than deflate"
    if name.endswith(".json") and member.file_size > _MOST_JSON:
        return f"has {member.file_size:,} bytes, which no cell needs"
    return None
