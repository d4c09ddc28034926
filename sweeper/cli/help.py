"""Help as plain text, which fits terminals of 60 columns: no frames, no words in two, no types behind flags."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from sweeper.cli.examples import EXAMPLES

__all__ = ["add_command", "new_app"]


def new_app(help: str, *, path: str = "", **options: Any) -> typer.Typer:
    """A command that consists of commands.

    Args:
        help: What it is for.
        path: Its key in :data:`~sweeper.cli.examples.EXAMPLES`.
        options: More for :class:`typer.Typer`.

    Returns:
        The command, without any yet.
    """
    # Rich's tables cut long options in their middle, and write <bool> behind flags.
    return typer.Typer(
        help=help,
        cls=_Group,
        epilog="\n".join(EXAMPLES[path]),
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def add_command(
    app: typer.Typer, name: str, command: Callable[..., None], *, within: str = "", group: str | None = None
) -> None:
    """Add a command whose summary stands in the list of commands as a whole.

    Args:
        app: What it is added to.
        name: Its name.
        command: The function; the first paragraph of its docstring is the summary.
        within: The name of the command that it is a part of.
        group: The heading in the list of commands under which it stands.
    """
    summary = " ".join((inspect.getdoc(command) or "").partition("\n\n")[0].split())
    examples = "\n".join(EXAMPLES[f"{within} {name}".strip()])
    app.command(name, cls=_Command, short_help=summary, epilog=examples, rich_help_panel=group)(command)


_TYPE = re.compile(r" <[^<>]+>$")


class _Command(TyperCommand):
    """A command whose help says ``SPEC`` and ``[DIR]`` in any version of typer, and not ``{SPEC} <path>``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the line of usage behind the command's name."""
        return [_plain(piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of arguments and options."""
        write = formatter.write_dl
        formatter.write_dl = lambda rows, **more: write([(_TYPE.sub("", name), text) for name, text in rows], **more)
        super().format_options(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write_examples(self.epilog, formatter)


class _Group(TyperGroup):
    """A command that consists of commands, listed by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the lists of commands, one for each heading."""
        listed: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            listed.setdefault(command.rich_help_panel or "Commands", []).append((name, command.short_help))
        # The same column in all lists.
        width = max(len(name) for rows in listed.values() for name, _ in rows)
        for heading, rows in listed.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in rows])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        _write_examples(self.epilog, formatter)


def _write_examples(examples: str | None, formatter: Any) -> None:
    # Not wrapped: they are there to be copied.
    with formatter.section("Examples"):
        for line in (examples or "").splitlines():
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _plain(piece: str) -> str:
    """An argument with the braces, brackets and dots of its own name alone."""
    if piece[:1] == "{":
        piece = piece[1:].replace("}", "", 1)
    elif piece[:2] == "[[":
        piece = piece[1:].replace("]...]", "]...", 1).replace("]]", "]", 1)
    return piece.replace("......", "...")
