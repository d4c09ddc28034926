"""Names and errors come from code and files of others: a terminal and a spreadsheet get them as text alone."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sweeper.display import LineDisplay
from sweeper.labels import printable
from sweeper.text_tables import csv_table, markdown_table, terminal_lines, terminal_table

HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold]lr=[1e-3][/bold]\r\x9b31m\u202egpj.exe"


@pytest.mark.parametrize(
    "shown",
    [
        terminal_table(HOSTILE, [HOSTILE], [[HOSTILE]], width=200),
        terminal_lines([HOSTILE], width=200),
        "\n".join(markdown_table([HOSTILE], [[HOSTILE]])),
        printable(HOSTILE),
    ],
    ids=["table", "lines", "markdown", "plain"],
)
def test_markup_is_kept_as_text_and_no_control_character_gets_through(shown: str) -> None:
    assert "[bold]lr=[1e-3][/bold]" in shown
    assert "\\x1b[2J" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_what_a_sweep_says_is_shown_as_text() -> None:
    output = io.StringIO()
    with LineDisplay(Console(file=output, force_terminal=True, width=200)) as display:
        display.say(HOSTILE)
    assert "[bold]lr=[1e-3][/bold]" in output.getvalue()
    assert output.getvalue().rstrip("\n").isprintable()


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_runs_nothing(cell: str) -> None:
    assert csv_table([{"name": cell}]).replace('"', "").split("\n", 1)[1].startswith("'")


def test_lines_stay_lines() -> None:
    assert printable("a\nb\tc") == "a\nb\\tc"
