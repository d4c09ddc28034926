"""Commands on a spec that do not start a sweep: check it, test its problem, say what a run would do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from sweeper.cli.options import (
    TEXT_FORMATS,
    AllowCode,
    AsJson,
    Device,
    Format,
    Out,
    Overrides,
    SpecPath,
    TextFormat,
    note,
    shorten,
    show,
    show_json,
    show_rows,
)
from sweeper.cli.spec_input import name_of_spec, read_spec
from sweeper.formats import choose_format
from sweeper.labels import counted

if TYPE_CHECKING:
    from sweeper.check import Finding
    from sweeper.errors import SpecError
    from sweeper.planning.plan import Plan
    from sweeper.spec import Sweep

__all__ = ["check", "null_test", "plan", "schema", "validate"]


def validate(spec: SpecPath, overrides: Overrides = None, wanted: TextFormat = None, as_json: AsJson = False) -> None:
    """Check a spec: every error with its line and column."""
    style = choose_format(wanted, as_json=as_json, known=TEXT_FORMATS)
    from sweeper.errors import SpecError
    from sweeper.planning.plan import expand

    try:
        sweep = read_spec(spec, overrides)
        plan = expand(sweep)
    except SpecError as error:
        if style == "json":
            show_json(_validity(spec, errors=[problem.document() for problem in error.problems] or [_whole(error)]))
        raise
    if style == "json":
        show_json(_validity(spec, sweep, plan))
    if sweep.sweep.search is not None:
        cells = counted(len({cell.place for cell in sweep.cells}), "cell")
        within = f"{cells} with {counted(plan.num_seeds, 'seed')}"
        note(f"{name_of_spec(spec)}: valid, a search in {within}: `clipsweep plan` says how far")
        return
    note(f"{name_of_spec(spec)}: valid, {counted(len(plan.trials), 'trial')}")


def _validity(
    spec: Path, sweep: Sweep | None = None, plan: Plan | None = None, *, errors: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """What a spec is, or all that is wrong with it."""
    from sweeper.planning.standing import default_run_dir

    if sweep is None or plan is None:
        return {"spec": spec, "valid": False, "errors": errors}
    labels = plan.labels
    names = ("trial_id", "cell_id", "arm", "seed")
    return {
        "spec": spec,
        "valid": True,
        "errors": [],
        "name": sweep.name,
        "run": default_run_dir(sweep),
        "cells": plan.num_cells,
        "seeds": plan.num_seeds,
        "trials": len(plan.trials),
        "search": None if sweep.sweep.search is None else sweep.sweep.search.use,
        "trial_rows": [
            {name: getattr(trial, name) for name in names} | {"cell": labels[trial.cell_id]} for trial in plan.trials
        ],
    }


def _whole(error: SpecError) -> dict[str, Any]:
    """A spec that could not be read at all, as one problem without a place."""
    return {"file": None, "line": None, "column": None, "path": "", "message": str(error), "hint": ""}


_CHECKED = ("problem", "promise", "status", "broken", "file", "line", "fix", "note", "untested")


def check(
    spec: SpecPath,
    overrides: Overrides = None,
    allow_code: AllowCode = False,
    device: Device = "cpu",
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Test a problem's promises in seconds: deterministic, pure batches, finite gradients, resumable, shippable."""
    style = choose_format(wanted, as_json=as_json)
    from sweeper.check import check_sweep

    sweep = read_spec(spec, overrides)
    rows = []
    current = None
    for checked in _until_interrupted(check_sweep(sweep, allow_code=allow_code, device=device, say=note)):
        finding = checked.finding
        rows.append({"problem": checked.problem, **asdict(finding), "holds": finding.holds})
        if style != "table":
            continue
        if checked.problem != current:
            current = checked.problem
            show(current)
        _show_finding(finding)
    if style == "json":
        show_json(rows)
    elif style != "table":
        show_rows(style, [row | _flat_line(row["line"]) for row in rows], _CHECKED)
    broken, untested = (sum(row["status"] == status for row in rows) for status in ("broken", "untested"))
    if broken:
        note(f"{broken} of {counted(len(rows), 'promise')} broken" + (f", {untested} not tested" if untested else ""))
    else:
        note(f"all {len(rows)} promises hold")
    raise typer.Exit(1 if broken else 0)


_Item = TypeVar("_Item")


def _until_interrupted(items: Iterable[_Item]) -> Iterator[_Item]:
    """The items; where Ctrl-C ends them, this is said and nothing else, since nothing was begun that could be lost."""
    try:
        yield from items
    except KeyboardInterrupt:
        note("interrupted; the problem's process is ended, and nothing was changed")
        raise typer.Exit(130) from None


def _flat_line(line: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"file": None, "line": None} if line is None else {"file": line["file"], "line": line["number"]}


def _show_finding(finding: Finding) -> None:
    if finding.status == "untested":
        show(f"  -       {finding.promise}: not tested, {finding.untested}")
        return
    show(f"  {'ok    ' if finding.holds else 'BROKEN'}  {finding.promise}")
    lines = {"found": finding.broken, "line": "", "fix": finding.fix, "note": finding.note}
    if (line := finding.line) is not None:
        where = shorten(Path(line.file))
        lines["line"] = f"{where}:{line.number}, in {line.function}" + (f": {line.code}" if line.code else "")
    for name, text in lines.items():
        if text:
            show(f"          {f'{name}:':6} {text}")


_TESTED = ("problem", "passed", "verdict", "again", "rebuilt", "hessian", "copied", "grad_norm")


def null_test(
    spec: SpecPath,
    overrides: Overrides = None,
    allow_code: AllowCode = False,
    device: Device = "cpu",
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Measure the same weights twice, in every problem of a spec: the difference must be exactly 0."""
    style = choose_format(wanted, as_json=as_json)
    from sweeper.null_test import null_test_document

    sweep = read_spec(spec, overrides)
    (document,) = _until_interrupted(
        null_test_document(sweep, allow_code=allow_code, device=device, say=note) for _ in range(1)
    )
    if style == "json":
        show_json(document)
    elif style != "table":
        show_rows(style, document["problems"], _TESTED)
    else:
        for row in document["problems"]:
            show(f"{'passed' if row['passed'] else 'FAILED'}  {row['problem']}: {row['verdict']}")
    raise typer.Exit(0 if document["passed"] else 1)


def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    out: Out = None,
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do: cells, seeds, what is new and done, time and disk. Starts nothing."""
    style = choose_format(wanted, as_json=as_json)
    from sweeper.cluster.machine import misfit
    from sweeper.planning.preview import plan_document, plan_text
    from sweeper.planning.standing import Standing

    sweep = read_spec(spec, overrides)
    document = plan_document(sweep, out)
    if sweep.cluster.address == "local":
        left = document["new"] + document["paused"]
        document["misfit"] = misfit(
            sweep.resources, measures=sweep.measure is not None, num_trials=left, gpus=sweep.cluster.gpus
        )
    if style == "json":
        show_json(document)
    elif style == "table":
        show(plan_text(document))
    else:
        kinds = [kind.name for kind in fields(Standing) if kind.name in document]
        rows = [row | {kind: row["seeds"].get(kind, 0) for kind in kinds} for row in document["table"]]
        show_rows(style, rows, ("cell_id", "arm", "cell", *kinds))


def schema() -> None:
    """Print the JSON Schema of specs, for completion in an editor."""
    from sweeper.spec import json_schema

    show_json(json_schema())
