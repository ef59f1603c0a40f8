"""What the commands share: the workspace, progress, and how they print."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar

import typer

from bench.errors import PluginError, no_exit

if TYPE_CHECKING:
    from bench.experiments.plan import Plan
    from bench.experiments.prepare import Plugins
    from bench.results.cell import Request
    from bench.results.progress import Work
    from bench.results.rows import Row
    from bench.results.store import Store
    from bench.results.workspace import Workspace

Result = TypeVar("Result")
_lost: list[OSError] = []  # what kept lines from stdout
Words = ParamSpec("Words")
NAMES = ("bench", "purifybench")  # of the command
_NAMED = 5  # damaged cells in a message

_kept: list[TextIO] = []  # stdout, while print() and descriptor 1 lead to stderr


def runs_plugins(command: Callable[Words, Result]) -> Callable[Words, Result]:
    """Keep stdout and exit status of a command its own, whatever plugins print and wherever.

    What they and their children print at import, in a constructor or in a worker goes to
    stderr, where it breaks no JSON. Raises PluginError where one of them ends the process.
    """

    @wraps(command)
    def run(*args: Words.args, **options: Words.kwargs) -> Result:
        with _stdout() as ours, redirect_stdout(sys.stderr or sys.stdout), no_exit():
            _kept.append(ours)
            try:
                return command(*args, **options)
            except SystemExit as error:
                raise PluginError(
                    f"a plugin ended the process with status {error.code}. Take sys.exit and "
                    "os._exit out of it; `bench --debug` with the same command shows where."
                ) from error
            finally:
                _kept.pop()

    return run


def resumable(command: Callable[Words, Result]) -> Callable[Words, Result]:
    """Say after Ctrl-C, at whatever moment, with which command to go on, and exit with 130."""

    @wraps(command)
    def run(*args: Words.args, **options: Words.kwargs) -> Result:
        try:
            return command(*args, **options)
        except KeyboardInterrupt:  # Typer would end in silence
            called = Path(sys.argv[0]).name
            name = [called] if called in NAMES else ["python", "-m", "bench"]
            again = shlex.join([*name, *sys.argv[1:]])
            complain(f"\ninterrupted: what is finished is kept. To go on:\n{again}")
            raise typer.Exit(130) from None

    return run


@contextmanager
def _stdout() -> Iterator[TextIO]:
    """Open stdout under a descriptor of its own, and let its old one lead to stderr."""
    try:
        sys.stdout.flush()
        number = sys.stdout.fileno()
        kept = os.dup(number)
        os.dup2(sys.stderr.fileno(), number)
    except (AttributeError, OSError):  # one of them is closed, or a stream in memory
        yield sys.stdout
        return
    try:
        with os.fdopen(kept, "w", encoding=sys.stdout.encoding, closefd=False) as ours:
            yield ours
    finally:
        os.dup2(kept, number)
        os.close(kept)


def out() -> TextIO:
    """Return the stream for what a command says."""
    return _kept[-1] if _kept else sys.stdout


def open_workspace(results: Path, data: Path, zoo: Path, device: str) -> Workspace:
    """Open the folders and the device of a command; raises UsageError."""
    from bench.results.store import Store
    from bench.results.workspace import Workspace, open_device

    return Workspace(Store(results), data, zoo, open_device(device))


def opening(request: Request) -> str:
    """Describe a run in one line."""
    from bench.core.threat import format_eps

    other = " (choose another: --dataset)" if request.dataset == "digits" else ""
    return (
        f"data set {request.dataset}{other}, first {request.n} images, "
        f"{request.norm.value} {format_eps(request.eps)}"
    )


def watch(work: Work[Result], *, quiet: bool) -> Result:
    """Run work to its end under a progress bar on stderr."""
    from bench.results.progress import finish

    if quiet:
        return finish(work)
    from bench.results.watching import watch

    return watch(work)


def print_outline(outline: Any, *, as_json: bool) -> None:
    """Print what a dry run found."""
    import json

    if as_json:
        say(json.dumps(outline, indent=2))
        return
    say("\n".join(_listing(outline, "  ")))


def _listing(content: dict[str, Any], indent: str) -> Iterator[str]:
    """Write nested parameters line by line, in 80 columns."""
    import json
    import textwrap

    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _listing(value, indent + "  ")
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            yield textwrap.fill(
                f"{name}: {shown}", width=80, initial_indent=indent,
                subsequent_indent=indent + "  ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip


def print_rows(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print result rows as a table or as JSON."""
    import json

    from bench.commands.rows import print_table
    from bench.results.rows import whole_rows

    if as_json:
        say(json.dumps(whole_rows(rows), indent=2))
        return
    print_table(rows, file=out())


