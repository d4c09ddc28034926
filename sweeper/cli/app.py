"""The command line: every command, and how an error becomes a message and an exit code.

Ray, torch and pyarrow are imported only by the commands that need them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from typing import Annotated, Any

import typer

from sweeper.cli.answers import advise, compare, fit, plot, reach, report, theory, times
from sweeper.cli.audits import audit_clip
from sweeper.cli.catalog import list_known
from sweeper.cli.data import data_app
from sweeper.cli.export import export
from sweeper.cli.help import add_command, new_app
from sweeper.cli.init import init
from sweeper.cli.jobs import attach, cancel
from sweeper.cli.options import note, show
from sweeper.cli.query import query
from sweeper.cli.run import estimate, run
from sweeper.cli.runs import logs, ls, retry, status, watch
from sweeper.cli.specs import check, null_test, plan, schema, validate
from sweeper.errors import ClipsweepError, SpecError, error_line, error_text, error_traceback

__all__ = ["app", "main"]

app = new_app(
    "Train with and without gradient clipping on Ray, and measure how smooth the loss is along the way.",
    name="clipsweep",
    pretty_exceptions_enable=False,
    add_completion=True,
)

_GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "A spec": {
        "init": init,
        "validate": validate,
        "check": check,
        "null-test": null_test,
        "plan": plan,
        "run": run,
    },
    "A run": {
        "status": status,
        "ls": ls,
        "logs": logs,
        "attach": attach,
        "watch": watch,
        "cancel": cancel,
        "retry": retry,
        "estimate": estimate,
    },
    "Its answers": {
        "report": report,
        "plot": plot,
        "compare": compare,
        "reach": reach,
        "fit": fit,
        "advise": advise,
        "theory": theory,
        "times": times,
        "query": query,
        "export": export,
    },
    "Code of your own": {"audit-clip": audit_clip},
    "What there is": {"list": list_known, "schema": schema},
}
"""What the commands are for, which is the heading that they stand under."""

_COMMANDS = {name: command for commands in _GROUPS.values() for name, command in commands.items()}


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        show(f"clipsweep {version('clipsweep')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Print the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Options of ``clipsweep`` itself; what they do is done where they are read."""


for _group, _commands in _GROUPS.items():
    for _name, _command in _commands.items():
        add_command(app, _name, _command, group=_group)
app.add_typer(
    data_app,
    name="data",
    short_help="Published data: fetch it, list it, say where it is.",
    rich_help_panel="What there is",
)


def main() -> None:
    """Entry point: run the command line, and turn errors into a message and an exit code."""
    try:
        app()
    except ClipsweepError as error:
        # A spec's errors start with file, line and column, a form that editors and terminals recognise.
        text = error_text(error)
        note(text if isinstance(error, SpecError) else f"error: {text}")
        sys.exit(error.exit_code)
    except SystemExit as error:
        if _was_interrupted(error):
            note("interrupted; what a run has committed is safe, and the same command continues it")
            _leave_at_once(130)
        raise
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does: not an error, but nothing may be flushed to it any longer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("CLIPSWEEP_DEBUG"):
            raise
        with tempfile.NamedTemporaryFile(prefix="clipsweep-error-", suffix=".log", delete=False) as log:
            log.write(f"{error_traceback(error)}\n".encode())
        note(f"internal error: {error_line(error)}\nthe traceback is in {log.name}; CLIPSWEEP_DEBUG=1 prints it")
        sys.exit(3)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether it comes from a KeyboardInterrupt, which typer turns into an exit without a word."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error is not None


def _leave_at_once(code: int) -> Any:
    """Exit without waiting for anything: the user has asked twice."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
