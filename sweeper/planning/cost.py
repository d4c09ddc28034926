"""What a run would do, cost and leave on disk, without starting anything or loading torch and Ray."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from sweeper.labels import counted, duration
from sweeper.planning.measurement_change import measurement_change
from sweeper.planning.plan import Plan, Trial, UserCode, expand
from sweeper.planning.spec_change import SpecChange, spec_change
from sweeper.planning.standing import default_run_dir, standing
from sweeper.spec import Sweep
from sweeper.store.journal import RunState, open_state
from sweeper.store.run_dir import RunDir

__all__ = ["plan_document", "plan_text"]

_FLOPS_PER_SECOND = 10e9
"""Of one thread in float32, used until there is a measurement: within a factor of three on the machines tried."""

_METRIC_ROW_BYTES = 45
_MEASUREMENT_ROW_BYTES = 150
"""Size of a compressed row: random digits do not compress, step numbers do."""

_VOCABULARY = {"python-docs": 3_000, "ptb": 10_000, "wikitext2": 33_278}
_TOKENS = {"python-docs": 80_000, "ptb": 929_589, "wikitext2": 2_088_628}


def plan_document(sweep: Sweep, out: Path | None = None) -> dict[str, Any]:
    """A sweep's plan as a JSON-able document.

    Args:
        sweep: The spec.
        out: The run directory; ``runs/<name>`` by default.

    Returns:
        ``run``, ``cells``, ``seeds``, ``trials``, counts of ``new``, ``under_way``, ``done`` and ``failed`` trials,
        ``steps`` left to train, ``seconds`` (None where unknown) with ``seconds_from`` (how it is known), ``bytes`` on
        disk, ``code`` (the user's own modules that would be imported: ``use``, ``module``, ``path``, where a link
        leads as ``real_path``, number of Python ``files``, ``sha256`` over them, and whether it is ``beside_spec``),
        ``change`` (what is trained differently from when the run was begun, or None), ``measurement_change`` (the same
        of what is measured), ``asks_for`` (options that a run
        would ask for), and the ``table`` of cells.

    Raises:
        SpecError: The sweep cannot be expanded.
        IntegrityError: The run's journal is damaged.
    """
    plan = expand(sweep)
    run_dir = RunDir((out or default_run_dir(sweep)).absolute())
    state = open_state(run_dir)
    now = standing(plan, state)
    left = [(trial, 0) for trial in now.new]
    left += [(trial, state.trials[trial.trial_id].step) for trial in now.under_way]
    seconds, source = _seconds(sweep, plan, state, left)
    change = spec_change(run_dir, sweep, plan, state)
    measured_change = measurement_change(sweep, state)
    status = {trial.trial_id: kind for kind in _KINDS for trial in getattr(now, kind)}
    return {
        "run": str(out or default_run_dir(sweep)),
        "cells": plan.num_cells,
        "seeds": plan.num_seeds,
        "trials": len(plan.trials),
        **{kind: len(getattr(now, kind)) for kind in _KINDS},
        "steps": sum(trial.train["steps"] - done for trial, done in left),
        "seconds": seconds,
        "seconds_from": source,
        "bytes": _bytes(sweep, left),
        "code": [_code(found) for found in plan.code],
        "asks_for": [
            *([] if all(found.beside for found in plan.code) else ["--allow-code"]),
            *_options(change),
            *(["--new-measurement"] if measured_change else []),
        ],
        "change": change.text if change else None,
        "measurement_change": measured_change.text if measured_change else None,
        "table": _table(plan, status),
    }


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


_KINDS = ("new", "under_way", "done", "failed")


def plan_text(document: Mapping[str, Any], *, max_cells: int = 40) -> str:
    """The document for people.

    Args:
        document: As :func:`plan_document` gives it.
        max_cells: Number of cells to list.

    Returns:
        Lines, joined.
    """
    lines = [
        f"{document['run']}: {counted(document['cells'], 'cell')} x {counted(document['seeds'], 'seed')} = "
        f"{counted(document['trials'], 'trial')}",
        f"  {document['new']} new, {document['under_way']} under way, {document['done']} done, "
        f"{document['failed']} failed" + (" (queue them again with `clipsweep retry`)" if document["failed"] else ""),
        f"  time: {_time_text(document)}   disk: about {_size(document['bytes'])}",
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
    lines.append("")
    for row in document["table"][:max_cells]:
        state = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in row["seeds"].items())
        lines.append(f"  {row['cell_id']}  {row['arm']:<22} {row['cell']:<48} {state}")
    if len(document["table"]) > max_cells:
        lines.append(f"  ... and {len(document['table']) - max_cells} more cells; --json lists all")
    return "\n".join(lines)


def _time_text(document: Mapping[str, Any]) -> str:
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


# Time and disk


def _seconds(sweep: Sweep, plan: Plan, state: RunState, left: Sequence[tuple[Trial, int]]) -> tuple[float | None, str]:
    """Wall seconds for what remains, and their source: measured in this run, or guessed from the model's size."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    trainers = sweep.resources.trainers.count
    lanes = min(cores if trainers == "auto" else min(trainers, cores), max(1, len(left)))
    planned = {trial.trial_id for trial in plan.trials}
    facts = [s.facts for name, t in state.trials.items() if name in planned for s in t.segments]
    steps_done = sum(fact.num_steps for fact in facts)
    if steps_done:
        busy = sum(fact.train_s + fact.evaluate_s + fact.estimate_s for fact in facts)
        todo = sum(trial.train["steps"] - done for trial, done in left)
        return busy / steps_done * todo / lanes, f"measured over {steps_done} steps of this run"
    total = 0.0
    for trial, done in left:
        costs = _costs(trial.problem)
        if costs is None or sweep.resources.trainers.gpus:
            return None, "no trial of this problem has run here yet"
        step_flops, _, epoch_flops = costs
        steps = trial.train["steps"] - done
        total += steps * step_flops
        every = trial.train["evaluate_every"]
        total += ((steps // every if every else 0) + 1) * epoch_flops / 3 * 0.05  # the validation text, forward only
        if sweep.measure is not None:
            gradients = sum(estimator.num_gradients for estimator in sweep.measure.estimators)
            total += _num_snapshots(sweep, steps) * gradients * sweep.measure.data_fraction * epoch_flops
    return total / _FLOPS_PER_SECOND / lanes, "a rough guess from the size of the model"


def _costs(problem: Mapping[str, Any]) -> tuple[float, int, float] | None:
    """Floating-point operations of a step, number of parameters, and operations of a pass over the data."""
    match problem["use"]:
        case "language_modeling":
            model = problem["model"]
            vocabulary = _VOCABULARY.get(problem["corpus"], 10_000)
            if model["use"] == "gpt":
                hidden = embedding = model["width"]
                recurrent = 12 * model["layers"] * hidden**2
            else:
                hidden, embedding = model["hidden"], model["embedding"]
                inputs = [embedding] + [hidden] * (model["layers"] - 1)
                recurrent = sum(4 * hidden * (width + hidden) for width in inputs)
            parameters = recurrent + vocabulary * embedding + (0 if model["tied"] else vocabulary * hidden)
            per_token = 6 * (recurrent + vocabulary * hidden)
            tokens = problem["batch_size"] * problem["sequence_length"]
            return per_token * tokens, parameters, per_token * _TOKENS.get(problem["corpus"], 1_000_000)
        case "image_classification":
            pixels, images = (64, 1_437) if problem["dataset"] == "digits" else (1024, 50_000)
            per_image, parameters = _image_costs(problem["model"], pixels, 1 if pixels == 64 else 3)
            return per_image * problem["batch_size"], parameters, per_image * images
        case "deep_linear":
            parameters = problem["layers"] * problem["width"] ** 2
            operations = 6.0 * parameters * problem["samples"]
            return operations + 2e6, parameters, operations + 2e6  # PyTorch's own overhead outweighs so little work
        case "analytic":
            return 300.0, 0, 0.0  # a dozen NumPy operations per lane and step
    return None


def _image_costs(model: Mapping[str, Any], pixels: int, channels: int) -> tuple[float, int]:
    """Floating-point operations per image, forward and backward, and the number of parameters."""
    match model["use"]:
        case "resnet20":
            scale = (model["width"] / 16) ** 2
            return 3 * 82e6 * scale * pixels / 1024, round(0.27e6 * scale)
        case "resnet18":
            scale = (model["width"] / 64) ** 2
            return 3 * 1.1e9 * scale * pixels / 1024, round(11.17e6 * scale)
    sizes = [pixels * channels, *([model["hidden"]] * model["layers"] if model["use"] == "mlp" else []), 10]
    parameters = sum(inputs * outputs for inputs, outputs in pairwise(sizes))
    return 6.0 * parameters, parameters


def _num_snapshots(sweep: Sweep, steps: int) -> int:
    measure = sweep.measure
    if measure is None:
        return 0
    window = min(steps, measure.to_step if measure.to_step is not None else steps) - min(steps, measure.from_step)
    regular = window // measure.every + 1 if measure.every else 0
    return min(steps, regular + measure.first + measure.last + len(measure.steps))


def _num_rows(trial: Trial, steps: int) -> float:
    every = trial.train["log_every"]
    if trial.problem["use"] == "analytic":
        return 2 if every is None else steps / every
    return steps / (every or 1)


def _bytes(sweep: Sweep, left: Sequence[tuple[Trial, int]]) -> float:
    """Parts and the tables compacted from them, checkpoints of the trials running at once, and kept snapshots."""
    total = 0.0
    largest = 0
    for trial, done in left:
        steps = trial.train["steps"] - done
        costs = _costs(trial.problem)
        parameters = costs[1] if costs is not None else 0
        largest = max(largest, parameters)
        snapshots = _num_snapshots(sweep, steps)
        total += 2 * (_num_rows(trial, steps) * _METRIC_ROW_BYTES + snapshots * _MEASUREMENT_ROW_BYTES)
        if sweep.measure is not None and sweep.measure.keep:
            total += snapshots * 2 * 4 * parameters
    return total + 2 * 8 * largest * min(len(left), os.cpu_count() or 1) + 4_000 * len(left)
