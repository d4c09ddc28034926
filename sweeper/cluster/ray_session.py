"""Start a local Ray or join a cluster, for as long as it is needed, and ask it what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from sweeper.cluster.capacity import Cluster, Node, Wanted, WorkerSettings, pool_size, shares_of
from sweeper.cluster.joining import listens
from sweeper.cluster.nodes import Layout
from sweeper.cluster.ray_private import (
    free_resources,
    job_without_folders,
    local_options,
    started_processes,
    state_of_actor,
)
from sweeper.cluster.shield import children_without_signals, ended_with
from sweeper.cluster.waiting import NodeRoom, in_background
from sweeper.errors import ClusterError, error_line
from sweeper.own_packages import own_folder
from sweeper.planning.environment import usable_cores
from sweeper.protocol.pools import PoolSize
from sweeper.store.guarded_paths import make_folder

__all__ = ["connect", "head_answers", "node_rooms", "room_now", "without_place"]

_log = logging.getLogger(__name__)

_FAILURES = (RayError, ConnectionError, RuntimeError, ValueError, TimeoutError, OSError)
"""What Ray raises where it cannot be started or joined."""

_JOIN_S = 60.0
"""How long a cluster that has answered may take to be joined. Ray itself would try for ever."""


@contextlib.contextmanager
def connect(
    address: str,
    *,
    logs: Path,
    code: Path | None = None,
    gpus: int | None = None,
    say: Callable[[str], object] = _log.warning,
) -> Iterator[Cluster]:
    """Start a private local Ray, or join a cluster, for the length of a ``with`` block.

    Args:
        address: ``local`` or ``host:port``.
        logs: Where the logs of a local Ray are copied in the end.
        code: Folder with the user's own code, shipped to every worker.
        gpus: GPUs of a local Ray; None for those that it finds. A cluster knows its own.
        say: Receives a line where starting takes more than one attempt.

    Yields:
        What the cluster has.

    Raises:
        ClusterError: Ray could not be started or reached.
    """
    local = address == "local"
    session = _session_folder(say) if local else None
    options: dict[str, Any] = {
        "address": address,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": False,
        "namespace": "clipsweep",
    }
    # From a checkout that is not installed, workers find clipsweep in the current folder, too.
    if own_folder("sweeper").parent != Path.cwd():
        options["job_config"] = job_without_folders()
    if code is not None:
        options["runtime_env"] = {"working_dir": str(code)}
    if session is not None:
        options |= {
            "include_dashboard": False,
            "num_cpus": usable_cores(),
            "num_gpus": gpus,
            "object_store_memory": _local_store_bytes(),
            **local_options(session),
        }
    elif gpus is not None:
        say(f"cluster.gpus: {gpus} is for a local Ray only; {address} has the GPUs that its nodes were started with")
    try:
        if local:
            _start(options, say)
        else:
            _join(options)
        try:
            yield _describe()
        except (RayError, ConnectionError) as error:
            raise ClusterError(
                f"the Ray cluster was lost: {error_line(error)}; what was committed is safe: "
                "run the same command to resume"
            ) from error
        finally:
            _leave()
    finally:
        if session is not None:
            _keep_logs(session, logs)
            shutil.rmtree(session, ignore_errors=True)


_BELOW = "session_2026-11-28_05-49-10_486586_4194304/sockets/plasma_store"
"""The longest path that Ray makes below a session's folder."""

_MOST_BYTES = 107
"""Of the path of a Unix socket."""


def _session_folder(say: Callable[[str], object]) -> Path:
    """A new folder for the session, with a path that is short enough for Ray's sockets."""
    chosen = tempfile.gettempdir()
    for parent in dict.fromkeys([chosen, _SHORT, os.environ.get("XDG_RUNTIME_DIR", _SHORT)]):
        if len(os.fsencode(parent)) > _LONGEST_PARENT or not os.access(parent, os.W_OK):
            continue
        if parent != chosen:
            say(f"Ray runs in {parent}: the path of {chosen} is too long for its sockets")
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    raise ClusterError(
        f"{chosen}: the path of the folder for temporary files is too long for Ray's sockets: set TMPDIR to one of at "
        f"most {_LONGEST_PARENT} characters that you may write to"
    )


_SHORT = "/tmp"  # a folder in it is made for this user alone, by mkdtemp  # nosec B108
_PREFIX = "clipsweep-"
_LONGEST_PARENT = _MOST_BYTES - len(f"/{_PREFIX}12345678/{_BELOW}")


def _start(options: Mapping[str, Any], say: Callable[[str], object]) -> None:
    """Start a local Ray; that can fail on a busy machine, so it is tried again once."""
    for again in (True, False):
        try:
            with children_without_signals():
                ray.init(**options)
        except Exception as error:
            # Whatever its type: of a node that does not come up in time Ray says so by a bare Exception.
            _leave()
            if not again:
                raise ClusterError(
                    f"a local Ray could not be started, twice: {error_line(error)}; if this machine is busy, try again "
                    "when it is less so"
                ) from error
            say(f"Ray did not start ({error_line(error)}); trying once more")
        except BaseException:
            # Ctrl-C while Ray starts.
            _leave()
            raise
        else:
            return


