"""Everything of Ray's that is private, in one place: what a new release of Ray may change without a word.

The range of versions in ``pyproject.toml`` is that with which this was tried.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled, without a word on its types
from ray.job_config import JobConfig

__all__ = [
    "HeadFacts",
    "ask_head",
    "free_resources",
    "job_without_folders",
    "local_options",
    "node_ids_here",
    "resolved_address",
    "running_here",
    "started_processes",
    "state_of_actor",
]


def local_options(session: Path) -> dict[str, Any]:
    """What ``ray.init`` takes to start a Ray that this machine alone reaches, with its files in one folder.

    Args:
        session: The folder; its path is short, since Ray puts Unix sockets below it.

    Returns:
        Keyword arguments. ``ray start`` has public options for both, ``ray.init`` has not.
    """
    return {"_temp_dir": str(session), "_node_ip_address": "127.0.0.1"}


class _NoFolders(JobConfig):  # type: ignore[misc]  # Ray's types are not read
    """A job whose workers don't get the driver's current folder and its script's in front of their path.

    There, packages of the user's would be found in the place of clipsweep's. Ray leaves them out where a job brings a
    folder of its own, which takes a second to set up even if it is empty.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def job_without_folders() -> JobConfig:
    """What ``ray.init`` takes for a job whose workers import what is installed, and nothing from the driver's folders.

    Returns:
        The config.
    """
    return _NoFolders()


def started_processes() -> list[Popen[bytes]]:
    """The processes of a local Ray that this process has started.

    Ray's public interface does not name them, and ``ray.shutdown`` asks each to end by SIGTERM, which they don't hear.

    Returns:
        Its processes; none where this process is not connected, or has joined a cluster.
    """
    node = ray._private.worker._global_node
    return [] if node is None else [info.process for infos in node.all_processes.values() for info in infos]


def free_resources() -> dict[str, Mapping[str, float]]:
    """What is free on each node now.

    ``ray.available_resources`` has the sum over all nodes alone, and ``ray.util.state`` needs a dashboard, which a
    local Ray does not have.

    Returns:
        Id of the node to its free resources.
    """
    free: dict[str, Mapping[str, float]] = ray._private.state.available_resources_per_node()
    return free


def state_of_actor(actor: Any) -> Mapping[str, Any] | None:
    """What the cluster's head knows of an actor.

    An actor's handle does not tell its id or whether it has a node, and ``ray.util.state`` needs a dashboard.

    Args:
        actor: Its handle.

    Returns:
        ``State`` and ``Address`` among others; None where the head does not know it yet.
    """
    return ray._private.state.actors(actor._actor_id.hex()) or None


def running_here() -> list[str]:
    """The addresses of all Rays that run on this machine, read from its processes.

    ``ray.init(address="auto")`` takes one of them, and does not say that there are several.

    Returns:
        ``host:port`` each, sorted.
    """
    return sorted(services.find_gcs_addresses())


def resolved_address(address: str) -> str:
    """The address of a cluster's head as Ray takes it, with names resolved.

    ``ray.init`` does this itself, but then goes on to wait for an answer.

    Args:
        address: ``host:port``.

    Returns:
        ``host:port``.

    Raises:
        ValueError: It is no address.
        OSError: The name has no address.
    """
    found: str = services.canonicalize_bootstrap_address_or_die(address)
    return found


def node_ids_here() -> set[str]:
    """The ids of the nodes that run on this machine, read from its processes; ``ray.nodes`` wants a connection."""
    return set(services.find_node_ids())


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """What a cluster's head says of it.

    Attributes:
        versions: ``ray_version`` and ``python_version``; empty where it does not say.
        nodes: Id of each living node to its address.
        dashboard: ``host:port``; None where there is none.
    """

    versions: Mapping[str, str]
    nodes: Mapping[str, str]
    dashboard: str | None


def ask_head(address: str, *, timeout_s: float) -> HeadFacts:
    """Ask a cluster's head who it is, without joining.

    ``ray.init`` waits for a silent head longer than anybody wants to, and does not tell the versions of another Ray.

    Args:
        address: ``host:port``.
        timeout_s: How long each of three questions may take.

    Returns:
        What it says.

    Raises:
        AuthenticationError: It wants another token.
        RayError: It does not answer.
    """
    client = GcsClient(address=address)
    metadata = client.internal_kv_get(b"CLUSTER_METADATA", ray_constants.KV_NAMESPACE_CLUSTER, timeout=timeout_s)
    dashboard = client.internal_kv_get(
        ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD, timeout=timeout_s
    )
    nodes = client.get_all_node_info(timeout=timeout_s)
    return HeadFacts(
        versions=json.loads(metadata) if metadata else {},
        nodes={node_id.hex(): node.node_manager_address for node_id, node in nodes.items() if node.state == _ALIVE},
        dashboard=dashboard.decode() if dashboard else None,
    )


_ALIVE = 0
"""``GcsNodeInfo.ALIVE``."""
