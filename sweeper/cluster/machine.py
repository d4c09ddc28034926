"""What this machine has for a local Ray, told without starting one, so that what cannot fit is refused at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sweeper.cluster.capacity import Cluster, Node, Wanted, pool_size, worker_settings
from sweeper.errors import ClusterError
from sweeper.planning.environment import usable_cores
from sweeper.spec.sections.settings import Resources

__all__ = ["misfit", "num_gpus"]

_TIMEOUT_S = 5.0


def num_gpus() -> int | None:
    """GPUs that a local Ray would find.

    Returns:
        Their number; None where this machine has accelerators that only Ray itself can count.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return 0 if visible in {"", "-1", "NoDevFiles"} else len(visible.split(","))
    if Path("/dev/kfd").exists() or any(Path("/dev").glob("accel*")):
        return None
    program = shutil.which("nvidia-smi")
    if program is None:
        return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    try:
        said = subprocess.run(
            [program, "--list-gpus"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in said.splitlines())


def misfit(resources: Resources, *, measures: bool, num_trials: int, gpus: int | None = None) -> str | None:
    """Why a sweep's workers would not fit a local Ray on this machine.

    Args:
        resources: The spec's section.
        measures: Whether anything is measured.
        num_trials: Trials that are left to run.
        gpus: GPUs that a local Ray is told to have; None for those that it would find.

    Returns:
        What is missing and what to set; None where they fit, or where that is known only once Ray has started.
    """
    gpus = num_gpus() if gpus is None else gpus
    if gpus is None or num_trials == 0:
        return None
    wanted = Wanted(
        trainers=resources.trainers.count,
        estimators=resources.estimators.count if measures else 0,
        num_trials=num_trials,
    )
    machine = Cluster(nodes=(Node(cpus=usable_cores(), gpus=gpus, accelerator_types=None),))
    try:
        pool_size(machine, worker_settings(resources.trainers), worker_settings(resources.estimators), wanted)
    except ClusterError as error:
        return f"this machine is too small for the spec: {error}"
    return None
