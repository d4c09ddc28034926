"""What results depend on besides the spec, and whether it changed under a run."""

from __future__ import annotations

import logging
import platform
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from sweeper.errors import RunDirectoryError
from sweeper.spec.sections.settings import Resources
from sweeper.store.run_dir import RunDir

__all__ = ["check_drift", "environment_of", "provenance"]

_log = logging.getLogger(__name__)


def environment_of(resources: Resources) -> dict[str, Any]:
    """What results depend on besides the spec: a resumed trial is bit-identical only if none of it changed."""
    return {
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "machine": platform.machine(),
        "processor": _processor(),
        "trainer_threads": resources.trainers.threads,
        "estimator_threads": resources.estimators.threads,
        "gpus": resources.trainers.gpus > 0,
    }


def provenance() -> dict[str, Any]:
    """What is worth knowing later, but does not affect results."""
    return {
        "clipsweep": metadata.version("clipsweep"),
        "ray": metadata.version("ray"),
        "host": socket.gethostname(),
        "system": platform.platform(),
    }


def _processor() -> str:
    """The processor's model, on which the choice of kernels depends."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def check_drift(
    run_dir: RunDir, before: Mapping[str, Any], environment: Mapping[str, Any], *, begun: bool, accepted: bool
) -> None:
    """Refuse to mix rows that differ only because the machine does.

    Args:
        run_dir: The run.
        before: The environment of the existing rows.
        environment: The environment of the next rows.
        begun: Whether there are any rows.
        accepted: Whether the user wants to continue regardless.

    Raises:
        RunDirectoryError: Something changed.
    """
    changed = {key: (old, environment.get(key)) for key, old in before.items() if environment.get(key) != old}
    if not begun or not changed:
        return
    lines = [f"  {key}: {old} -> {new}" for key, (old, new) in changed.items()]
    text = "\n".join([f"{run_dir.path}: was begun under different conditions:", *lines])
    if not accepted:
        raise RunDirectoryError(
            f"{text}\nrows of the two would not be comparable bit for bit; continue with --accept-drift, "
            "or choose another directory with --out"
        )
    _log.warning("%s", text)
