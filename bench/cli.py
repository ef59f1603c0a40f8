"""The command line: parse, call one function, print. torch is imported in commands only."""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn, TextIO

import typer

from bench import __version__
from bench.commands import (
    attest,
    calibrate,
    certify,
    check,
    compare,
    doctor,
    evaluate,
    export,
    figure,
    judge,
    new,
    paper,
    report,
    show,
    status,
    table,
    verify,
)
from bench.commands.audit import audit
from bench.commands.shared import NAMES, complain, lost_output, resumable, runs_plugins
from bench.errors import BenchError, OldNameWarning, UsageError

app = typer.Typer(
    name="bench",
    help="How robust is a classifier when a purifier cleans each image first?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_STDERR = 2  # its number
_shown: list[str] = []  # not empty once --debug asked for tracebacks


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if debug:
        _shown.append("traceback")
    if version:
        typer.echo(f"purifybench {__version__}")
        raise typer.Exit


# The panels of `bench --help`, in this order: what people come to do.
_MEASURE = "Measure"
_RESULTS = "Look at results"
_TRUST = "Check that a number can be trusted"
_PUBLISH = "Publish"
_SET_UP = "Set up"

app.command(rich_help_panel=_MEASURE)(evaluate.run)
app.command(rich_help_panel=_MEASURE)(evaluate.matrix)
app.command(rich_help_panel=_MEASURE)(evaluate.train)
app.command(rich_help_panel=_MEASURE)(certify.certify)
app.command(rich_help_panel=_MEASURE)(status.status)
app.command(rich_help_panel=_MEASURE)(status.collect)
app.command(rich_help_panel=_RESULTS)(table.table)
app.command(rich_help_panel=_RESULTS)(compare.compare)
app.command(rich_help_panel=_RESULTS)(report.report)
app.command(rich_help_panel=_TRUST)(audit)
app.command(rich_help_panel=_TRUST)(judge.judge)
app.command(rich_help_panel=_TRUST)(verify.verify)
app.command(rich_help_panel=_TRUST)(calibrate.calibrate)
app.command(rich_help_panel=_PUBLISH)(paper.paper)
app.command(rich_help_panel=_PUBLISH)(attest.attest)
app.add_typer(figure.app, name="figure", rich_help_panel=_PUBLISH)
app.add_typer(export.app, name="export", rich_help_panel=_PUBLISH)
app.command("list", rich_help_panel=_SET_UP)(show.list_)
app.command(rich_help_panel=_SET_UP)(show.show)
app.command(rich_help_panel=_SET_UP)(new.new)
app.command(rich_help_panel=_SET_UP)(check.check)
app.command(rich_help_panel=_SET_UP)(doctor.doctor)

_WITHOUT_PLUGINS = (attest.attest, table.table, compare.compare, paper.paper)
for command in (
    *app.registered_commands, *figure.app.registered_commands, *export.app.registered_commands,
):  # fmt: skip
    if command.callback and command.callback not in _WITHOUT_PLUGINS:
        command.callback = runs_plugins(command.callback)
    if command.callback:
        command.callback = resumable(command.callback)


def _with_new_names(words: list[str]) -> list[str]:
    """Put --zoo for --models, the name that it had before."""
    if "BENCH_MODELS" in os.environ and "BENCH_ZOO" not in os.environ:
        complain("warning: BENCH_MODELS is now BENCH_ZOO.")
    if not any(word.partition("=")[0] == "--models" for word in words):
        return words
    complain("warning: --models is now --zoo.")
    return [re.sub("^--models(?==|$)", "--zoo", word) for word in words]


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning on an old name in one line, and any other as Python does."""
    if issubclass(category, OldNameWarning):
        complain(f"warning: {message}")
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        with suppress(OSError):
            (file or sys.stderr).write(text)


def _text(words: list[str]) -> list[str]:
    """Refuse what is no text before a name of it can reach a file; raises UsageError."""
    settings = [value for name, value in os.environ.items() if name.startswith("BENCH_")]
    for word in (*words, *settings):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{word[:100]!a} is not text in UTF-8: rename it.") from None
    return words


def _open_streams() -> None:
    """Give closed streams a place to write to, so that no file gets their number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - the same


def _run() -> None:
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        # Else its name is that of the main module, such as `python -m pytest`.
        called = Path(sys.argv[0]).name
        name = called if called in NAMES else None
        app(args=_with_new_names(_text(sys.argv[1:])), prog_name=name)


def _lose_output(error: OSError) -> NoReturn:
    """Say once that stdout did not take everything, and end."""
    complain(f"error: stdout cannot be written: {error.strerror}. Finished work is kept.")
    # Python would try again at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _of_the_device(error: Exception) -> str | None:
    """Say what to do where a GPU failed; only torch raises such errors."""
    if "torch" not in sys.modules:
        return None
    from bench.results.workspace import device_fault

    return device_fault(error)


def main() -> None:
    """Run the command line; errors a user can act on are one message and an exit code."""
    if sys.platform == "win32":  # claims on work need fcntl
        sys.exit("purifybench runs on Linux and macOS. On Windows, use it in WSL.")
    _shown.clear()
    _open_streams()
    try:
        _run()
    except BenchError as error:
        if _shown:
            raise
        complain(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:  # such as a path that is too long, or a disk that is full
        if _shown:
            raise
        if error.filename or not lost_output():
            where = f"{error.filename}: " if error.filename else ""
            advice = "Free space, or name another path."
            complain(f"error: {where}{error.strerror or error}. {advice}")
            sys.exit(1)
        _lose_output(error)
    except Exception as error:
        if _shown:
            raise
        if said := _of_the_device(error):
            complain(f"error: {said}")
            sys.exit(1)
        last = traceback.extract_tb(error.__traceback__)[-1]
        complain(
            f"error: {type(error).__name__}: {error} ({Path(last.filename).name}:"
            f"{last.lineno}). This is a fault of a plugin or of bench: `bench --debug` with "
            "the same command shows where."
        )
        sys.exit(1)
    finally:
        if lost := lost_output():
            _lose_output(lost)


def script() -> NoReturn:
    """Run the command line as a process, and end it without taking torch's libraries apart.

    That would take half a second and more memory than anything before it.
    """
    status = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise  # a sentence, which Python prints
        status = end.code or 0
    if "torch" not in sys.modules or threading.active_count() > 1:
        sys.exit(status)
    atexit._run_exitfuncs()
    with suppress(OSError):  # what a function of somebody's wrote there at the end
        sys.stdout.flush()
    os._exit(status)
