"""Help on terminals of 60 and 80 columns: everything is said, and no word is in two."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sweeper.cli.app import _COMMANDS, _GROUPS, app
from sweeper.cli.examples import EXAMPLES
from sweeper.spec.starter import TEMPLATES

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


def test_every_command_has_examples_and_no_other_has() -> None:
    assert EXAMPLES.keys() == {" ".join(command) for command in COMMANDS}


@named
def test_the_examples_are_of_the_command_and_can_be_given(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = help_of(command, 60, monkeypatch).partition("\nExamples:\n")[2].splitlines()
    assert [line.removeprefix("  ") for line in shown] == list(EXAMPLES[" ".join(command)])
    for line in EXAMPLES[" ".join(command)]:
        words = shlex.split(line.partition(" > ")[0].partition(" < ")[0])[1:]
        assert words[: len(command)] == command
        parser, called = typer.main.get_command(app), "clipsweep"
        while hasattr(parser, "commands"):
            called, *words = words
            parser = parser.commands[called]
        # Raises for an unknown option, a missing argument, and one too many.
        parsed = parser.make_context(called, words).params
        assert parsed.get("template", "own") in TEMPLATES


def test_commands_are_listed_under_what_they_are_for_in_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = help_of([], 60, monkeypatch)
    places = [shown.index(f"\n{heading}:\n") for heading in _GROUPS]
    assert places == sorted(places)
    for heading, commands in _GROUPS.items():
        section = shown.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
        listed = [line.split()[0] for line in section.splitlines() if line[2:3].strip()]
        assert [name for name in listed if name != "data"] == list(commands)
        assert {
            line.index(line.split()[1], 2 + len(line.split()[0])) for line in section.splitlines() if line[2:3].strip()
        } == {14}
