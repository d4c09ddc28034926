"""What a run would do, cost and leave on disk, without starting anything or loading torch and Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.labels import counted, duration, printable
from sweeper.planning.expectation import expected, expected_bytes
from sweeper.planning.measurement_change import measurement_change
from sweeper.planning.packing import packing_of
from sweeper.planning.plan import Plan, UserCode, expand
from sweeper.planning.searching import Searching, searching_of
from sweeper.planning.spec_change import SpecChange, spec_change
from sweeper.planning.standing import default_run_dir, held_in, standing
from sweeper.planning.unknowns import unknowns
from sweeper.spec import Sweep
from sweeper.spec.sections.settings import Pool
from sweeper.store.driver_files import driver_of
from sweeper.store.journal import open_state
from sweeper.store.recorded import refuse_recorded
from sweeper.store.run_dir import RunDir

__all__ = ["plan_document", "plan_text"]


def plan_document(sweep: Sweep, out: Path | None = None) -> dict[str, Any]:
    """A sweep's plan as a JSON-able document.

    Args:
        sweep: The spec.
        out: The run directory; ``runs/<name>`` by default.

    Returns:
        ``run``, ``cells``, ``seeds``, ``trials``, counts of ``new``, ``paused``, ``held`` (by a search), ``done`` and
        ``failed`` trials,
        ``is_driven`` (whether a driver is at work on the run now), ``steps`` left to train,
        ``seconds`` (None where unknown) with ``seconds_from`` (how it is known), ``bytes`` on
        disk, ``search`` (for a sweep with one: ``use``, ``over``, how many trials are ``asked`` for so far, and
        ``trials``, ``seconds`` and ``bytes`` of what is ``expected``, at ``worst``, and in an equal ``grid``, as in
        ``trials_worst``; its steps and trials are those that it asks for now),
        ``workers`` (``count``, ``cpus``, ``gpus`` and ``accelerator_type`` of each kind that is started), ``packs``
        (None, or ``most`` trials of a pack, the number of ``trials`` that may be in one, and of those ``alone`` by the
        reason), ``code``
        (the user's own modules that would be imported: ``use``, ``module``, ``path``, where a link leads as
        ``real_path``, number of Python ``files``, ``sha256`` over them, and whether it is ``beside_spec``),
        ``change`` (what is trained differently from when the run was begun, or None), ``measurement_change`` (the same
        of what is measured), ``asks_for`` (options that a run
        would ask for), ``unknown`` (what cannot be known before it runs: ``about`` and ``text`` each), and the
        ``table`` of cells.

    Raises:
        SpecError: The sweep cannot be expanded.
        IntegrityError: The run's journal is damaged.
    """
    run_dir = RunDir((out or default_run_dir(sweep)).absolute())
    state = open_state(run_dir)
    refuse_recorded(run_dir, state, "be run, so choose another directory with --out")
    # Planning runs nobody's code.
    searching = searching_of(sweep, state, imports=False)
    go_on: Mapping[str, int | None]
    if searching is None:
        plan = expand(sweep)
        go_on = held_in(plan, state)
    else:
        go_on = searching.ask().until
        plan = searching.plan()
    now = standing(plan, state, go_on=go_on)
    left = [(trial, 0) for trial in now.new]
    left += [(trial, state.trials[trial.trial_id].step) for trial in now.paused]
    expectation = expected(sweep, plan, state, num_left=len(left))
    seconds = expectation.left_s(left)
    change = spec_change(run_dir, sweep, plan, state)
    measured_change = measurement_change(sweep, state)
    status = {trial.trial_id: kind for kind in _KINDS for trial in getattr(now, kind)}
    num_bytes = expected_bytes(sweep, left)
    code = plan.code if searching is None else searching.code
    search = None
    if searching is not None:
        search = _search(searching, num_left=len(left), seconds=seconds, num_bytes=num_bytes)
        if searching.extent is not None:
            seconds, num_bytes = search["seconds_expected"], search["bytes_expected"]
    return {
        "run": str(out or default_run_dir(sweep)),
        "cells": plan.num_cells,
        "seeds": plan.num_seeds,
        "trials": len(plan.trials),
        **{kind: len(getattr(now, kind)) for kind in _KINDS},
        "is_driven": run_dir.exists and driver_of(run_dir) is not None,
        "steps": sum(trial.train["steps"] - done for trial, done in left),
        "seconds": seconds if seconds is None or not left else expectation.startup_s + seconds,
        "seconds_from": expectation.source,
        "bytes": num_bytes,
        "search": search,
        "workers": _workers(sweep),
        "packs": packing_of(sweep.resources.trainers).outlook(plan.trials),
        "code": [_code(found) for found in code],
        "asks_for": [
            *([] if all(found.beside for found in code) else ["--allow-code"]),
            *_options(change),
            *(["--new-measurement"] if measured_change else []),
        ],
        "change": change.text if change else None,
        "measurement_change": measured_change.text if measured_change else None,
        "unknown": unknowns(sweep, [trial for trial, _ in left], expectation),
        "table": _table(plan, status),
    }


def _workers(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """What each worker takes, by kind."""
    kinds: dict[str, Pool] = {"trainers": sweep.resources.trainers}
    if sweep.measure is not None:
        kinds["estimators"] = sweep.resources.estimators
    keys = {"count", "cpus", "gpus", "accelerator_type"}
    return {name: pool.model_dump(include=keys) for name, pool in kinds.items()}


def _worker_lines(document: Mapping[str, Any]) -> list[str]:
    """Which workers compute on GPUs, and which trials train together, for people."""
    lines = []
    for name, takes in document["workers"].items():
        if takes["gpus"]:
            model = f" of type {printable(takes['accelerator_type'])}" if takes["accelerator_type"] else ""
            number = "as many as fit" if takes["count"] == "auto" else str(takes["count"])
            lines.append(f"  {name}: {number}, {counted(takes['gpus'], 'GPU')}{model} each")
    if (packs := document["packs"]) is not None:
        lines.append(f"  packs: {counted(packs['trials'], 'trial')} in packs of up to {packs['most']}")
        lines += [f"    {one['trials']} by themselves: {one['reason']}" for one in packs["alone"]]
    return lines


def _search(searching: Searching, *, num_left: int, seconds: float | None, num_bytes: float) -> dict[str, Any]:
    """How many trials a search takes, and what the rest of them costs: as much each as those that it asks for now."""
    extent = searching.extent
    ended = searching.num_asked - num_left
    document: dict[str, Any] = {
        "use": searching.use,
        "over": list(searching.space.over),
        "asked": searching.num_asked,
        "note": "" if extent is None else extent.note,
    }
    each_s = None if seconds is None else seconds / max(1, num_left)
    for name in ("expected", "worst", "grid"):
        count = None if extent is None else int(getattr(extent, name))
        if count is None:
            document |= {f"{what}_{name}": None for what in ("trials", "seconds", "bytes")}
            continue
        # What is asked for now has to be done, whatever was expected; a search that asks for nothing has ended.
        left = 0 if not num_left else count if name == "grid" else max(num_left, count - ended)
        document[f"trials_{name}"] = count
        document[f"seconds_{name}"] = None if each_s is None else each_s * left
        document[f"bytes_{name}"] = num_bytes / max(1, num_left) * left
    return document


def _search_lines(document: Mapping[str, Any]) -> list[str]:
    """How many trials a search takes, for people."""
    search = document["search"]
    if search is None:
        return []
    over = ", ".join(search["over"])
    where = f" over {over}" if over else ""
    told = f"  search: {search['use']}{where}: {counted(search['asked'], 'trial')} asked for so far"
    if search["trials_expected"] is None:
        return [f"{told}; what it asks for is known once it runs"]
    if not document["steps"]:
        return [f"{told}; {search['trials_grid']} in an equal grid"]
    lines = [told]
    note = f" ({search['note']})" if search["note"] else ""
    for name, words in (("expected", "about"), ("worst", "at most"), ("grid", "in an equal grid")):
        seconds = search[f"seconds_{name}"]
        time = "" if seconds is None else f"{note if name == 'worst' else ''}, {duration(seconds)} of training"
        lines.append(
            f"    {words} {counted(search[f'trials_{name}'], 'trial')}{time}, {_size(search[f'bytes_{name}'])}"
        )
    return lines


def _code(found: UserCode) -> dict[str, Any]:
    return {
        "use": found.use,
        "module": found.use.partition(":")[0],
        "path": str(found.root),
        "real_path": str(found.root.resolve()),
        "files": len(found.files),
        "sha256": found.sha256,
        "beside_spec": found.beside,
    }


def _options(change: SpecChange | None) -> tuple[str, ...]:
    return change.options if change is not None else ()


_KINDS = ("new", "paused", "held", "done", "failed")


def plan_text(document: Mapping[str, Any], *, max_cells: int = 40) -> str:
    """The document for people.

    Args:
        document: As :func:`plan_document` gives it.
        max_cells: Number of cells to list.

    Returns:
        Lines, joined.
    """
    lines = [
        f"{document['run']}: {_size_text(document)}",
        f"  {document['new']} new, {document['paused']} paused, "
        + (f"{document['held']} held, " if document["held"] else "")
        + f"{document['done']} done, {document['failed']} failed or lost"
        + (" (queue them again with `clipsweep retry`)" if document["failed"] else ""),
        *(["  a driver is at work on it: `clipsweep status` says which are running"] if document["is_driven"] else []),
        f"  time: {_time_text(document)}   disk: about {_size(document['bytes'])}",
        *_search_lines(document),
        *_worker_lines(document),
    ]
    for code in document["code"]:
        link = "" if code["path"] == code["real_path"] else f", a link to {code['real_path']}"
        files = f"{code['files']} Python file" + ("s" if code["files"] != 1 else "")
        where = "next to the spec" if code["beside_spec"] else "not in the spec's own folder"
        lines.append(f"  runs code: {code['use']} from {code['path']}{link} ({files}, sha256 {code['sha256'][:12]})")
        lines.append(f"    {where}" + ("" if code["beside_spec"] else ", so a run asks for --allow-code"))
    if document["change"]:
        lines += ["  what is trained has changed since the run was begun:", document["change"]]
    if document["measurement_change"]:
        lines += ["  what is measured has changed since the run was begun:", document["measurement_change"]]
    if accept := [option for option in document["asks_for"] if option != "--allow-code"]:
        lines.append(f"  a run in this directory asks for {' '.join(accept)}, or for another --out")
    if document.get("misfit"):
        lines.append(f"  a run would be refused: {document['misfit']}")
    if document["unknown"]:
        lines += ["  not known before it runs:", *(f"    - {unknown['text']}" for unknown in document["unknown"])]
    lines.append("")
    width = min(48, max((len(row["arm"]) for row in document["table"][:max_cells]), default=0))
    for row in document["table"][:max_cells]:
        state = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in row["seeds"].items())
        lines.append(f"  {row['cell_id']}  {row['arm']:<{max(22, width)}} {row['cell']:<48} {state}")
    if len(document["table"]) > max_cells:
        lines.append(f"  ... and {len(document['table']) - max_cells} more cells; --json lists all")
    return "\n".join(lines)


def _size_text(document: Mapping[str, Any]) -> str:
    """How many cells, seeds and trials."""
    cells, seeds = counted(document["cells"], "cell"), counted(document["seeds"], "seed")
    trials = counted(document["trials"], "trial")
    # A search asks for other values with each seed.
    return f"{cells} x {seeds} = {trials}" if document["search"] is None else f"{trials} in {cells}, {seeds}"


def _time_text(document: Mapping[str, Any]) -> str:
    if document["search"] is not None and document["search"]["trials_expected"] is None and not document["steps"]:
        return "known once its searcher runs"
    if document["steps"] == 0:
        return "nothing left to do"
    if document["seconds"] is None:
        return f"unknown ({document['seconds_from']})"
    return f"about {duration(document['seconds'])} ({document['seconds_from']})"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _table(plan: Plan, status: Mapping[str, str]) -> list[dict[str, Any]]:
    labels = plan.labels
    cells: dict[str, dict[str, Any]] = {}
    for trial in plan.trials:
        row = cells.setdefault(
            trial.cell_id,
            {"cell_id": trial.cell_id, "arm": trial.arm, "cell": labels[trial.cell_id], "seeds": {}},
        )
        kind = status[trial.trial_id]
        row["seeds"][kind] = row["seeds"].get(kind, 0) + 1
    return list(cells.values())
