"""``clipsweep list``: what a spec can name, with options and defaults."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli.completion import complete_kind
from sweeper.cli.options import AsJson, Format, show, show_json, show_rows
from sweeper.errors import ClipsweepError
from sweeper.formats import choose_format, value_json

if TYPE_CHECKING:
    from sweeper.spec.catalog import Entry, Option

__all__ = ["list_known"]

_WIDEST = 120
_COLUMNS = ("kind", "name", "about", "where", "package", "option", "type", "required", "default", "about_option")


def list_known(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="problems, functions, models, optimizers, transforms, thresholds, schedules, averages, estimators, "
            "searchers.",
            show_default=False,
            autocompletion=complete_kind,
        ),
    ] = None,
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Show what a spec can name; of one kind, with every option, its type and its default."""
    style = choose_format(wanted, as_json=as_json)
    from sweeper.spec.catalog import KINDS, catalog

    if kind is not None and kind not in KINDS:
        from sweeper.spec.syntax.diagnostics import choices

        raise ClipsweepError(f"unknown kind {kind!r}; {choices(kind, tuple(KINDS))}")
    entries = catalog(kind)
    if style == "json":
        show_json([{"where": KINDS[entry.kind].where} | asdict(entry) for entry in entries])
    elif style == "table":
        width = min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST)
        show("\n".join(_overview(entries, width) if kind is None else _details(entries, width)))
    else:
        show_rows(style, [row for entry in entries for row in _rows(entry)], _COLUMNS)


def _rows(entry: Entry) -> Iterator[dict[str, Any]]:
    """A row for each option; one without, if there is none."""
    from sweeper.spec.catalog import KINDS

    fixed: dict[str, Any] = {"kind": entry.kind, "name": entry.name, "about": entry.about}
    fixed |= {"where": KINDS[entry.kind].where, "package": entry.package}
    for option in entry.options:
        value = None if option.required else value_json(option.default)
        about = {"option": option.name, "type": option.type, "required": option.required, "default": value}
        yield fixed | about | {"about_option": option.about}
    if not entry.options:
        yield fixed | dict.fromkeys(_COLUMNS[5:])


def _overview(entries: Sequence[Entry], width: int) -> Iterator[str]:
    """A line for each."""
    from sweeper.spec.catalog import KINDS

    column = max(len(entry.name) for entry in entries)
    for name, kind in KINDS.items():
        yield _head(name)
        for entry in entries:
            if entry.kind == name:
                yield from _filled(f"  {entry.name:<{column}}  ", _about(entry), width)
        if kind.own:
            yield f"  {_OWN}"
        yield ""
    yield "`clipsweep list KIND` shows the options"


_OWN = "or your own: package.module:factory"


def _details(entries: Sequence[Entry], width: int) -> Iterator[str]:
    """All options of each."""
    from sweeper.spec.catalog import KINDS

    yield _head(entries[0].kind)
    for entry in entries:
        yield ""
        yield from _filled(f"{entry.name}: ", _about(entry), width, indent=2)
        column = min(max((len(option.name) for option in entry.options), default=0), 24)
        for option in entry.options:
            text = f"{option.about} ({_accepts(option)})".strip()
            yield from _filled(f"  {option.name:<{column}}  ", text, width)
    if KINDS[entries[0].kind].own:
        yield ""
        yield _OWN


def _about(entry: Entry) -> str:
    return entry.about if entry.package is None else f"{entry.about} ({entry.use}, of {entry.package})".strip()


def _head(kind: str) -> str:
    from sweeper.spec.catalog import KINDS

    return f"{kind} ({KINDS[kind].where})"


def _accepts(option: Option) -> str:
    if option.required:
        return f"{option.type}; required"
    default = option.default
    if isinstance(default, dict) and "use" in default:
        default = default["use"]
    return f"{option.type}; default {default if isinstance(default, str) else value_json(default)}"


def _filled(head: str, text: str, width: int, *, indent: int | None = None) -> list[str]:
    """A head and a text behind it, in lines that fit."""
    margin = " " * (len(head) if indent is None else indent)
    if len(margin) > width // 2:
        margin = "      "
    filled = textwrap.wrap(head + text, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)
    return filled or [head.rstrip()]