def _join(options: Mapping[str, Any]) -> None:
    """Join a cluster that answered a moment ago (see ``joining``), or say that it does not any more."""
    where = f"cluster.address {options['address']!r}: the cluster answers, but"
    fix = "look at the logs of its head, or use `--address local`"
    # There Ray would warn that it cannot set handlers of signals, as it should not.
    logging.getLogger("ray").setLevel(logging.ERROR)
    joined = in_background(lambda: ray.init(**options))
    wait([joined], timeout=_JOIN_S)
    if not joined.done():
        # Ray is not asked to leave what it has not joined: that would wait for the same.
        raise ClusterError(f"{where} has not let this driver join within {_JOIN_S:.0f} s; its head may hang: {fix}")
    try:
        joined.result()
    except _FAILURES as error:
        _leave()
        raise ClusterError(f"{where} cannot be joined: {error_line(error)}; {fix}") from error


def _leave() -> None:
    """Leave a cluster, or end a local Ray with all that it has started."""
    started = started_processes()
    for process in started:
        # Ray would ask each to go, and wait a second for it; but SIGTERM does not reach them.
        process.terminate = process.kill  # type: ignore[method-assign]
    with ended_with([process.pid for process in started]):
        ray.shutdown()


def _describe() -> Cluster:
    return Cluster(nodes=tuple(_node(node) for node in ray.nodes() if node["Alive"]))


def _node(known: Mapping[str, Any]) -> Node:
    resources = known["Resources"]
    return Node(
        **_cpus_gpus(resources),
        accelerator_types=frozenset(name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)),
        store_bytes=int(resources.get("object_store_memory", 0)),
        name=known["NodeID"],
    )


_TYPE = "accelerator_type:"
"""How Ray names the resource that says which accelerator a node has."""


def node_rooms(accelerator_type: str | None = None) -> list[NodeRoom]:
    """What the living nodes have, and what is free there now.

    Args:
        accelerator_type: Only nodes with this accelerator; None for all.

    Returns:
        The nodes.
    """
    free = free_resources()
    return [
        NodeRoom(total=_cpus_gpus(node["Resources"]), free=_cpus_gpus(free.get(node["NodeID"], {})))
        for node in ray.nodes()
        if node["Alive"] and (accelerator_type is None or f"{_TYPE}{accelerator_type}" in node["Resources"])
    ]


def _cpus_gpus(resources: Mapping[str, float]) -> dict[str, float]:
    return {"cpus": resources.get("CPU", 0.0), "gpus": resources.get("GPU", 0.0)}


def room_now(
    trainer: WorkerSettings,
    estimator: WorkerSettings,
    wanted: Wanted,
    layout: Layout,
) -> PoolSize | None:
    """How many workers the living nodes have room for.

    Args:
        trainer: What a trainer takes.
        estimator: What an estimator takes.
        wanted: What the spec asks for: the most that are started.
        layout: Receives what each node is to hold.

    Returns:
        The sizes, at most what is wanted; None where there is no room for one of each.
    """
    fitting = replace(wanted, trainers="auto", estimators="auto" if wanted.estimators != 0 else 0)
    cluster = _describe()
    try:
        size = pool_size(cluster, trainer, estimator, fitting)
    except ClusterError:
        return None
    layout.shares = shares_of(cluster, trainer, estimator, measured=wanted.estimators != 0)
    return replace(
        size,
        trainers=size.trainers if wanted.trainers == "auto" else min(wanted.trainers, size.trainers),
        estimators=size.estimators if wanted.estimators == "auto" else min(wanted.estimators, size.estimators),
    )


def head_answers() -> bool:
    """Whether the head of the joined cluster takes connections."""
    return listens(ray.get_runtime_context().gcs_address, timeout_s=1.0)


def without_place(actor: Any) -> bool:
    """Whether no node has been found for an actor that was asked for."""
    known = state_of_actor(actor)
    if known is None:
        return False
    return known["State"] in {"DEPENDENCIES_UNREADY", "PENDING_CREATION"} and not known["Address"]["Port"]


def _local_store_bytes() -> int:
    """Shared memory for snapshots: a quarter of what is free in /dev/shm, between 100 MiB and 4 GiB."""
    try:
        free = shutil.disk_usage("/dev/shm").free  # no file is made there  # nosec B108
    except OSError:
        free = 2**30
    return int(min(max(free // 4, 100 * 2**20), 4 * 2**30))


def _keep_logs(session: Path, logs: Path) -> None:
    """Copy a local Ray's logs that hold something into the run directory."""
    target = logs / "ray"
    for path in session.glob("session_*/logs/*"):
        if path.parent.parent.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(OSError):
            if path.stat().st_size and path.suffix in {".err", ".out", ".log"}:
                make_folder(target)
                shutil.copyfile(path, target / path.name)
