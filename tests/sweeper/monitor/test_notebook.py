"""Progress in a notebook: one place that is drawn again, and lines where there is no notebook."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sweeper.monitor.notebook import NotebookDisplay, progress_html
from sweeper.protocol.view import View


def view(steps: int, **more: Any) -> View:
    return View(
        counts={"done": 1, "running": 1}, total=2, steps_done=steps, steps_total=10, active=(), waiting=0,
        queued_snapshots=0, measuring=0, measured=0, held_back=False, stopping=False, **more,
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A notebook that remembers what it was told to show in the one place that it gave."""
    pictures: list[str] = []
    place = SimpleNamespace(update=pictures.append)

    def display(shown: str, *, display_id: bool) -> Any:
        assert display_id
        pictures.append(shown)
        return place

    shell, shows = ModuleType("IPython"), ModuleType("IPython.display")
    vars(shell).update(get_ipython=lambda: SimpleNamespace(kernel=object()))
    vars(shows).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shows)
    return pictures


def test_a_notebook_is_drawn_now_and_then_and_at_the_end(drawn: list[str]) -> None:
    listener = NotebookDisplay(every_s=3600)
    for steps in (0, 1, 2, 10):
        listener.show(view(steps))
    listener.say("all done")
    assert ["starting" in drawn[0], *('value="' in picture for picture in drawn[1:])] == [True, True, True, True]
    assert ['value="0"' in drawn[1], 'value="10"' in drawn[2], "all done" in drawn[3]] == [True, True, True]


def test_without_a_notebook_lines_go_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    listener = NotebookDisplay()
    listener.show(view(1))
    listener.say("trial [bold]a[/bold] diverged")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "trial [bold]a[/bold] diverged" in shown.err


def test_nothing_that_is_said_becomes_markup() -> None:
    shown = progress_html(view(1, search="<b>\u202e"), ["<script>\x1b"])
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert not {"\u202e", "\x1b"} & set(shown)
