"""Commands that inspect runs from outside: their state, their logs, and which trials to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli.options import TEXT_FORMATS, AsJson, Format, RunPath, TextFormat, note, show, show_json, show_rows
from sweeper.formats import choose_format
from sweeper.labels import counted
from sweeper.protocol.view import Silent

if TYPE_CHECKING:
    from sweeper.monitor.tail import Tail
    from sweeper.store.journal import RunState
    from sweeper.store.run_dir import RunDir

__all__ = ["logs", "ls", "retry", "status", "watch"]


_MAX_TRIALS = 50
"""Trials that ``status`` shows to people."""

_FIRST = {"running": 0, "failed": 1, "lost": 1, "paused": 2}
"""What is shown of a longer run."""


_TRIAL = ("trial_id", "trial", "status", "step", "steps", "attempts", "superseded")


_SLOW = ("of", "name", "seconds", "why")


def status(
    run: RunPath,
    slow: Annotated[
        bool, typer.Option("--slow", help="The slowest trials and workers instead, and what took their time.")
    ] = False,
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of a run. Works without Ray, also while it runs."""
    style = choose_format(wanted, as_json=as_json)
    from sweeper.monitor.status import in_words, run_status, state_of, trial_rows
    from sweeper.store.journal import Unmeasured
    from sweeper.store.run_dir import RunDir

    state = state_of(RunDir(run))
    if slow:
        _show_slow(run, state, style)
        return
    document, rows = run_status(run, state), trial_rows(run, state)
    if style == "json":
        show_json({**document, "trial_rows": rows})
        return
    if style != "table":
        show_rows(style, rows, _TRIAL)
        return
    show(f"{run}: {in_words(document)}")
    show("  " + ", ".join(f"{count} {word}" for word, count in document["counts"].items()))
    if ended := document["ended"]:
        code = "" if ended["exit_code"] in {0, 1} else f" with exit code {ended['exit_code']}"
        show(f"  last ended {ended['ended_at']}{code}: {ended['text']}")
    if document["live"] and document["live"].get("waiting_for"):
        show(f"  {document['live']['waiting_for']}")
    for active in document["live"]["active"] if document["live"] else ():
        loss = "" if active["loss"] is None else f", loss {active['loss']:.4g}"
        show(f"  now: {active['trial']}, step {active['step']} of {active['steps']}{loss}")
    if search := document["search"]:
        show(f"  search: {search['text']}")
        for known in search["known"][:_MAX_TRIALS]:
            seed = "" if known["seed"] is None else f" seed={known['seed']}"
            show(f"    {known['cell']}{seed}: {known['text']}")
        if len(search["known"]) > _MAX_TRIALS:
            show(f"    ... and {len(search['known']) - _MAX_TRIALS} more; --json lists all")
    if len(rows) > _MAX_TRIALS:
        rows.sort(key=lambda row: _FIRST.get(row["status"], len(_FIRST)))
    for row in rows[:_MAX_TRIALS]:
        earlier = " (of an earlier spec)" if row["superseded"] else ""
        steps = "?" if row["steps"] is None else row["steps"]
        show(f"  {row['trial_id']}  {row['status']:9} {row['step']:>8}/{steps:<8} {row['trial']}{earlier}")
    if len(rows) > _MAX_TRIALS:
        show(f"  ... and {len(rows) - _MAX_TRIALS} more trials; --json lists all")
    for failure in document["failures"][:_MAX_TRIALS]:
        show(f"  {failure['trial_id']} {failure['status']}: {failure['error']}")
    unmeasured = document["unmeasured"]
    for line in Unmeasured(total=unmeasured["snapshots"], errors=unmeasured["errors"]).lines:
        show(f"  {line}")


def _show_slow(run: Path, state: RunState, style: str) -> None:
    """The slowest trials and workers; in JSON under keys of their own beside the status."""
    from sweeper.labels import duration
    from sweeper.monitor.status import run_status, trial_rows
    from sweeper.report.slow import slowest

    found = slowest(str(run), state)
    if style == "json":
        show_json({**run_status(run, state), "trial_rows": trial_rows(run, state), "slow": asdict(found)})
        return
    if style != "table":
        rows = [{"of": "trial", "name": one.trial, "seconds": one.seconds, "why": one.why} for one in found.trials]
        rows += [{"of": "worker", "name": one.worker, "seconds": one.seconds, "why": one.why} for one in found.workers]
        show_rows(style, rows, _SLOW)
        return
    if not found.trials:
        note(f"{run}: nothing is committed yet")
    show(f"{run}: the slowest of {counted(sum(bool(trial.segments) for trial in state.trials.values()), 'trial')}")
    for trial in found.trials:
        times = "" if trial.of_median is None else f", {trial.of_median:.1f} times the median"
        show(f"  {trial.trial_id}  {trial.trial}: {duration(trial.seconds)}{times}")
        show(f"    {trial.why}")
    show("its workers")
    for worker in found.workers:
        show(f"  {worker.worker}: {worker.why}")
    for line in found.advice:
        show(f"advice: {line}")


