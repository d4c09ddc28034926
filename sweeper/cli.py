"""The command line: parse, call, print, exit code. Data on stdout, everything else on stderr.

Ray, torch and pyarrow are imported only by the commands that need them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.cli_answers import advise, fit, plot, report, theory
from sweeper.cli_data import data_app
from sweeper.cli_jobs import attach, cancel, job_arguments, run_as_job
from sweeper.cli_options import AllowCode, AsJson, Insecure, Out, Overrides, RunPath, SpecPath
from sweeper.cli_output import note as _note
from sweeper.cli_output import shorten as _shorten
from sweeper.cli_output import show as _show
from sweeper.errors import ClipsweepError, SpecError

__all__ = ["app", "main"]

app = typer.Typer(
    name="clipsweep",
    help="Train with and without gradient clipping on Ray, and measure how smooth the loss is along the way.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")


def main() -> None:
    """Entry point: run the command line, and turn errors into a message and an exit code."""
    try:
        app()
    except ClipsweepError as error:
        # A spec's errors begin with file, line and column, as editors and terminals know them.
        _note(str(error) if isinstance(error, SpecError) else f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _note("interrupted; what was committed is safe, run the same command to go on")
        _leave_at_once(130)
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does: not an error, but nothing may be flushed to it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:
        if os.environ.get("CLIPSWEEP_DEBUG"):
            raise
        with tempfile.NamedTemporaryFile("w", prefix="clipsweep-error-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        kind, value, _ = sys.exc_info()
        name = kind.__name__ if kind is not None else "error"
        _note(f"internal error: {name}: {value}\nthe traceback is in {log.name}; CLIPSWEEP_DEBUG=1 prints it")
        sys.exit(3)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to.")] = Path("sweep.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a commented starter spec."""
    from sweeper.spec import STARTER

    if file.exists() and not force:
        raise ClipsweepError(f"{file}: is there already; give another name, or --force to overwrite it")
    try:
        file.write_text(STARTER)
    except OSError as error:
        raise ClipsweepError(f"{file}: cannot be written: {error.strerror}") from error
    _note(f"wrote {file}; try `clipsweep plan {file}`, then `clipsweep run {file}`")


@app.command()
def validate(spec: SpecPath, overrides: Overrides = None) -> None:
    """Check a spec: every error with its line and column."""
    from sweeper.plan import expand
    from sweeper.spec import load_spec

    plan = expand(load_spec(spec, overrides or []))
    _note(f"{spec}: valid, {len(plan.trials)} trials")


@app.command()
def check(spec: SpecPath, overrides: Overrides = None, allow_code: AllowCode = False, as_json: AsJson = False) -> None:
    """Try a problem's promises in seconds: deterministic, pure batches, finite gradients, resumable, shippable."""
    from sweeper.check import check_sweep
    from sweeper.spec import load_spec

    rows = []
    current = None
    for checked in check_sweep(load_spec(spec, overrides or []), allow_code=allow_code):
        finding = checked.finding
        rows.append({"problem": checked.problem, **vars(finding), "holds": finding.holds})
        if as_json:
            continue
        if checked.problem != current:
            current = checked.problem
            _show(current)
        _show(f"  {'ok    ' if finding.holds else 'BROKEN'}  {finding.promise}")
        if not finding.holds:
            _show(f"          found: {finding.broken}\n          mend:  {finding.mend}")
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    broken = sum(not row["holds"] for row in rows)
    _note(f"{broken} of {len(rows)} promises are broken" if broken else f"all {len(rows)} promises hold")
    raise typer.Exit(1 if broken else 0)


@app.command("null-test")
def null_test(
    spec: SpecPath, overrides: Overrides = None, allow_code: AllowCode = False, as_json: AsJson = False
) -> None:
    """Measure the same weights twice, in every problem of a spec: the difference must be exactly 0."""
    from sweeper.null_test import null_test_document
    from sweeper.spec import load_spec

    document = null_test_document(load_spec(spec, overrides or []), allow_code=allow_code)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        for row in document["problems"]:
            _show(f"{'passed' if row['passed'] else 'FAILED'}  {row['problem']}: {row['verdict']}")
    raise typer.Exit(0 if document["passed"] else 1)


