"""Commands on code of the user's own: what a training step does."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli.options import AsJson, Format, note, shorten, show, show_json, show_rows
from sweeper.errors import ClipsweepError
from sweeper.formats import choose_format
from sweeper.labels import counted
from sweeper.requirements import require_installed

if TYPE_CHECKING:
    from sweeper.audit_clip import AuditedStep

__all__ = ["audit_clip"]

_COLUMNS = ("ranks", "question", "verdict", "key", "found", "evidence", "fix", "file", "line")
_QUESTION_AT = 10
_TEXT_AT = 26
_WIDEST = 110


def audit_clip(
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="module:function, or file.py:function.", show_default=False)
    ],
    prepare: Annotated[
        str | None,
        typer.Option(
            "--prepare", metavar="NAME", show_default=False,
            help="The function in the same module that wraps the model; prepare by default, if it has one.",
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", metavar="1|2", help="On one or two gloo ranks; both by default.", show_default=False),
    ] = None,
    max_norm: Annotated[
        float | None,
        typer.Option("--max-norm", metavar="X", help="The threshold that is meant.", show_default=False),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="After how long without an answer a step hangs.")
    ] = 30.0,
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Audit how your own training step clips: which norm, when, how often, and what inf and NaN do."""
    style = choose_format(wanted, as_json=as_json)
    if ranks not in {None, 1, 2}:
        raise ClipsweepError(f"--ranks {ranks}: give 1 or 2")
    require_installed("audit-clip", "torch")
    from sweeper.audit_clip import audit_step

    rows: list[dict[str, Any]] = []
    current = None
    answers = audit_step(
        step, folder=Path.cwd(), prepare=prepare, ranks=(1, 2) if ranks is None else (ranks,), max_norm=max_norm,
        timeout_s=timeout, say=note,
    )  # fmt: skip
    try:
        for audited in answers:
            rows.append(_row(audited))
            if style != "table":
                continue
            if audited.ranks != current:
                current = audited.ranks
                show(f"{step} on {counted(current, 'rank')}")
            show("\n".join(_lines(audited, min(shutil.get_terminal_size((80, 24)).columns, _WIDEST))))
    except KeyboardInterrupt:
        note("interrupted; the step's processes are ended, and nothing was changed")
        raise typer.Exit(130) from None
    finally:
        answers.close()
    wrong, open_ = (sum(row["verdict"] == verdict for row in rows) for verdict in ("finding", "cannot tell"))
    if style == "json":
        show_json({"step": step, "passed": not (wrong or open_), "findings": wrong, "untold": open_, "answers": rows})
    elif style != "table":
        show_rows(style, [row | _flat(row["line"]) for row in rows], _COLUMNS)
    said = f"{counted(wrong, 'finding')} in {counted(len(rows), 'answer')}"
    note(said + (f", {open_} could not be told" if open_ else ""))
    raise typer.Exit(1 if wrong or open_ else 0)


def _row(audited: AuditedStep) -> dict[str, Any]:
    answer, spot = audited.answer, audited.answer.spot
    names = ("question", "verdict", "key", "found", "evidence", "fix")
    line = None if spot is None else asdict(spot)
    return {"ranks": audited.ranks, **{name: getattr(answer, name) for name in names}, "line": line}


def _flat(line: dict[str, Any] | None) -> dict[str, Any]:
    return {"file": None, "line": None} if line is None else {"file": line["file"], "line": line["number"]}


def _lines(audited: AuditedStep, width: int) -> list[str]:
    """An answer as a row of a table, its text in as many lines as it needs."""
    answer = audited.answer
    texts = [answer.found, answer.evidence]
    if answer.verdict != "ok" and answer.fix:
        texts.append(f"fix: {answer.fix}")
    if answer.verdict != "ok" and (spot := answer.spot) is not None:
        texts.append(f"at {shorten(Path(spot.file))}:{spot.number}, in {spot.function}: {spot.code}")
    first, *rest = (line for text in texts if text for line in _wrapped(text, max(width - _TEXT_AT, 20)))
    verdict = {"finding": "FINDING", "cannot tell": "?"}.get(answer.verdict, answer.verdict)
    head = f"  {verdict:{_QUESTION_AT - 2}}{answer.question:{_TEXT_AT - _QUESTION_AT}}{first}"
    return [head, *(f"{'':{_TEXT_AT}}{line}" for line in rest)]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)
