"""Claims on pieces of work in a shared folder, so that no two processes do the same piece.

A claim is a lock of the kernel (``flock``) on an empty file: it ends with its process, however
that dies, so that no process has to guess by an age whether another one still lives. Between
machines it holds where the file system carries locks (NFS does). Where there are none, every
process gets every claim: work may then be done twice, with the same rows. Imports no torch.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.errors import StoreError
from bench.results.progress import Progress, Work

Shard = tuple[int, int]  # images [start, stop)

_LOOK_AGAIN_S = 0.5
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW  # a link would lead outside
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claim what ``path`` stands for, and yield whether it is ours; raises StoreError.

    Whoever gets a claim has to check whether the work was done meanwhile.
    """
    try:
        file = _locked(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(
                f"{path} is a link, and no claim is one: nothing was written. Remove it."
            ) from error
        if error.errno not in _NO_LOCKS:
            raise StoreError(
                f"cannot write {path}: {error.strerror}. Fix its permissions or choose another "
                "folder."
            ) from error
        yield True
        return
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        # While it is still ours: a process that has opened the file by now finds it gone.
        path.unlink(missing_ok=True)
        os.close(file)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Claim what ``path`` stands for, waiting until it is free; raises StoreError."""
    while True:
        with claimed(path) as ours:
            if ours:
                yield
                return
        time.sleep(_LOOK_AGAIN_S)


def _locked(path: Path) -> int | None:
    """Lock a file and return its descriptor, None where another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | _OPEN, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except FileNotFoundError:  # its last owner removed it before we had the lock
            pass
        except OSError:
            os.close(file)
            raise
        os.close(file)


def is_held(path: Path) -> bool:
    """Whether a living process has a claim."""
    try:
        file = os.open(path, os.O_RDWR | _OPEN)
    except OSError:
        return False
    try:
        # Shared and for an instant: a process that wants the claim just then tries again.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    finally:
        os.close(file)
    return False


def kept(file: int, path: Path) -> bool:
    """Lock a file that was just made, until it is closed; whether it is still there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError as error:  # a process that sweeps was quicker; or there are no locks here
        return error.errno in _NO_LOCKS


def drop_unkept(path: Path) -> None:
    """Remove a file that no living process of this machine has locked; raises nothing."""
    with suppress(OSError):
        file = os.open(path, os.O_RDWR | _OPEN)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)


def sweep(folder: Path) -> None:
    """Remove the claims that dead processes left in a folder; raises nothing."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_file() and not path.is_symlink():
                with suppress(StoreError), claimed(path):
                    pass  # leaving a claim removes its file


def works_in(folder: Path) -> bool:
    """Whether the file system of a folder carries locks."""
    probe = folder / f".claims-{os.getpid()}"
    try:
        file = _locked(probe)
    except OSError:
        return False
    probe.unlink(missing_ok=True)
    if file is not None:
        os.close(file)
    return True


def wait(what: str, done: int, total: int, unit: str = "") -> Work[None]:
    """Let another process work for a moment; a driver that has other work stops here."""
    note = "waiting for another process"
    yield Progress(what, done, total, note=note, waits=True, unit=unit)
    time.sleep(_LOOK_AGAIN_S)


def share(
    what: str,
    total: int,
    *,
    left: Callable[[], list[Shard]],
    claim: Callable[[Shard], Path],
    work: Callable[[Shard], None],
) -> Work[None]:
    """Work on the first unclaimed shard until none is left; wait where all are claimed.

    ``left`` lists the shards of ``total`` images that are not done, here or elsewhere.
    """

    def progress(shards: list[Shard]) -> Progress:
        done = total - sum(stop - start for start, stop in shards)
        return Progress(what, done, total, unit="images")

    while shards := left():
        refused = 0
        for shard in shards:
            yield progress(left())
            with claimed(claim(shard)) as ours:
                refused += not ours
                if ours and shard in left():  # another process may have done it meanwhile
                    work(shard)
        if refused == len(shards):
            now = progress(shards)
            yield from wait(what, now.done, total, now.unit)
    yield progress([])
