"""Kept snapshots: self-describing files, so that they can be measured again later."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from sweeper.errors import IntegrityError
from sweeper.protocol.messages import SnapshotHeader
from sweeper.store.run_dir import RunDir, checked_name, file_hash

__all__ = ["keep_snapshot", "kept_steps", "read_header", "read_iterates"]


_STEP = re.compile(r"step-([0-9]{10,18})\.safetensors", re.ASCII)
_OF_STEP = ("grad_norm", "learning_rate", "clip_norm", "stability_threshold")
_FLAGS = {None: "", False: "no", True: "yes"}
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError)


def keep_snapshot(run_dir: RunDir, header: SnapshotHeader, iterates: np.ndarray[Any, Any]) -> None:
    """Write a snapshot to the run directory, where it is kept.

    Args:
        run_dir: The run.
        header: What it belongs to; its measure section is not kept.
        iterates: x_k and x_{k+1}, float32 or float64, shape (2, n); the preconditioner may be a third row.
    """
    described = {
        "trial_id": header.trial,
        "step": str(header.step),
        "epoch": repr(header.epoch),
        "seed": str(header.seed),
        "problem": json.dumps(dict(header.problem)),
        "data": header.data or "",
        **{key: _written(getattr(header, key)) for key in _OF_STEP},
        "preconditioned": _FLAGS[header.preconditioned],
        "batches_per_step": str(header.batches_per_step),
        "xxh3": _hash(iterates),
    }
    data = save_arrays({"iterates": iterates}, metadata=described)
    run_dir.publish(run_dir.snapshot(header.trial, header.step), data)


def kept_steps(run_dir: RunDir, trial: str) -> list[int]:
    """The steps of a trial's kept snapshots, in order."""
    folder = run_dir.snapshot(trial, 0).parent
    # Files with other names were not written by a run.
    found = (_STEP.fullmatch(path.name) for path in folder.glob("step-*.safetensors"))
    return sorted(int(match[1]) for match in found if match is not None)


def read_header(path: Path, measure: Mapping[str, Any]) -> SnapshotHeader:
    """What a kept snapshot belongs to.

    Args:
        path: The file.
        measure: What to measure on it.

    Returns:
        The header, as a trainer would send it.

    Raises:
        IntegrityError: The file is damaged, or from an earlier clipsweep that did not record the problem.
    """
    described = _metadata(path)
    if "problem" not in described:
        raise IntegrityError(
            f"{path}: does not say which problem it belongs to; run the sweep again to keep snapshots that do"
        )
    try:
        problem = json.loads(described["problem"])
        if not isinstance(problem, dict) or not isinstance(problem.get("use"), str):
            raise ValueError("its problem is not a problem")
        return SnapshotHeader(
            trial=checked_name(described["trial_id"]),
            seed=int(described["seed"]),
            step=int(described["step"]),
            epoch=float(described["epoch"]),
            problem=problem,
            measure=measure,
            nbytes=path.stat().st_size,
            data=described["data"] or None,
            # Earlier versions did not keep these.
            preconditioned={text: flag for flag, text in _FLAGS.items()}.get(described.get("preconditioned", "")),
            batches_per_step=int(described.get("batches_per_step", "1")),
            **{key: float(described[key]) for key in _OF_STEP if described.get(key)},
        )
    except (ValueError, KeyError, RecursionError) as error:
        raise IntegrityError(f"{path}: does not say what it belongs to: {error!r:.200}") from error


def read_iterates(path: Path) -> np.ndarray[Any, Any]:
    """x_k and x_{k+1}, and the preconditioner if it was kept, checked against the hash of what was written.

    Args:
        path: The file.

    Returns:
        float32, or float64 for a model in float64; shape (2, n), or (3, n) where the preconditioner was kept.

    Raises:
        IntegrityError: The file is damaged.
    """
    expected = _metadata(path).get("xxh3")
    try:
        with safe_open(path, framework="numpy") as file:
            iterates: np.ndarray[Any, Any] = file.get_tensor("iterates")
    except _UNREADABLE as error:
        raise IntegrityError(f"{path}: cannot be read: {error}") from error
    if iterates.dtype not in (np.float32, np.float64) or iterates.ndim != 2 or len(iterates) not in (2, 3):
        raise IntegrityError(f"{path}: expected two iterates, found {iterates.dtype} of shape {iterates.shape}")
    if _hash(iterates) != expected:
        raise IntegrityError(f"{path}: holds other numbers than were written (xxh3 differs)")
    return iterates


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except _UNREADABLE as error:
        raise IntegrityError(f"{path}: cannot be read: {error}") from error


def _written(number: float | None) -> str:
    return "" if number is None else repr(number)


def _hash(iterates: np.ndarray[Any, Any]) -> str:
    return file_hash(np.ascontiguousarray(iterates).data.cast("B"))