def exit_on_trouble(rows: Sequence[Row]) -> None:
    """Name rows without a result, and flags of the others; exit with 1 if one has failed.

    A void or damaged row counts as failed.
    """
    tell_trouble([row for row in rows if row["state"] == "done" and row["note"]])
    troubled = [row for row in rows if row["state"] in ("failed", "void", "skipped", "damaged")]
    tell_trouble(troubled)
    if any(row["state"] != "skipped" for row in troubled):
        raise typer.Exit(1)


def deliver(text: str, output: Path | None, *, damaged: Sequence[str], store: Store) -> None:
    """Print a text or write it to a file; exit with 1 where cells or audits are damaged.

    Raises StoreError where the file cannot be written.
    """
    from bench.results.audits import damaged_audits

    if output is None:
        say(text, nl=False)
    else:
        write_output(output, text)
        say(f"wrote {output}")
    unread = [f"audit {subject}" for subject in damaged_audits(store)]
    exit_if_damaged([*damaged, *unread], store.root)


def exit_if_damaged(keys: Sequence[str], results: Path) -> None:
    """Name damaged cells and audits in one line on stderr and exit with 1; no other exit."""
    if not keys:
        return
    names = ", ".join(sorted(keys)[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
    complain(
        f"error: damaged and not used: {len(keys)} cells or audits ({names}). "
        f"`bench verify {results}` says what changed. Delete their folders and run their "
        "commands again."
    )
    raise typer.Exit(1)


def tell_trouble(rows: Sequence[Row]) -> None:
    """Name rows on stderr, each told from the others, with state and reason."""
    from bench.results.rows import labels_of_rows

    for label, row in zip(labels_of_rows(rows), rows, strict=True):
        complain(f"{label}: {row['state']}: {row['note']}")


def say(text: str, *, nl: bool = True) -> None:
    """Print a line to stdout, without ``nl`` the text as it is.

    Where stdout is full, work goes on, and ``lost_output`` says so at the end.
    """
    try:
        typer.echo(text, file=out(), nl=nl)
    except BrokenPipeError:  # the reader has gone, as `head` does
        raise
    except OSError as error:
        _lost.append(error)


def lost_output() -> OSError | None:
    """Return why something that was said did not reach stdout, and forget it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _lost.append(error)
    found = _lost[0] if _lost else None
    _lost.clear()
    return found


def counted(count: int, what: str) -> str:
    """Write a number of things: '1 cell', '2 cells'."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def complain(text: str) -> None:
    """Print a line to stderr; where nobody can read it, nothing else depends on it."""
    with suppress(OSError):
        typer.echo(text, err=True)


def write_output(output: Path, text: str) -> None:
    """Write what --output names, through links and devices; raises StoreError."""
    from bench.results.output import delivered

    with delivered(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def list_cells(
    plan: Plan, pairs: list[Plugins], workspace: Workspace, *, as_json: bool
) -> None:
    """Print every cell with its key and cost, and measure nothing."""
    from bench.experiments.matrix import title
    from bench.experiments.status import previews

    listed = previews(plan, pairs, workspace)
    if as_json:
        print_outline([outline for _, outline in listed], as_json=True)
        return
    for plugins, outline in listed:
        say(title(plugins))
        print_outline(outline, as_json=False)
    done = sum(bool(outline.get("done")) for _, outline in listed)
    say(f"{len(listed)} cells, {done} of them done")


def measure(
    plan: Plan, pairs: list[Plugins], workspace: Workspace, *, quiet: bool
) -> list[str]:
    """Measure what is missing and return the key of every pair; a failure stops no other."""
    from bench.executors import worker

    return worker.measure(
        plan,
        pairs,
        workspace=workspace,
        drive=partial(watch, quiet=quiet),
        announce=(lambda _: None) if quiet else say,
        complain=complain,
    )
