"""Ask a Ray cluster about itself: ``python -m sweeper.cluster.probe ADDRESS SECONDS`` prints JSON.

This is a separate process because Ray fixes how it authenticates when it is imported, waits very long for a silent
cluster, and may end the process that asks. If the cluster takes longer than SECONDS, SIGALRM ends this process.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from ray import __version__ as ray_version
from ray.exceptions import AuthenticationError, RayError

from sweeper.cluster.joining import is_loopback, listens
from sweeper.cluster.ray_private import ask_head, node_ids_here, resolved_address, running_here

__all__ = ["probe"]

_TIMEOUT_S = 10


def probe(address: str) -> dict[str, Any]:
    """What a cluster says about itself to this process, which may have a token.

    Args:
        address: ``auto`` or ``host:port``; or ``ray://host:port``, which is asked only for its job server.

    Returns:
        ``problem`` (None, ``none_here``, ``several_here``, ``bad_address``, ``token`` or ``silent``) with ``text``;
        if there is none, ``address``, ``ray`` and ``python`` of the cluster and ``own_ray`` of this machine,
        ``nodes`` (addresses of its living nodes), ``here`` (whether one of them runs on this machine) and
        ``dashboard`` (host and port, or None).
    """
    if address.startswith("ray://"):
        return _probe_client(address)
    if address == "auto":
        running = running_here()
        # A Ray on the loopback is somebody's private one, so it is used only if there is no other.
        running = [one for one in running if not is_loopback(one.rpartition(":")[0])] or running
        if not running:
            return {"problem": "none_here", "text": ""}
        if len(running) > 1:
            return {"problem": "several_here", "text": ", ".join(running)}
        address = running[0]
    try:
        found = resolved_address(address)
        # Ray replaces 127.0.0.1 by this machine's own address, at which a private Ray does not listen.
        found = found if found == address or listens(found, timeout_s=2.0) else address
    except (ValueError, OSError) as error:
        return {"problem": "bad_address", "text": _first_line(error)}
    try:
        head = ask_head(found, timeout_s=_TIMEOUT_S)
    except AuthenticationError as error:
        return {"problem": "token", "address": found, "text": _first_line(error)}
    except RayError as error:
        return {"problem": "silent", "address": found, "text": _first_line(error)}
    return {
        "problem": None,
        "address": found,
        "ray": head.versions.get("ray_version"),
        "python": head.versions.get("python_version"),
        "own_ray": ray_version,
        "nodes": sorted(head.nodes.values()),
        "here": bool(set(head.nodes) & node_ids_here()),
        "dashboard": head.dashboard,
    }


def _probe_client(address: str) -> dict[str, Any]:
    """The job server of a cluster that is reached through its Ray Client port."""
    import ray

    try:
        with ray.init(address, logging_level="ERROR", log_to_driver=False) as client:
            return {"problem": None, "address": address, "dashboard": client.dashboard_url or None}
    except AuthenticationError as error:
        return {"problem": "token", "address": address, "text": _first_line(error)}
    except (RayError, RuntimeError, ConnectionError, ValueError) as error:
        said = str(error)
        kind = "token" if "UNAUTHENTICATED" in said or "token" in said.lower() else "silent"
        kind = "mismatch" if "version" in said.lower() else kind
        return {"problem": kind, "address": address, "text": _first_line(error)}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


if __name__ == "__main__":
    # SIGALRM ends this process whatever Ray's own threads are doing. It is set only here, because the time until now
    # was this machine's, not the cluster's.
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
    sys.stdout.write(json.dumps(probe(sys.argv[1])) + "\n")
