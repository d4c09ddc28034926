"""Help on terminals of 60 and 80 columns: everything is said, and no word is in two."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.app import _COMMANDS, app

COMMANDS = [[], *([name] for name in _COMMANDS), ["data"], *(["data", name] for name in ("fetch", "list", "path"))]
named = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "clipsweep")


def help_of(command: list[str], width: int, monkeypatch: pytest.MonkeyPatch, *, option: str = "--help") -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    done = CliRunner().invoke(app, [*command, option], terminal_width=width)
    assert done.exit_code == 0
    return done.output


@named
def test_help_fits_and_breaks_no_word(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = (help_of(command, width, monkeypatch) for width in (60, 80))
    assert max(map(len, narrow.splitlines())) <= 60
    assert max(map(len, wide.splitlines())) <= 80
    assert narrow.split() == wide.split(), "the same words in the same order"
    assert "…" not in wide
    assert "..." not in wide.replace("[ARGS]...", "").replace("[TRIAL]...", "").replace("RUN...", ""), (
        "no summary is cut"
    )


@named
def test_help_has_no_types_and_short_as_well_as_long_options(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = help_of(command, 80, monkeypatch)
    for noise in ("<bool>", "<path>", "<str>", "<int", "<float", "{SPEC}", "{RUN}", "[[", "list["):
        assert noise not in shown
    assert help_of(command, 80, monkeypatch, option="-h") == shown


def test_usage_says_what_a_command_needs_and_what_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = {name: help_of([name], 80, monkeypatch).partition("\n")[0] for name in _COMMANDS}
    assert usage["report"].endswith(" report [OPTIONS] RUN...")
    assert usage["plot"].endswith(" plot [OPTIONS] RUN... KIND")
    assert usage["ls"].endswith(" ls [OPTIONS] [DIR]")
    assert usage["retry"].endswith(" retry [OPTIONS] RUN [TRIAL]...")


def test_the_list_of_commands_has_the_whole_summary_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = " ".join(help_of([], 60, monkeypatch).split())
    for name, command in _COMMANDS.items():
        summary = " ".join((command.__doc__ or "").partition("\n\n")[0].split())
        assert f"{name} {summary}" in listed


def test_a_mistyped_command_or_option_is_told_without_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for words, said in (
        (["reprt", "x"], "Did you mean 'report'"),
        (["report", "x", "--nonsense"], "No such option: --nonsense"),
        (["report"], "Missing argument 'RUN...'"),
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert said in done.output
        assert "─" not in done.output
