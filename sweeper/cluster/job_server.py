"""Where a cluster takes jobs, whether it lets us in, and whether it lets everybody in."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from sweeper.cluster.joining import ask, join, knock, listens, open_to_others, token, token_refused, token_source
from sweeper.errors import ClusterError

__all__ = ["JobServer", "find_job_server", "takes_jobs_only"]

_TIMEOUT_S = 10.0
_REFUSED = (401, 403)


@dataclass(frozen=True, kw_only=True)
class JobServer:
    """Where a cluster takes jobs.

    Attributes:
        url: Its URL, without a trailing slash.
        guarded: Whether it asks for a token.
        notes: What the user should know, one line each.
    """

    url: str
    guarded: bool
    notes: tuple[str, ...] = ()


def takes_jobs_only(address: str) -> bool:
    """Whether a driver cannot work from outside through an address, so it has to run inside, as a job.

    Args:
        address: As in ``cluster.address``.

    Returns:
        True for ``ray://host:port`` and ``http(s)://host:port``, including one that ``auto`` finds in RAY_ADDRESS.

    Example:
        >>> takes_jobs_only("ray://head:10001"), takes_jobs_only("head:6379")
        (True, False)
    """
    return _wanted(address).startswith(("ray://", "http://", "https://"))


def find_job_server(address: str, *, insecure: bool = False) -> JobServer:
    """Find the job server of a cluster, and check whether it takes our jobs.

    Args:
        address: ``auto``, ``host:port``, ``ray://host:port``, or the job server's own ``http(s)://host:port``.
        insecure: Whether to accept a cluster that anybody on the network can use.

    Returns:
        The job server. This process does not have the cluster's token yet.

    Raises:
        ClusterError: There is none, or it does not let us in; the message says why, and what to do.
    """
    where = f"cluster.address {address!r}"
    wanted = _wanted(address)
    if wanted != address:
        where += f" (RAY_ADDRESS={wanted})"
    if wanted.startswith(("http://", "https://")):
        url = wanted.rstrip("/")
    elif wanted.startswith("ray://"):
        url = f"http://{_of_client(wanted, where)}"
    else:
        joined = join(address, insecure=insecure, from_outside=True)
        if joined.dashboard is None:
            raise ClusterError(f"{where}: {_NO_SERVER}")
        url = f"http://{joined.dashboard}"
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if url == wanted.rstrip("/"):
        knock(f"{parts.hostname}:{port}", where)
    elif not listens(f"{parts.hostname}:{port}", timeout_s=_TIMEOUT_S):
        # A cluster reports the address of a dashboard even if it was started without one.
        raise ClusterError(f"{where}: its job server {url} cannot be reached; {_NO_SERVER}")
    source = token_source(where)
    status, document = _get(url, None)
    guarded = status in _REFUSED
    if guarded:
        status, document = _get(url, token()) if source is not None else (status, None)
        if status in _REFUSED:
            raise token_refused(where, source)
    if document is None or "ray_version" not in document:
        raise ClusterError(f"{where}: what answers at {url} is not a Ray job server; {_NO_SERVER}")
    notes = () if guarded else open_to_others(where, url, [parts.hostname or ""], insecure=insecure)
    return JobServer(url=url, guarded=guarded, notes=tuple(notes))


_NO_SERVER = (
    "the cluster's job server, by default at port 8265 of its head, runs the driver inside; it needs "
    "`pip install 'ray[default]'` there, and `ray start --head` without --include-dashboard=false, and with "
    "--dashboard-host=0.0.0.0 to be reached from other machines"
)


def _wanted(address: str) -> str:
    return os.environ.get("RAY_ADDRESS") or address if address == "auto" else address


def _of_client(address: str, where: str) -> str:
    """``host:port`` of the job server of a cluster that is reached by its Ray Client port."""
    knock(address.removeprefix("ray://"), where)
    source = token_source(where)
    found = ask(address, where, with_token=source is not None)
    match found["problem"]:
        case "token":
            raise token_refused(where, source)
        case "mismatch":
            raise ClusterError(
                f"{where}: {found['text']}; Ray Client needs the same versions on both sides, the job server does not: "
                "`--address http://host:8265`"
            )
        case "silent":
            # Ray Client does not distinguish a wrong token from no answer.
            known = "there is no token here" if source is None else f"the token of {source} is wrong"
            raise ClusterError(
                f"{where}: something listens there, but does not answer as a Ray Client server ({found['text']}): "
                f"its port is 10001 by default, or {known}; or name the job server, `--address http://host:8265`"
            )
    if not found["dashboard"]:
        raise ClusterError(f"{where}: {_NO_SERVER}")
    server = str(found["dashboard"])
    if not listens(server, timeout_s=_TIMEOUT_S):
        raise ClusterError(
            f"{where}: the cluster's job server is {server}, which cannot be reached from here; forward its port and "
            "give `--address http://localhost:8265`"
        )
    return server


def _get(url: str, with_token: str | None) -> tuple[int, dict[str, Any] | None]:
    """Status and document of the server's version."""
    request = urllib.request.Request(f"{url}/api/version")
    if with_token is not None:
        request.add_header("Authorization", f"Bearer {with_token}")
    try:
        # The address begins with http:// or https://, see above.
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # nosec B310
            document = json.loads(answer.read(65536))
            return answer.status, document if isinstance(document, dict) else None
    except urllib.error.HTTPError as error:
        return error.code, None
    except (OSError, ValueError, http.client.HTTPException):
        return 0, None
