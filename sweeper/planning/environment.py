"""What results depend on besides the spec, and whether it changed under a run."""

from __future__ import annotations

import csv
import logging
import os
import platform
import re
import shutil
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from sweeper.errors import RunDirectoryError
from sweeper.planning.revision import output_of, revision_of
from sweeper.spec.sections.settings import Resources
from sweeper.store.run_dir import RunDir

__all__ = ["check_drift", "conditions", "driver_version", "environment_of", "provenance", "usable_cores"]

_log = logging.getLogger(__name__)


def environment_of(resources: Resources) -> dict[str, Any]:
    """What results depend on besides the spec: a resumed trial is bit-identical only if none of it changed."""
    return conditions(
        trainer_threads=resources.trainers.threads,
        estimator_threads=resources.estimators.threads,
        gpus=resources.trainers.gpus > 0,
        measured_on_gpus=resources.estimators.gpus > 0,
    )


def conditions(
    *, trainer_threads: int, estimator_threads: int, gpus: bool, measured_on_gpus: bool = False
) -> dict[str, Any]:
    """What results of any loop on this machine depend on.

    Args:
        trainer_threads: Threads of each numerical kernel where it is trained.
        estimator_threads: The same where it is measured.
        gpus: Whether it is trained on a GPU.
        measured_on_gpus: Whether it is measured on one.

    Returns:
        Versions, processor and threads; and where a GPU is used, this machine's, its driver, CUDA and cuDNN.
    """
    known = {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": metadata.version("numpy"),
        "machine": platform.machine(),
        "processor": _processor(),
        "trainer_threads": trainer_threads,
        "estimator_threads": estimator_threads,
        "gpus": gpus,
    }
    if not (gpus or measured_on_gpus):
        return known
    found = {gpu["name"] for gpu in _gpus()}
    return known | {
        "gpu": ", ".join(sorted(found)) or None,
        "driver": driver_version(),
        "cuda": _cuda(),
        "cudnn": next(filter(None, (_version(f"nvidia-cudnn-cu{major}") for major in (14, 13, 12, 11))), None),
    }


def usable_cores() -> int:
    """Cores that this process may use, which in a container or under a batch system are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def provenance(folder: Path) -> dict[str, Any]:
    """What is worth knowing later, but does not affect results.

    Args:
        folder: The spec's own.

    Returns:
        Versions, the machine with its GPUs, and in ``revisions`` the commits of clipsweep itself and of the spec's
        repository. What cannot be found out is None.
    """
    package = Path(__file__).resolve().parents[1]
    # At the same time, since each of these asks other programs.
    with ThreadPoolExecutor(max_workers=3) as threads:
        own = threads.submit(revision_of, package, tracked=package / "__init__.py")
        spec = threads.submit(revision_of, folder)
        gpus = threads.submit(_gpus)
        return {
            "clipsweep": metadata.version("clipsweep"),
            "ray": _version("ray"),
            "cuda": _cuda(),
            "host": socket.gethostname(),
            "system": platform.platform(),
            "gpu_devices": gpus.result(),
            "revisions": {"clipsweep": own.result(), "spec": spec.result()},
        }


def _version(package: str) -> str | None:
    """Of a package that not every installation has."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> str | None:
    """The CUDA that torch was built for, read from its files: importing it would take seconds."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (OSError, UnicodeDecodeError, metadata.PackageNotFoundError):
        return None
    found = re.search(r"^cuda\b[^=]*= *'([^']+)'", text, re.MULTILINE)
    return found[1] if found else None


def _gpus() -> list[dict[str, str]]:
    """Name, driver and id of each GPU of this machine; empty where NVIDIA's tool is missing or does not answer."""
    program = shutil.which("nvidia-smi")
    said = program and output_of(program, "--query-gpu=name,driver_version,uuid", "--format=csv,noheader")
    rows = csv.reader((said or "").splitlines(), skipinitialspace=True)
    return [dict(zip(("name", "driver", "uuid"), row, strict=True)) for row in rows if len(row) == 3]


def driver_version() -> str | None:
    """The version of NVIDIA's driver on this machine; None where there is none, or it does not tell."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except (OSError, UnicodeDecodeError):
        text = ""
    if found := re.search(r"Kernel Module\b.*?(\d+\.\d+(?:\.\d+)?)", text):
        return found[1]
    return next((gpu["driver"] for gpu in _gpus()), None)


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