@app.command()
def plan(spec: SpecPath, overrides: Overrides = None, out: Out = None, as_json: AsJson = False) -> None:
    """Show what a run would do: cells, seeds, what is new and done, time and disk. Starts nothing."""
    from sweeper.estimate import plan_document, plan_text
    from sweeper.spec import load_spec

    document = plan_document(load_spec(spec, overrides or []), out)
    _show(json.dumps(document, indent=2) if as_json else plan_text(document))


@app.command()
def run(
    spec: SpecPath,
    overrides: Overrides = None,
    out: Out = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="local, auto, host:port, ray://host:port or http://host:port of a job server."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Have the cluster run the driver as a job, and return.")
    ] = False,
    accept_drift: Annotated[
        bool,
        typer.Option(
            "--accept-drift", help="Go on although torch, Python, processor, threads or your own code changed."
        ),
    ] = False,
    accept_change: Annotated[
        bool,
        typer.Option("--accept-change", help="Go on although the spec has other trials in the place of begun ones."),
    ] = False,
    new_measurement: Annotated[
        bool, typer.Option("--new-measurement", help="Go on although the measure section changed.")
    ] = False,
    extend_edges: Annotated[
        int,
        typer.Option(
            "--extend-edges",
            metavar="N",
            min=0,
            max=10,
            help="Grow the grid where an arm's best lies at its edge, N times.",
        ),
    ] = 0,
    insecure_cluster: Insecure = False,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Run a sweep, or what is missing of it."""
    from rich.console import Console

    from sweeper.display import choose_display
    from sweeper.job_server import takes_jobs_only
    from sweeper.run import run_sweep
    from sweeper.run_dir import RunDir
    from sweeper.spec import load_spec
    from sweeper.standing import default_run_dir

    wanted = list(overrides or [])
    sweep = load_spec(spec, wanted)
    address = address or sweep.cluster.address
    if detach or takes_jobs_only(address):
        run_dir = RunDir((out or default_run_dir(sweep)).resolve())
        flags = {
            "--accept-drift": accept_drift,
            "--accept-change": accept_change,
            "--new-measurement": new_measurement,
            "--insecure-cluster": insecure_cluster,
            "--allow-code": allow_code,
        }
        arguments = job_arguments(spec, run_dir=run_dir, overrides=wanted, flags=flags, extend_edges=extend_edges)
        raise typer.Exit(
            run_as_job(
                sweep,
                arguments,
                spec=spec,
                run_dir=run_dir,
                address=address,
                insecure=insecure_cluster,
                allow_code=allow_code,
                detach=detach,
                as_json=as_json,
            )
        )
    for extensions in range(extend_edges, -1, -1):
        with choose_display(Console(stderr=True)) as listener:
            outcome = run_sweep(
                sweep,
                out=out,
                listener=listener,
                address=address,
                accept_drift=accept_drift,
                accept_change=accept_change,
                new_measurement=new_measurement,
                insecure_cluster=insecure_cluster,
                allow_code=allow_code,
            )
        if not extensions or outcome.exit_code:
            break
        from sweeper.answers import extended_grid

        longer = extended_grid(outcome.run_dir, sweep)
        if not longer:
            _note("the best cell of every arm lies inside the grid")
            break
        for override in longer:
            _note(f"the best cell lies at an edge: going on with --set '{override}'")
        wanted += longer
        sweep = load_spec(spec, wanted)
    path = _shorten(outcome.run_dir)
    if as_json:
        document = {"run": str(outcome.run_dir), "counts": dict(outcome.counts), "interrupted": outcome.interrupted}
        typer.echo(json.dumps(document))
    _note(f"{outcome.text}; tables in {path}")
    if outcome.interrupted:
        _note(f"interrupted: run `{_same_command()}` again to go on")
    else:
        _note(f"read them with `clipsweep report {path}`")
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(run: RunPath, as_json: AsJson = False) -> None:
    """Show how a run stands. Works without Ray, also while it runs."""
    from sweeper.status import run_status, trial_rows

    document = run_status(run)
    if as_json:
        typer.echo(json.dumps({**document, "trial_rows": trial_rows(run)}, indent=2))
        return
    driver = document["driver"]
    job = f", job {driver['job']}" if driver and "job" in driver else ""
    who = f"running (pid {driver['pid']} on {driver['host']}{job})" if driver else "not running"
    percent = 100 * document["steps_done"] / max(1, document["steps_total"])
    _show(f"{run}: {who}, {percent:.0f} % of {document['steps_total']} steps")
    _show("  " + ", ".join(f"{count} {word}" for word, count in document["counts"].items()))
    if document["ended"] and document["ended"]["exit_code"] not in {0, 1}:
        ended = document["ended"]
        _show(f"  ended {ended['ended_at']} with exit code {ended['exit_code']}: {ended['text']}")
    if document["live"] and document["live"].get("waiting_for"):
        _show(f"  {document['live']['waiting_for']}")
    for active in document["live"]["active"] if document["live"] else ():
        loss = "" if active["loss"] is None else f", loss {active['loss']:.4g}"
        _show(f"  now: {active['trial']}, step {active['step']} of {active['steps']}{loss}")
    for row in trial_rows(run):
        earlier = " (of an earlier spec)" if row["superseded"] else ""
        _show(f"  {row['trial_id']}  {row['status']:9} {row['step']:>8}/{row['steps']:<8} {row['trial']}{earlier}")
    for failure in document["failures"]:
        _show(f"  {failure['trial_id']} failed: {failure['error']}")


@app.command("ls")
def list_runs_command(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder with runs.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs below a folder."""
    from sweeper.status import list_runs

    documents = list_runs(folder)
    if as_json:
        typer.echo(json.dumps(documents, indent=2))
        return
    for document in documents:
        if "error" in document:
            _show(f"{document['path']}: {document['error']}")
            continue
        counts = ", ".join(f"{count} {word}" for word, count in document["counts"].items())
        _show(f"{document['path']}: {'running, ' if document['driver'] else ''}{counts}")
    if not documents:
        _note(f"{folder}: no runs")


