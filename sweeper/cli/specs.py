"""Commands on a spec that do not start a sweep: write one, check it, test its problem, say what a run would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sweeper.cli.options import AllowCode, AsJson, Out, Overrides, SpecPath, note, show
from sweeper.errors import ClipsweepError
from sweeper.labels import counted

__all__ = ["check", "init", "null_test", "plan", "schema", "validate"]


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The file to write.")] = Path("sweep.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write a commented starter spec."""
    from sweeper.spec import starter_spec

    if file.exists() and not force:
        raise ClipsweepError(f"{file}: already exists; give another name, or --force to overwrite it")
    try:
        file.write_text(starter_spec(file))
    except OSError as error:
        raise ClipsweepError(f"{file}: cannot be written: {error.strerror}") from error
    note(f"wrote {file}; try `clipsweep plan {file}`, then `clipsweep run {file}`")


def validate(spec: SpecPath, overrides: Overrides = None) -> None:
    """Check a spec: every error with its line and column."""
    from sweeper.planning.plan import expand
    from sweeper.spec import load_spec

    plan = expand(load_spec(spec, overrides or []))
    note(f"{spec}: valid, {counted(len(plan.trials), 'trial')}")


def check(spec: SpecPath, overrides: Overrides = None, allow_code: AllowCode = False, as_json: AsJson = False) -> None:
    """Test a problem's promises in seconds: deterministic, pure batches, finite gradients, resumable, shippable."""
    from sweeper.spec import load_spec

    sweep = load_spec(spec, overrides or [])  # before torch is loaded: a mistyped name is told at once
    from sweeper.check import check_sweep

    rows = []
    current = None
    for checked in check_sweep(sweep, allow_code=allow_code):
        finding = checked.finding
        rows.append({"problem": checked.problem, **vars(finding), "holds": finding.holds})
        if as_json:
            continue
        if checked.problem != current:
            current = checked.problem
            show(current)
        show(f"  {'ok    ' if finding.holds else 'BROKEN'}  {finding.promise}")
        if not finding.holds:
            show(f"          found: {finding.broken}\n          fix:   {finding.fix}")
        elif finding.note:
            show(f"          note:  {finding.note}")
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    broken = sum(not row["holds"] for row in rows)
    note(f"{broken} of {counted(len(rows), 'promise')} broken" if broken else f"all {len(rows)} promises hold")
    raise typer.Exit(1 if broken else 0)


def null_test(
    spec: SpecPath, overrides: Overrides = None, allow_code: AllowCode = False, as_json: AsJson = False
) -> None:
    """Measure the same weights twice, in every problem of a spec: the difference must be exactly 0."""
    from sweeper.spec import load_spec

    sweep = load_spec(spec, overrides or [])
    from sweeper.null_test import null_test_document

    document = null_test_document(sweep, allow_code=allow_code)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        for row in document["problems"]:
            show(f"{'passed' if row['passed'] else 'FAILED'}  {row['problem']}: {row['verdict']}")
    raise typer.Exit(0 if document["passed"] else 1)


def plan(spec: SpecPath, overrides: Overrides = None, out: Out = None, as_json: AsJson = False) -> None:
    """Show what a run would do: cells, seeds, what is new and done, time and disk. Starts nothing."""
    from sweeper.cluster.machine import misfit
    from sweeper.planning.preview import plan_document, plan_text
    from sweeper.spec import load_spec

    sweep = load_spec(spec, overrides or [])
    document = plan_document(sweep, out)
    if sweep.cluster.address == "local":
        left = document["new"] + document["paused"]
        document["misfit"] = misfit(sweep.resources, measures=sweep.measure is not None, num_trials=left)
    show(json.dumps(document, indent=2) if as_json else plan_text(document))


def schema() -> None:
    """Print the JSON Schema of specs, for completion in an editor."""
    from sweeper.spec import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
