"""Children that start in milliseconds: the server that forks them imports all they need."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any


@contextmanager
def forked_with(modules: Sequence[str]) -> Iterator[ForkServerContext]:
    """Fork children from a server that has imported the modules.

    A process has one server, with what the first who asked for it wanted. One that an earlier
    test started, say by a local executor, would let every child import torch for seconds.
    """
    server: Any = forkserver._forkserver  # what Python's own tests stop
    server._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    try:
        yield context
    finally:
        server._stop()
        context.set_forkserver_preload(["__main__"])  # Python's default