def ls(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder with runs.")] = Path("runs"),
    wanted: Format = None,
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder."""
    style = choose_format(wanted, as_json=as_json)
    from sweeper.monitor.status import list_runs

    documents = list_runs(folder)
    if style == "json":
        show_json(documents)
        return
    if style != "table":
        show_rows(style, [_row(document) for document in documents], list(_row({"path": "", "error": ""})))
        return
    for document in documents:
        if "error" in document:
            show(f"{document['path']}: {document['error']}")
            continue
        counts = ", ".join(f"{count} {word}" for word, count in document["counts"].items())
        state = "" if document["state"] == "finished" else f"{document['state']}, "
        show(f"{document['path']}: {state}{counts or 'no trials'}")
    if not documents:
        note(f"{folder}: no runs")


def _row(document: Mapping[str, Any]) -> dict[str, Any]:
    """A run as one row; of a run that cannot be read, its path and why."""
    from sweeper.store.journal import STATUSES

    names = ("path", "state", "driver", "trials", *STATUSES, "superseded", "steps_done", "steps_total", "error")
    row = {name: document.get(name) for name in names}
    if row["error"] is None:
        row |= {status: document["counts"].get(status, 0) for status in STATUSES}
        driver = document["driver"]
        row["driver"] = None if driver is None else f"pid {driver['pid']} on {driver['host']}"
    return row


def logs(
    run: RunPath,
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="Trial id, or a prefix of it; the driver's log if omitted.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added, until the run ends or Ctrl-C.")
    ] = False,
) -> None:
    """Print the log of a trial, or of the driver."""
    from sweeper.monitor.status import trial_log
    from sweeper.monitor.tail import FileTail, TrialTail
    from sweeper.store.run_dir import RunDir

    run_dir = RunDir(run).require()
    log = run_dir.logs / "driver.log"
    if follow:
        raise typer.Exit(_follow(run_dir, FileTail(log) if trial is None else TrialTail(run_dir, trial)))
    if trial is not None:
        show("\n".join(trial_log(run, trial)))
        return
    # It may hold whatever the user's own code has raised.
    if log.exists():
        show(log.read_text(errors="replace").rstrip("\n"))
    else:
        note(f"{run}: no driver has logged anything here; `clipsweep logs {run} TRIAL` tells what a trial did")


def _follow(run_dir: RunDir, tail: Tail) -> int:
    """Print what a log holds and what is added to it until the run ends; returns the exit code."""
    from sweeper.monitor.follow import follow
    from sweeper.store.driver_files import driver_of

    class Printed(Silent):
        def say(self, text: str) -> None:
            show(text)

    try:
        if driver_of(run_dir) is None:
            code = 0
            for line in tail.rest():
                show(line)
            note(f"{run_dir.path}: nobody is running it now, so nothing is added")
        else:
            try:
                code = follow(run_dir, Printed(), said=tail).exit_code
            finally:
                for line in tail.rest():
                    show(line)
    except KeyboardInterrupt:
        note("stopped following; the run goes on")
        return 130
    return code


def retry(
    run: RunPath,
    trials: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TRIAL]...", help="Trial ids; if omitted, all that failed or were lost."),
    ] = None,
    wanted: TextFormat = None,
    as_json: AsJson = False,
) -> None:
    """Queue trials that failed or were lost again; the next `clipsweep run` trains them."""
    style = choose_format(wanted, as_json=as_json, known=TEXT_FORMATS)
    from sweeper.monitor.status import retry as retry_trials

    retried = retry_trials(run, trials or [])
    if style == "json":
        queued = [{"trial_id": name, "trial": label} for name, label in retried.queued.items()]
        show_json({"run": run, "queued": queued, "left_out": retried.left_out})
    for label in retried.queued.values():
        note(f"queued again: {label}")
    note(f"{counted(len(retried.queued), 'trial')} queued; `clipsweep run` with the same spec trains them")
    if retried.left_out:
        note(f"left out, because a changed spec has replaced them: {counted(retried.left_out, 'trial')} given up")


def watch(
    run: RunPath,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port of the loopback; a free one by default.")
    ] = 0,
) -> None:
    """Serve the run's page on this machine alone, live, until Ctrl-C. Reads its directory, and never writes."""
    from sweeper.watch import Pages, Server

    with Pages(run.resolve()) as pages, Server(pages, port=port) as server:
        show(server.url)
        note("only this machine can open it, with the token that is in it; Ctrl-C stops")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("stopped; the run goes on as before")
