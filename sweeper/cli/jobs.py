"""Runs whose driver is elsewhere: ``attach``, ``cancel``, and ``run`` as a job of the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.cli.options import (
    TEXT_FORMATS,
    AsJson,
    RunPath,
    TextFormat,
    how_to_retry,
    note,
    shorten,
    show_json,
)
from sweeper.errors import ClipsweepError
from sweeper.formats import choose_format
from sweeper.protocol.consent import Consent
from sweeper.store.run_dir import RunDir

if TYPE_CHECKING:
    from sweeper.monitor.follow import Said
    from sweeper.spec import Sweep
    from sweeper.store.driver_files import Ending

__all__ = ["attach", "cancel", "end_document", "job_arguments", "run_as_job"]


def attach(run: RunPath, wanted: TextFormat = None, as_json: AsJson = False) -> None:
    """Follow a run whose driver is elsewhere, until it ends; Ctrl-C stops following. Works without Ray."""
    style = choose_format(wanted, as_json=as_json, known=TEXT_FORMATS)
    from sweeper.monitor.status import run_status
    from sweeper.store.driver_files import driver_of

    run_dir = RunDir(run.resolve()).require()
    if (driver := driver_of(run_dir)) is not None:
        now = run_status(run_dir.path)
        counts = ", ".join(f"{count} {word}" for word, count in now["counts"].items())
        note(f"pid {driver['pid']} on {driver['host']} is driving it: {counts}")
    try:
        ending = _follow(run_dir, hint="Ctrl-C stops following; the run goes on")
    except KeyboardInterrupt:
        note(f"detached; the run continues: `clipsweep attach {shorten(run_dir.path)}` follows it again")
        raise typer.Exit(130) from None
    raise typer.Exit(_tell_end(run_dir, ending, as_json=style == "json"))


def cancel(
    run: RunPath,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until its trials have checkpointed.")] = True,
    wanted: TextFormat = None,
    as_json: AsJson = False,
) -> None:
    """Stop a run cleanly, wherever its driver is: its trials checkpoint, and `clipsweep run` continues them."""
    style = choose_format(wanted, as_json=as_json, known=TEXT_FORMATS)
    from sweeper.monitor.follow import Said
    from sweeper.monitor.follow import cancel as ask

    run_dir = RunDir(run.resolve()).require()
    said = Said(run_dir.logs / "driver.log")
    asked = ask(run_dir)
    note(f"asked {asked} to stop")
    if wait:
        _follow(run_dir, said)
        note(f"{shorten(run_dir.path)}: stopped; `clipsweep run` with the same spec continues it")
    if style == "json":
        show_json({"run": run_dir.path, "asked": asked, "stopped": wait})


def run_as_job(
    sweep: Sweep,
    arguments: Sequence[str],
    *,
    spec: Path,
    run_dir: RunDir,
    address: str,
    consent: Consent,
    detach: bool,
    as_json: bool,
) -> int:
    """Have the cluster run the driver, and follow it unless ``detach`` is set.

    Args:
        sweep: The sweep.
        arguments: Arguments of ``clipsweep`` for the job.
        spec: The spec's file.
        run_dir: The run directory.
        address: Address of the cluster.
        consent: What the user agrees to.
        detach: Return as soon as the driver is running.
        as_json: Print one JSON document at the end.

    Returns:
        The exit code.

    Raises:
        ClipsweepError: A local Ray was asked for, or the cluster doesn't take the job.
    """
    if address == "local":
        raise ClipsweepError(
            "--detach: a local Ray ends with its driver, so it cannot be detached; start a Ray that stays with "
            "`ray start --head` and give --address auto, or keep this command running with tmux or nohup"
        )
    from sweeper.cluster.job_server import find_job_server
    from sweeper.cluster.jobs import Jobs
    from sweeper.monitor.follow import Said
    from sweeper.notify.hooks import require_hooks_allowed
    from sweeper.planning.plan import expand, require_allowed
    from sweeper.planning.searching import search_code

    require_allowed([*expand(sweep).code, *search_code(sweep)], sweep.folder, allow_code=consent.code)
    if sweep.hooks is not None:
        require_hooks_allowed(sweep.hooks, sweep.folder, allow_code=consent.code)
    server = find_job_server(address, insecure=consent.insecure_cluster)
    for text in server.notes:
        note(text)
    said = Said(run_dir.logs / "driver.log")
    jobs = Jobs(server)
    job = jobs.submit(arguments, run_dir=run_dir, folder=spec.resolve().parent)
    note(f"submitted to {server.url} as {job}")
    jobs.wait_until_driven(job, run_dir, note)
    path = shorten(run_dir.path)
    if detach:
        note(f"it runs; follow it with `clipsweep attach {path}`, end it with `clipsweep cancel {path}`")
        if as_json:
            show_json({"run": run_dir.path, "job": job, "server": server.url})
        return 0
    return _tell_end(run_dir, _follow_own(run_dir, said), as_json=as_json)


def job_arguments(
    spec: Path, *, run_dir: RunDir, overrides: Sequence[str], consent: Consent, extend_edges: int
) -> list[str]:
    """The command line of a driver that runs inside the cluster.

    Args:
        spec: The spec's file.
        run_dir: The run directory.
        overrides: As for ``--set``.
        consent: What the user agrees to.
        extend_edges: As for ``--extend-edges``.

    Returns:
        Arguments of ``clipsweep``, with absolute paths.

    Example:
        >>> agreed = Consent(drift=True)
        >>> job_arguments(Path("/a/s.yaml"), run_dir=RunDir(Path("/r")), overrides=[], consent=agreed, extend_edges=0)
        ['run', '/a/s.yaml', '--out', '/r', '--address', 'auto', '--accept-drift']
    """
    arguments = ["run", str(spec.resolve()), "--out", str(run_dir.path), "--address", "auto"]
    arguments += [f"--set={override}" for override in overrides]
    arguments += consent.options
    return arguments + ([f"--extend-edges={extend_edges}"] if extend_edges else [])


def _follow(run_dir: RunDir, said: Said | None = None, *, hint: str = "") -> Ending:
    from rich.console import Console

    from sweeper.monitor.display import choose_display
    from sweeper.monitor.follow import follow

    with choose_display(Console(stderr=True), hint=hint) as listener:
        return follow(run_dir, listener, said=said)


def _follow_own(run_dir: RunDir, said: Said) -> Ending:
    """Follow the job that this command started: the first Ctrl-C stops it cleanly, the second stops following."""
    from sweeper.monitor.follow import cancel as ask

    try:
        return _follow(
            run_dir, said, hint="Ctrl-C stops the run: trials checkpoint, and the same command continues them"
        )
    except KeyboardInterrupt:
        note(f"asked {ask(run_dir)} to stop; interrupt again to stop waiting for it")
        return _follow(run_dir, said)


def end_document(
    path: Path, exit_code: int, *, counts: Mapping[str, int], unmeasured: Mapping[str, Any]
) -> dict[str, Any]:
    """How a run ended, for a script.

    Args:
        path: The run directory.
        exit_code: Of its driver.
        counts: Status to number of trials.
        unmeasured: Number of ``snapshots``, and ``errors`` with the number of snapshots that they left without a row.

    Returns:
        The document.
    """
    return {
        "run": path,
        "counts": counts,
        "interrupted": exit_code == 130,
        "exit_code": exit_code,
        "unmeasured": unmeasured,
    }


def _tell_end(run_dir: RunDir, ending: Ending, *, as_json: bool) -> int:
    path = shorten(run_dir.path)
    from sweeper.monitor.status import run_status

    now = run_status(run_dir.path)
    counts = now["counts"]
    if as_json:
        show_json(end_document(run_dir.path, ending.exit_code, counts=counts, unmeasured=now["unmeasured"]))
    if ending.exit_code in {0, 1}:
        note(f"{ending.text}; tables in {path}")
        if advice := how_to_retry(path, counts):
            note(advice)
        note(f"read them with `clipsweep report {path}`")
    else:
        note(f"{path}: ended with exit code {ending.exit_code}: {ending.text}")
    return ending.exit_code
