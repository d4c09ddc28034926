"""Displays of a running sweep: one live region on a terminal, one line per event elsewhere. All on stderr."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweeper.labels import duration, printable

if TYPE_CHECKING:
    from types import TracebackType

    from sweeper.protocol.view import View

__all__ = ["LineDisplay", "LiveDisplay", "choose_display"]

_STATUS_STYLES = {
    "done": "green",
    "running": "cyan",
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

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, view: View) -> None:
        """Show nothing: a line per event is enough."""

    def say(self, text: str) -> None:
        """One line."""
        stamp = time.strftime("%H:%M:%S")
        self._console.print(f"{stamp} {escape(printable(text))}", highlight=False, soft_wrap=True)


class LiveDisplay:
    """An overall bar with the remaining time, what each trainer does, and the estimators' queue.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._started = time.monotonic()
        self._first_steps: int | None = None

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
        self._console.print(Text(printable(text), style="dim"), highlight=False, soft_wrap=True)

    def show(self, view: View) -> None:
        """Draw the sweep as it is now."""
        if self._first_steps is None:
            self._first_steps, self._started = view.steps_done, time.monotonic()
        self._live.update(Group(self._overall(view), *self._active(view), self._estimators(view)), refresh=True)

    def _overall(self, view: View) -> Table:
        row = Table.grid(padding=(0, 1))
        counts = Text(" · ").join(
            Text(f"{count} {status}", style=_STATUS_STYLES.get(status, "")) for status, count in view.counts.items()
        )
        percent = 100 * view.steps_done / max(1, view.steps_total)
        bar = ProgressBar(total=max(1, view.steps_total), completed=view.steps_done, width=28)
        row.add_row(bar, f"{percent:3.0f} %", counts, Text(self._time_left(view), style="dim"))
        return row

    def _time_left(self, view: View) -> str:
        elapsed = time.monotonic() - self._started
        gained = view.steps_done - (self._first_steps or 0)
        if view.stopping:
            return "stopping"
        if gained <= 0 or elapsed < 2:
            return f"{duration(elapsed)} elapsed"
        left = elapsed * (view.steps_total - view.steps_done) / gained
        return f"{duration(elapsed)} elapsed, {duration(left)} left"

    def _active(self, view: View) -> list[Table]:
        if not view.active:
            return []
        table = Table.grid(padding=(0, 2))
        for active in view.active:
            loss = "" if active.loss is None else f"loss {active.loss:.4g}"
            clipped = "" if active.clipped_fraction is None else f"clipped {100 * active.clipped_fraction:.0f} %"
            steps = f"{active.step}/{active.steps}"
            table.add_row(Text("  " + printable(active.trial)), Text(steps, justify="right"), loss, clipped)
        return [table]

    def _estimators(self, view: View) -> Text:
        text = f"  estimators: {view.measured} measured, {view.measuring} in progress, {view.queued_snapshots} queued"
        if view.held_back:
            text += "; trainers wait for them"
        return Text(text, style="dim")


def choose_display(console: Console) -> LineDisplay | LiveDisplay:
    """A live region if the console is a terminal that can redraw, otherwise lines.

    Returns:
        A listener, to be used in a ``with`` block.
    """
    if console.is_terminal and not console.is_dumb_terminal and os.environ.get("CI") is None:
        return LiveDisplay(console)
    return LineDisplay(console)
