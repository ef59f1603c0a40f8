"""Import a library or plugins in a process that may end by it, and say how it went.

``python -m bench.commands.import_apart module NAME`` or ``... plugins '[[KIND, NAME], ...]'``.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import traceback
from typing import Literal

LIMIT_S = 300.0  # a busy file server is slow
_MARK = "bench says: "  # tells our lines from what an import prints
_MACHINERY = (
    "bench",
    "importlib",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "__main__",
)


def import_apart(what: Literal["module", "plugins"], argument: str) -> tuple[list[str], str]:
    """Import in another process; return a fault or '' for each that was tried, and its end."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.commands.import_apart", what, argument],
            env=env, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        out, end = done.stdout, f"its import ends the process with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        out, end = error.stdout or b"", f"its import takes more than {LIMIT_S:.0f} s"
    lines = out.decode(errors="replace").splitlines()
    return [json.loads(x.removeprefix(_MARK)) for x in lines if x.startswith(_MARK)], end


def _fault_of_module(name: str) -> str:
    try:
        if name == "robustbench":  # which needs some help
            from bench.models.robustbench import import_robustbench

            import_robustbench()
        else:
            importlib.import_module(name)
    except BaseException as error:  # whatever a broken library raises
        while error.__cause__ is not None:
            error = error.__cause__
        return f"{type(error).__name__}: {error}"[:200] + _culprit(error, name)
    return ""


def _culprit(error: BaseException, asked: str) -> str:
    """Name the package whose code failed, where it is not the one that was asked for."""
    names = [f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(error.__traceback__)]
    tops = [name.partition(".")[0] for name in names]
    tops = [top for top in tops if top not in _MACHINERY]
    return f" (in {tops[-1]})" if tops and tops[-1] != asked else ""


def _fault_of_plugin(kind: str, name: str) -> str:
    from typing import cast

    from bench.errors import PluginError
    from bench.plugins.catalogue import Kind, plugin

    try:
        plugin(cast("Kind", kind), name)
    except PluginError as error:
        return str(error)
    return ""


def _say(fault: str) -> None:
    sys.stdout.write(f"\n{_MARK}{json.dumps(fault)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "module":
        _say(_fault_of_module(sys.argv[2]))
    else:
        for one, called in json.loads(sys.argv[2]):
            _say(_fault_of_plugin(one, called))