@app.command()
def logs(
    run: RunPath,
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="Trial id, or its beginning; the driver's log without it.")
    ] = None,
) -> None:
    """Print the log of a trial, or of the driver."""
    from sweeper.run_dir import RunDir
    from sweeper.status import trial_log

    if trial is not None:
        _show("\n".join(trial_log(run, trial)))
        return
    log = RunDir(run).require().logs / "driver.log"
    # What code of the user's own has raised stands in it.
    if log.exists():
        _show(log.read_text(errors="replace").rstrip("\n"))


@app.command()
def retry(
    run: RunPath,
    trials: Annotated[
        list[str] | None, typer.Argument(metavar="[TRIAL]...", help="Trial ids; all failed ones without.")
    ] = None,
) -> None:
    """Queue failed trials again; the next `clipsweep run` trains them."""
    from sweeper.status import retry as retry_trials

    retried = retry_trials(run, trials or [])
    for label in retried.queued:
        _note(f"queued again: {label}")
    _note(f"{len(retried.queued)} trials queued; `clipsweep run` with the same spec trains them")
    if retried.left_out:
        _note(f"{retried.left_out} failed trials left out: a changed spec has put others in their place")


@app.command()
def estimate(
    run: RunPath,
    estimator: Annotated[str, typer.Option("--estimator", metavar="NAME", help="What to measure.", show_default=False)],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="An option of the estimator, or of f; may be repeated."),
    ] = None,
    address: Annotated[str | None, typer.Option("--address", help="As for run.")] = None,
    accept_drift: Annotated[bool, typer.Option("--accept-drift", help="As for run.")] = False,
    insecure_cluster: Insecure = False,
    allow_code: AllowCode = False,
) -> None:
    """Measure the kept snapshots of a run again, with any estimator, without training anything."""
    from rich.console import Console

    from sweeper.display import LineDisplay
    from sweeper.remeasure import estimate_run

    with LineDisplay(Console(stderr=True)) as listener:
        done = estimate_run(
            run,
            estimator,
            options or [],
            listener=listener,
            address=address,
            accept_drift=accept_drift,
            insecure_cluster=insecure_cluster,
            allow_code=allow_code,
        )
    _note(done.text)
    if done.interrupted:
        _note(f"interrupted: run `{_same_command()}` again to go on")
    _show(_shorten(done.table))
    raise typer.Exit(done.exit_code)


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs, for completion in an editor."""
    from sweeper.spec import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


for _elsewhere in (attach, cancel, report, fit, advise, theory, plot):
    app.command()(_elsewhere)


def _same_command() -> str:
    """The command line as it was given, fit to be pasted."""
    import shlex

    return shlex.join(["clipsweep", *sys.argv[1:]])


def _leave_at_once(code: int) -> Any:
    """End without waiting for anything: the user has asked twice."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
