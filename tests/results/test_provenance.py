"""Which commit a result names: of this source, and never of a repository around it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.results import provenance


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    provenance._commit.cache_clear()
    yield
    provenance._commit.cache_clear()


def git(folder: Path, *args: str) -> str:
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", *name, *args], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def source_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put this source into a folder; return its file of provenance."""
    here = folder / "bench/results/provenance.py"
    here.parent.mkdir(parents=True)
    (folder / "bench/__init__.py").touch()
    for name in ("attacks", "defenses"):
        (folder / name).mkdir()
    here.touch()
    monkeypatch.setattr(provenance, "__file__", str(here))
    return here


def installed(monkeypatch: pytest.MonkeyPatch, about: dict[str, Any] | None) -> None:
    text = None if about is None else json.dumps(about)
    one = SimpleNamespace(read_text=lambda name: text if name == "direct_url.json" else None)
    monkeypatch.setattr(provenance, "distribution", lambda name: one)


def test_a_checkout_names_its_commit_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = source_in(tmp_path, monkeypatch)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert provenance._commit() == head
    provenance._commit.cache_clear()
    here.write_text("changed")
    assert provenance._commit() == head + "+"


@pytest.mark.parametrize("ignored", [True, False])
def test_an_environment_in_a_repository_does_not_name_that_repositorys_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text(".venv/" if ignored else "")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "somebody's project")
    source_in(tmp_path / ".venv/site-packages", monkeypatch)
    installed(monkeypatch, None)
    assert provenance._commit() is None


@pytest.mark.parametrize(
    ("about", "named"),
    [
        ({"url": "https://a.org", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}, "ab12"),
        ({"url": "file:///somewhere", "dir_info": {"editable": True}}, None),
        (None, None),
    ],
)
def test_an_installation_names_the_commit_that_pip_wrote_down(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    about: dict[str, Any] | None,
    named: str | None,
) -> None:
    source_in(tmp_path, monkeypatch)
    installed(monkeypatch, about)
    assert provenance._commit() == named


def test_a_source_that_nothing_installed_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    source_in(tmp_path, monkeypatch)
    monkeypatch.setattr(provenance, "distribution", missing)
    assert provenance._commit() is None
