"""Commands that start workers: ``run`` and ``estimate``."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from typing import Annotated

import typer

from sweeper.cli.jobs import end_document, job_arguments, run_as_job
from sweeper.cli.options import (
    TEXT_FORMATS,
    AllowCode,
    AsJson,
    Insecure,
    Out,
    Overrides,
    RunPath,
    SpecPath,
    TextFormat,
    how_to_retry,
    note,
    shorten,
    show,
    show_json,
)
from sweeper.cli.spec_input import from_stdin, read_spec
from sweeper.errors import ClipsweepError
from sweeper.formats import choose_format
from sweeper.protocol.consent import Consent
from sweeper.protocol.notices import Hears
from sweeper.protocol.view import Listener

__all__ = ["estimate", "run"]

_CTRL_C = "Ctrl-C stops: trials checkpoint, and the same command continues them"


def run(
    spec: SpecPath,
    overrides: Overrides = None,
    out: Out = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="local, auto, host:port, ray://host:port or http://host:port of a job server.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Have the cluster run the driver as a job, and return.")
    ] = False,
    accept_drift: Annotated[
        bool,
        typer.Option(
            "--accept-drift", help="Continue even if torch, Python, processor, GPU, threads or your own code changed."
        ),
    ] = False,
    accept_change: Annotated[
        bool,
        typer.Option("--accept-change", help="Continue even if the changed spec replaces trials that were begun."),
    ] = False,
    new_measurement: Annotated[
        bool, typer.Option("--new-measurement", help="Continue even if what is measured changed.")
    ] = False,
    extend_edges: Annotated[
        int,
        typer.Option(
            "--extend-edges",
            metavar="N",
            min=0,
            max=10,
            help="Extend the grid where an arm's best value is at its edge, up to N times.",
        ),
    ] = 0,
    insecure_cluster: Insecure = False,
    allow_code: AllowCode = False,
    events: Annotated[
        str | None,
        typer.Option("--events", metavar="jsonl", help="What happens, on stdout: a JSON object per line, at once."),
    ] = None,
    wanted_format: TextFormat = None,
    as_json: AsJson = False,
) -> None:
    """Run a sweep, or whatever is missing from it."""
    as_json = choose_format(wanted_format, as_json=as_json, known=TEXT_FORMATS) == "json"
    if events not in {None, "jsonl"}:
        raise ClipsweepError(f"--events {events!r}: unknown; known: jsonl")
    if events is not None and as_json:
        raise ClipsweepError("--events and --json both need stdout for themselves: leave out one of them")
    from rich.console import Console

    from sweeper.cluster.job_server import takes_jobs_only
    from sweeper.errors import SpecError
    from sweeper.monitor.display import LineDisplay, choose_display
    from sweeper.notify.stream import events_on_stdout
    from sweeper.planning.standing import default_run_dir
    from sweeper.run import run_sweep
    from sweeper.store.run_dir import RunDir

    consent = Consent(
        drift=accept_drift,
        change=accept_change,
        new_measurement=new_measurement,
        insecure_cluster=insecure_cluster,
        code=allow_code,
    )
    wanted = list(overrides or [])
    sweep = read_spec(spec, wanted)
    if extend_edges and sweep.sweep.search is not None:
        raise ClipsweepError(
            "--extend-edges adds values to a grid, but this spec has a search, which finds its own: leave it out"
        )
    address = address or sweep.cluster.address
    if detach or takes_jobs_only(address):
        if from_stdin(spec):
            raise ClipsweepError(
                "`run -`: the driver would be a job of the cluster, which cannot read this standard input: write the "
                "spec to a file that the cluster can read, and give its name"
            )
        if events is not None:
            raise ClipsweepError(
                "--events: come from the driver, which would be elsewhere; `on` of the spec goes with it"
            )
        run_dir = RunDir((out or default_run_dir(sweep)).resolve())
        arguments = job_arguments(spec, run_dir=run_dir, overrides=wanted, consent=consent, extend_edges=extend_edges)
        raise typer.Exit(
            run_as_job(
                sweep,
                arguments,
                spec=spec,
                run_dir=run_dir,
                address=address,
                consent=consent,
                detach=detach,
                as_json=as_json,
            )
        )
    for extensions in range(extend_edges, -1, -1):
        with ExitStack() as stack:
            console = Console(stderr=True)
            listener: Listener = LineDisplay(console)
            hears: list[Hears] = []
            if events is None:
                display = choose_display(console, hint=_CTRL_C)
                stack.enter_context(display)
                listener = display
            else:
                hears.append(stack.enter_context(events_on_stdout(note)))
            outcome = run_sweep(sweep, out=out, listener=listener, address=address, consent=consent, hears=hears)
        if not extensions or outcome.exit_code:
            break
        from sweeper.report.answers import extended_grid

        longer = extended_grid(outcome.run_dir, sweep)
        if not longer:
            note("no arm has its best cell at the end of three or more values, so there is nothing to extend")
            break
        for override in longer:
            note(f"the best cell is at an edge: continuing with --set '{override}'")
        try:
            sweep = read_spec(spec, [*wanted, *longer])
        except SpecError as error:
            # What is done stands, whatever an option of the user's own allows.
            note(f"the grid is not extended, as the longer one is not a spec:\n{error}")
            break
        wanted += longer
    path = shorten(outcome.run_dir)
    if as_json:
        unmeasured = {"snapshots": outcome.unmeasured.total, "errors": outcome.unmeasured.errors}
        show_json(end_document(outcome.run_dir, outcome.exit_code, counts=outcome.counts, unmeasured=unmeasured))
    for line in outcome.unmeasured.lines:
        note(line)
    if outcome.unfinished:
        note(f"the search has not finished, but asks for nothing more: {outcome.unfinished}")
    if outcome.spent is not None:
        note(f"{outcome.spent} (`clipsweep times {path}`)")
    note(f"{outcome.text}; tables in {path}")
    if advice := how_to_retry(path, outcome.counts):
        note(advice)
    if outcome.interrupted:
        again = f"{_same_command()} < {shlex.quote(f'{path}/spec.yaml')}" if from_stdin(spec) else _same_command()
        note(f"interrupted: run `{again}` again to continue")
    else:
        note(f"read them with `clipsweep report {path}`")
    raise typer.Exit(outcome.exit_code)


def estimate(
    run: RunPath,
    estimator: Annotated[str, typer.Option("--estimator", metavar="NAME", help="What to measure.", show_default=False)],
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="An option of the estimator, or of f; may be repeated."),
    ] = None,
    address: Annotated[str | None, typer.Option("--address", metavar="ADDRESS", help="As for run.")] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="cpu|cuda", help="Where estimators compute, instead of what the spec says."),
    ] = None,
    accept_drift: Annotated[bool, typer.Option("--accept-drift", help="As for run.")] = False,
    insecure_cluster: Insecure = False,
    allow_code: AllowCode = False,
    wanted_format: TextFormat = None,
    as_json: AsJson = False,
) -> None:
    """Measure the kept snapshots of a run again, with any estimator, without training anything."""
    style = choose_format(wanted_format, as_json=as_json, known=TEXT_FORMATS)
    from rich.console import Console

    from sweeper.monitor.display import choose_display
    from sweeper.remeasure import estimate_run

    hint = "Ctrl-C stops once those in progress are measured; the same command continues"
    with choose_display(Console(stderr=True), hint=hint) as listener:
        done = estimate_run(
            run,
            estimator,
            options or [],
            listener=listener,
            address=address,
            device=device,
            consent=Consent(drift=accept_drift, insecure_cluster=insecure_cluster, code=allow_code),
        )
    note(done.text)
    if done.interrupted:
        note(f"interrupted: run `{_same_command()}` again to continue")
    if style == "json":
        show_json({"run": run, "estimator": estimator, **vars(done), "exit_code": done.exit_code})
    else:
        show(shorten(done.table))
    raise typer.Exit(done.exit_code)


def _same_command() -> str:
    """The command line as it was given, ready to paste."""
    return shlex.join(["clipsweep", *sys.argv[1:]])
