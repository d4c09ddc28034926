"""Progress of a sweep in a notebook: one bar that stays in its place, and plain lines where there is no notebook."""

from __future__ import annotations

import time
from collections import deque
from html import escape
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeper.labels import printable
from sweeper.monitor.display import LineDisplay, percent_text, times_text

if TYPE_CHECKING:
    from sweeper.protocol.view import View

__all__ = ["NotebookDisplay"]

_EVERY_S = 0.5
_KEPT_LINES = 5


class NotebookDisplay:
    """Shows a running sweep below the cell that runs it; a listener for ``run``.

    Outside of IPython it prints lines to stderr, as ``clipsweep run`` does into a file.

    Args:
        every_s: Seconds between two pictures, at least.
    """

    def __init__(self, *, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self._show_at = -float("inf")
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._view: View | None = None
        self._handle = _place_in_notebook()
        self._lines = LineDisplay(Console(stderr=True, force_jupyter=False)) if self._handle is None else None

    def show(self, view: View) -> None:
        """Draw the sweep as it is now, unless that was done a moment ago."""
        self._view = view
        if self._lines is not None:
            self._lines.show(view)
            return
        now = time.monotonic()
        # The last picture stays, so it is always drawn.
        if now >= self._show_at or view.steps_done >= view.steps_total:
            self._show_at = now + self._every_s
            self._draw()

    def say(self, text: str) -> None:
        """Show a line below the bar, with the latest ones before it."""
        if self._lines is not None:
            self._lines.say(text)
            return
        self._said.append(text)
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML

        self._handle.update(HTML(progress_html(self._view, list(self._said))))


def progress_html(view: View | None, said: list[str]) -> str:
    """A sweep at one moment as a piece of HTML, every text escaped.

    Args:
        view: The sweep; None before anything is known of it.
        said: Lines about it.

    Returns:
        Elements without scripts.

    Example:
        >>> progress_html(None, ["<b>"])
        '<div><p>starting ...</p><pre>&lt;b&gt;</pre></div>'
    """
    if view is None:
        bar = "<p>starting ...</p>"
    else:
        counts = ", ".join(f"{count} {status}" for status, count in view.counts.items())
        words = [percent_text(view).strip(), times_text(view), counts, view.search or "", view.waiting_for or ""]
        text = " · ".join(escape(printable(word)) for word in words if word)
        bar = f'<p><progress max="{max(1, view.steps_total)}" value="{view.steps_done}"></progress> {text}</p>'
    lines = escape("\n".join(printable(line) for line in said))
    return f"<div>{bar}<pre>{lines}</pre></div>" if said else f"<div>{bar}</div>"


def _place_in_notebook() -> Any:
    """A place below the running cell; None where there is no IPython that could show one."""
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        return None
    shell = get_ipython()
    # IPython in a terminal shows no HTML.
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return display(HTML(progress_html(None, [])), display_id=True)
