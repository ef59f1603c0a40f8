"""Weights that others published: where they come from, and the folder where a user has them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bench.api import PluginError

FOLDER = "BENCH_WEIGHTS"  # the environment variable that names the folder


@dataclass(frozen=True)
class Published:
    """One file: its name here, its SHA-256, and where it was published under which licence."""

    file: str
    sha256: str
    repository: str
    commit: str
    path: str
    licence: str

    def found(self) -> Path:
        """Find the file by its SHA-256; raises PluginError with the way to get it."""
        named = os.environ.get(FOLDER, "")
        path = Path(named or "weights", self.file).expanduser()
        source = (
            f"github.com/{self.repository}, commit {self.commit}, {self.path} ({self.licence})"
        )
        if not path.is_file():
            raise PluginError(
                f"the published weights {self.file} are not there. Get them from {source}, "
                f"save them under that name, and name their folder by {FOLDER}."
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise PluginError(
                f"{self.file} is not the published file: its SHA-256 is {digest[:16]}, not "
                f"{self.sha256[:16]}. Get it again from {source}."
            )
        return path


def check_shape(shape: tuple[int, ...], *, name: str) -> None:
    """Refuse images of another shape than (1, 28, 28); raises PluginError."""
    if shape != (1, 28, 28):
        raise PluginError(
            f"{name} was trained on 1 x 28 x 28 images; these are "
            f"{' x '.join(map(str, shape))}. Use it on the data set that it was published for."
        )
