"""``on`` of a spec: a command or an HTTP POST when a trial diverges or fails, and when the sweep is done."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sweeper.errors import ClipsweepError
from sweeper.labels import counted
from sweeper.notify import post
from sweeper.notify.outlet import Document, Outlet
from sweeper.notify.processes import run_bounded, small_environment
from sweeper.protocol.notices import as_line
from sweeper.spec.sections.hooks import Hook, Hooks

__all__ = ["Called", "called_on", "require_hooks_allowed"]

_log = logging.getLogger(__name__)

_ROOM = 100


def require_hooks_allowed(hooks: Hooks, folder: Path, *, allow_code: bool) -> None:
    """Require the user's consent before a spec runs programs from outside its folder, or sends results elsewhere.

    Args:
        hooks: The section.
        folder: The spec's folder.
        allow_code: Whether the user has consented.

    Raises:
        ClipsweepError: It does, and the user has not; or a program is not there, which would be told hours later.
    """
    elsewhere = [
        f"on.{name} posts to {hook.host}" if hook.post is not None else f"on.{name} runs {hook.program}"
        for name, hook in hooks.given.items()
        if not _lies_in(folder, hook)
    ]
    if elsewhere and not allow_code:
        raise ClipsweepError(
            f"the spec would run commands from outside its own folder ({folder}), or send results away: "
            f"{', '.join(elsewhere)}; continue with --allow-code if you trust it"
        )
    for name, hook in hooks.given.items():
        if hook.command is not None and not _is_there(folder, hook.program):
            raise ClipsweepError(
                f"on.{name}: no program {hook.program} can be run; one in the spec's folder begins with ./"
            )


def _is_there(folder: Path, program: str) -> bool:
    if "/" in program:
        return os.access(folder / program, os.X_OK)
    return shutil.which(program, path=small_environment().get("PATH")) is not None


def _lies_in(folder: Path, hook: Hook) -> bool:
    """Whether it runs a file of the spec's folder, links followed; a name without a slash is looked for elsewhere."""
    if hook.command is None or "/" not in hook.program:
        return False
    return (folder / hook.program).resolve().is_relative_to(folder.resolve())


class Called:
    """One hook: its events, its thread, and what has become of them.

    Args:
        name: ``diverged``, ``failed`` or ``done``.
        hook: What is called.
        folder: The spec's folder, in which commands run.
    """

    def __init__(self, name: str, hook: Hook, folder: Path) -> None:
        self._name = name
        self._hook = hook
        self._folder = folder
        self._num_failed = 0
        self._outlet = Outlet(self._call, room=_ROOM, name=f"on.{name}")

    def hear(self, document: Document) -> None:
        """Call it, soon, if the event is its own."""
        if is_for(self._name, document):
            self._outlet.hear(document)

    def close(self) -> str | None:
        """Wait for what is under way, for as long as one call may take; the rest is left out.

        Returns:
            What went wrong in all; None if nothing did.
        """
        left_out = self._outlet.close(within_s=self._hook.timeout_s)
        problems = [f"{counted(self._num_failed, 'call')} failed"] if self._num_failed else []
        problems += [f"{counted(left_out, 'event')} left out, as calls take too long"] if left_out else []
        return f"on.{self._name}: {' and '.join(problems)}; see the driver's log" if problems else None

    def _call(self, document: Document, dropped: int) -> None:
        if dropped:
            _log.warning("on.%s: %s left out, as calls take too long", self._name, counted(dropped, "event"))
        command = self._hook.command
        if command is None:
            # -I: neither variables nor the folder say what Python imports. A process, since only that can be ended.
            command = (sys.executable, "-I", str(Path(post.__file__)), str(self._hook.post))
        problem = run_bounded(
            command,
            given=as_line(document),
            folder=self._folder,
            environment=small_environment(),
            timeout_s=self._hook.timeout_s,
            stop=self._outlet.stop,
        )
        if command is not self._hook.command and problem is not None and problem.startswith("exit code "):
            problem = _ANSWERS.get(problem.removeprefix("exit code "), f"{self._hook.host}: {problem}").format(
                host=self._hook.host
            )
        if problem is not None:
            self._num_failed += 1
            if self._num_failed == 1:
                # Not the URL, which may be a secret.
                _log.warning("on.%s: %s; later failures are only counted", self._name, problem)


_ANSWERS = {
    "1": "{host} could not be reached",
    "3": "{host} answered with a redirect (3xx), which is not followed",
    "4": "{host} refused it (an answer of 4xx)",
    "5": "{host} failed (an answer of 5xx)",
}
"""What the exit codes of the program that posts mean."""


def is_for(name: str, document: Mapping[str, object]) -> bool:
    """Whether an event is one of a hook.

    Args:
        name: Name of the hook.
        document: The event.

    Returns:
        True for its own: ``done`` is the end of a driver that had something to do and has left nothing.

    Example:
        >>> is_for("diverged", {"event": "trial_diverged"}), is_for("failed", {"event": "trial_diverged"})
        (True, False)
        >>> is_for("done", {"event": "run_ended", "finished": True, "did_nothing": True})
        False
    """
    if name == "done":
        return document["event"] == "run_ended" and bool(document["finished"]) and not document["did_nothing"]
    return document["event"] == f"trial_{name}"


@contextmanager
def called_on(hooks: Hooks | None, folder: Path) -> Iterator[tuple[list[Called], list[str]]]:
    """The hooks of a spec, for the duration of a ``with`` block.

    Args:
        hooks: The section; None for none.
        folder: The spec's folder.

    Yields:
        The hooks, and a list that says, after the block, what went wrong.
    """
    called = [Called(name, hook, folder) for name, hook in hooks.given.items()] if hooks is not None else []
    problems: list[str] = []
    try:
        yield called, problems
    finally:
        problems += [problem for one in called if (problem := one.close()) is not None]
