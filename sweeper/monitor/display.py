"""Displays of a running sweep: one live region on a terminal, one line per event elsewhere. All on stderr."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.control import Control
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.labels import counted, duration, printable
from sweeper.value_texts import without_middle

if TYPE_CHECKING:
    from types import TracebackType

    from sweeper.protocol.view import View

__all__ = ["LineDisplay", "LiveDisplay", "choose_display", "percent_text", "times_text"]

_LINE_EVERY_S = 60.0

_KEPT_LINES = 200
_FRAME_LINES = 12
"""Lines that are printed again after the terminal was resized, and room for the live region below them."""

_TIMES_WIDTH = 52
"""Room beside the bar for the percentage and the times."""

_STATUS_STYLES = {
    "done": "green",
    "running": "cyan",
    "paused": "dim",
    "held": "cyan",
    "queued": "dim",
    "diverged": "yellow",
    "failed": "red",
    "lost": "red",
}


class LineDisplay:
    """One line per event, with the time of day, for logs, pipes and dumb terminals.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._show_at = time.monotonic() + _LINE_EVERY_S

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, view: View) -> None:
        """One line, if none was printed for a minute."""
        now = time.monotonic()
        if now < self._show_at:
            return
        self._show_at = now + _LINE_EVERY_S
        counts = ", ".join(f"{count} {status}" for status, count in view.counts.items())
        measured = f"; {counted(view.measured, 'snapshot')} measured" if view.active and view.measured else ""
        search = f"; {view.search}" if view.search else ""
        self.say(f"{percent_text(view)}: {counts}{measured}; {times_text(view)}{search}")

    def say(self, text: str) -> None:
        """One line."""
        stamp = time.strftime("%H:%M:%S")
        self._console.print(f"{stamp} {escape(printable(text))}", highlight=False, soft_wrap=True)


class LiveDisplay:
    """An overall bar with the remaining time, what each trainer does, and the estimators' queue.

    Args:
        console: A terminal.
        hint: What Ctrl-C does.
    """

    def __init__(self, console: Console, *, hint: str = "") -> None:
        self._console = console
        self._hint = hint
        self._width = console.width
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        self._live.update(Text("starting Ray and the workers ...", style="dim"), refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """One line above the live region."""
        self._said.append(text)
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(printable(text), style="dim"), highlight=False, soft_wrap=True)

    def show(self, view: View) -> None:
        """Draw the sweep as it is now."""
        self._clear_after_resize()
        hint = [] if view.stopping or not self._hint else [Text(f"  {self._hint}", style="dim")]
        shown = Group(self._overall(view), *self._active(view), self._estimators(view), *hint)
        self._live.update(shown, refresh=True)

    def _clear_after_resize(self) -> None:
        """Begin a fresh screen with the last lines: terminals break the lines of the old frame in ways of their own."""
        if self._console.width == self._width:
            return
        self._width = self._console.width
        self._console.control(Control.clear(), Control.home())
        for text in list(self._said)[-max(1, self._console.height - _FRAME_LINES) :]:
            self._print(text)

    def _overall(self, view: View) -> Group:
        bar = ProgressBar(
            total=max(1, view.steps_total),
            completed=view.steps_done,
            width=max(8, min(28, self._console.width - _TIMES_WIDTH)),
        )
        row = Table.grid(padding=(0, 1))
        row.add_row(bar, percent_text(view), Text(times_text(view), style="dim", no_wrap=True, overflow="ellipsis"))
        counts = Text(" · ").join(
            Text(f"{count} {status}", style=_STATUS_STYLES.get(status, "")) for status, count in view.counts.items()
        )
        search = [Text(f"  search: {printable(view.search)}", style="dim")] if view.search else []
        return Group(row, Text("  ").append(counts), *search)

    def _active(self, view: View) -> list[Table]:
        if not view.active:
            return []
        rows = []
        for active in view.active:
            loss = "" if active.loss is None else f"loss {active.loss:.4g}"
            clipped = "" if active.clipped_fraction is None else f"clipped {100 * active.clipped_fraction:.0f} %"
            rows.append((f"{active.step}/{active.steps}", loss, clipped))
        # The numbers are what changes, so it is the names that give way where there is little room.
        taken = sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))
        room = max(12, self._console.width - taken - 2)
        table = Table.grid(padding=(0, 2))
        for active, numbers in zip(view.active, rows, strict=True):
            name = without_middle(printable(active.trial), room)
            table.add_row(Text(f"  {name}"), *(Text(text, no_wrap=True) for text in numbers))
        return [table]

    def _estimators(self, view: View) -> Text:
        text = f"  estimators: {view.measured} measured, {view.measuring} in progress, {view.queued_snapshots} queued"
        if view.held_back:
            text += "; trainers wait for them"
        return Text(text, style="dim")


def percent_text(view: View) -> str:
    """How far a sweep is."""
    return f"{100 * view.steps_done / max(1, view.steps_total):3.0f} %"


def times_text(view: View) -> str:
    """How long a sweep has taken, and will take."""
    if view.stopping:
        return "stopping"
    left = "" if view.left_s is None else f", about {duration(view.left_s)} left"
    return f"{duration(view.elapsed_s)} elapsed{left}"


def choose_display(console: Console, *, hint: str = "") -> LineDisplay | LiveDisplay:
    """A live region if the console is a terminal that can redraw, otherwise lines.

    Args:
        console: Where to print.
        hint: What Ctrl-C does; shown below the live region.

    Returns:
        A listener, to be used in a ``with`` block.
    """
    if console.is_terminal and not console.is_dumb_terminal and os.environ.get("CI") is None:
        return LiveDisplay(console, hint=hint)
    return LineDisplay(console)
