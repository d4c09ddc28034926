"""Before a cluster is joined: is it there, does it let us in, is it the same Ray, is it guarded? Each "no" in one line.

Ray itself says "Failed to connect" in most of these cases, after a minute or never. Here, separate processes ask all of
it, so that the answer comes within :data:`LONGEST_S` whatever the other side does. The time that these processes need
to start, which may be long on a busy machine, does not count.
"""

from __future__ import annotations

import concurrent.futures
import ipaddress
import json
import os
import platform
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import ClusterError

__all__ = [
    "LONGEST_S",
    "Joined",
    "ask",
    "is_loopback",
    "join",
    "knock",
    "listens",
    "open_to_others",
    "token",
    "token_refused",
    "token_source",
]

_CONNECT_S = 10.0
_PROBE_S = 30.0
_CLIENT_PROBES_S = (60.0, 120.0)
"""Ray Client has the cluster start a process for each client, which may never answer: then a second is asked for."""

LONGEST_S = _CONNECT_S + _PROBE_S + 5
"""Seconds that a cluster may take to answer, except through Ray Client, which starts a process there first."""

_TOKEN_ADVICE = (  # says where a token goes, and is not one  # nosec B105
    "put the cluster's token into a file of mode 0600 and name it in RAY_AUTH_TOKEN_PATH (or ~/.ray/auth_token)"
)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A cluster that can be joined.

    Attributes:
        address: ``host:port`` of its head.
        guarded: Whether it asks for a token.
        dashboard: ``host:port`` of its job server; None if there is none.
        here: Whether one of its nodes runs on this machine.
        notes: What the user should know, one line each.
    """

    address: str
    guarded: bool
    dashboard: str | None
    here: bool
    notes: tuple[str, ...] = ()


def join(address: str, *, insecure: bool = False, from_outside: bool = False) -> Joined:
    """Check whether a cluster can be joined, and how.

    Args:
        address: ``auto`` or ``host:port``.
        insecure: Whether to accept a cluster that anybody on the network can use.
        from_outside: Whether this machine need not be one of its nodes, as for submitting a job.

    Returns:
        The cluster. This process does not have the cluster's token yet: see ``ray_environment``.

    Raises:
        ClusterError: It cannot be joined; the message says why, and what to do.
    """
    where = f"cluster.address {address!r}"
    wanted = address
    if address == "auto" and os.environ.get("RAY_ADDRESS"):
        wanted = os.environ["RAY_ADDRESS"]
        where += f" (RAY_ADDRESS={wanted})"
    if "://" in wanted:
        raise ClusterError(
            f"{where}: a cluster takes jobs at this address, but workers cannot send measurements through it; "
            "`clipsweep run` starts its driver inside as a job; run any other command on a node, with `--address auto` "
            "or `host:port`"
        )
    if wanted != "auto":
        # First, since a process that asks Ray would wait for its whole time limit if nothing listens there.
        knock(wanted, where)
    source = token_source(where)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        # In parallel: does the cluster let in anybody without a token, and does it let in this user? One process cannot
        # ask both, because Ray fixes how it authenticates when it is imported.
        bare = threads.submit(ask, wanted, where, with_token=False)
        ours = threads.submit(ask, wanted, where, with_token=True) if source is not None else bare
        without, found = bare.result(), ours.result()
    guarded = without["problem"] == "token"
    if not guarded:
        # No token is needed, so the answer that was given with one does not matter.
        found = without
    _check_found(found, where, source)
    _check_versions(found, where)
    if not found["here"] and not from_outside:
        raise ClusterError(
            f"{where}: no node of that cluster ({_names(found['nodes'])}) runs on this machine, and the driver needs "
            f"one; run this command on a node, or make this machine one with `ray start --address={found['address']}`"
        )
    notes = []
    if not guarded:
        notes += open_to_others(where, found["address"], found["nodes"], insecure=insecure)
    if guarded and source is not None and (file := _file_of(source)) is not None and _others_read(file):
        notes.append(f"{file}: others can read the cluster's token; `chmod 600 {file}`")
    return Joined(
        address=found["address"],
        guarded=guarded,
        dashboard=found["dashboard"],
        here=found["here"],
        notes=tuple(notes),
    )


def token_source(where: str = "RAY_AUTH_TOKEN_PATH") -> str | None:
    """Where Ray would find the user's token, in its own order.

    Args:
        where: What the message is about.

    Returns:
        A variable's name, or ``file ...``; None if there is no token.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH does not name a readable, non-empty file.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        try:
            if Path(named).read_text().strip():
                return f"file {named}"
            problem = "is empty"
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            problem = "is not text"
        # Checked here, because Ray would end this process without a message.
        raise ClusterError(f"{where}: the token file {named} (RAY_AUTH_TOKEN_PATH) {problem}; {_TOKEN_ADVICE}")
    default = Path.home() / ".ray" / "auth_token"
    return f"file {default}" if default.is_file() else None


def token() -> str | None:
    """The user's token for Ray, as Ray would find it.

    Returns:
        The token; None if there is none.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH does not name a readable, non-empty file.
    """
    source = token_source()
    if source is None:
        return None
    file = _file_of(source)
    return os.environ[source] if file is None else file.read_text().strip()


def token_refused(where: str, source: str | None) -> ClusterError:
    """The error for a cluster that asks for a token.

    Args:
        where: What the message is about.
        source: As returned by :func:`token_source`.

    Returns:
        The error to raise.
    """
    if source is None:
        return ClusterError(f"{where}: the cluster asks for a token and there is none here; {_TOKEN_ADVICE}")
    return ClusterError(f"{where}: the cluster refuses the token of {source}; {_TOKEN_ADVICE}")


def open_to_others(where: str, address: str, hosts: Iterable[str], *, insecure: bool) -> list[str]:
    """Refuse a cluster that others can reach and that has no token, unless the user accepts it.

    Args:
        where: What the message is about.
        address: Where it can be reached.
        hosts: Its nodes.
        insecure: Whether the user accepts it.

    Returns:
        What the user should know, one line each.

    Raises:
        ClusterError: The user does not accept it.
    """
    if all(map(is_loopback, hosts)):
        return []
    if not insecure:
        raise ClusterError(
            f"{where}: the cluster does not ask for a token, so anybody who reaches {address} can run code there; "
            "start its nodes with RAY_AUTH_MODE=token and one token (docs/cluster.md), or accept it with "
            "--insecure-cluster"
        )
    return [f"insecure: anybody who reaches {address} can run code on this cluster"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    Args:
        host: An IP address or a name.

    Returns:
        True for 127.0.0.0/8, ::1 and ``localhost``.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("192.0.2.1")
        (True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def listens(address: str, *, timeout_s: float) -> bool:
    """Whether anything accepts connections at an address.

    Args:
        address: ``host:port``.
        timeout_s: How long to wait for an answer.

    Returns:
        True if something does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def knock(address: str, where: str) -> None:
    """Raise unless something listens at an address; Ray itself would try for a minute.

    Args:
        address: ``host:port``.
        where: What the message is about.

    Raises:
        ClusterError: Nothing does, or it is not an address; the message says what to do.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterError(f"{where}: is neither local, auto nor host:port; Ray's own port is 6379 by default")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (socket.gaierror, UnicodeError) as error:
        raise ClusterError(f"{where}: no machine named {host!r} is known here; check the name") from error
    except TimeoutError as error:
        raise ClusterError(
            f"{where}: no answer within {_CONNECT_S:.0f} s; is the machine up, and port {port} open in its firewall?"
        ) from error
    except OSError as error:
        raise ClusterError(
            f"{where}: nothing can be reached there ({error.strerror or error}); start a cluster with "
            f"`ray start --head --port={port}` on that machine, or use `--address local`"
        ) from error


def ask(address: str, where: str, *, with_token: bool) -> dict[str, Any]:
    """Ask a cluster about itself, from a new process with the user's token or without any.

    Args:
        address: As for :func:`sweeper.cluster.probe.probe`.
        where: What the message is about.
        with_token: Whether to send the user's token.

    Returns:
        The probe's answer; ``problem`` is ``silent`` if there is none in time.

    Raises:
        ClusterError: The probe's process failed.
    """
    environment = dict(os.environ)
    environment["RAY_AUTH_MODE"] = "token" if with_token else "disabled"
    if not with_token:
        environment.pop("RAY_AUTH_TOKEN", None)
        environment.pop("RAY_AUTH_TOKEN_PATH", None)
    # -P leaves out the current folder, where any file could shadow a module; so the package's own folder is named.
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
    limits_s = _CLIENT_PROBES_S if address.startswith("ray://") else (_PROBE_S,)
    for limit_s in limits_s:
        command = [sys.executable, "-P", "-m", "sweeper.cluster.probe", address, str(limit_s)]
        # No timeout: the probe ends itself by SIGALRM, which it sets only after its slow imports.
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode != -signal.SIGALRM:
            break
    else:
        return {"problem": "silent", "text": f"no answer within {sum(limits_s):.0f} s"}
    try:
        answer: dict[str, Any] = json.loads(ended.stdout.strip().rpartition("\n")[2])
    except ValueError as error:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise ClusterError(f"{where}: asking the cluster failed with exit code {ended.returncode}: {last}") from error
    return answer


def _check_found(found: Mapping[str, Any], where: str, source: str | None) -> None:
    match found["problem"]:
        case "none_here":
            raise ClusterError(
                f"{where}: no Ray runs on this machine; start one with `ray start --head`, name another with "
                "`--address host:port`, or use `--address local`"
            )
        case "several_here":
            raise ClusterError(f"{where}: several Rays run on this machine; name one with --address: {found['text']}")
        case "bad_address":
            raise ClusterError(f"{where}: is not an address of a cluster: {found['text']}")
        case "silent":
            raise ClusterError(
                f"{where}: something listens there, but does not answer as the head of a Ray cluster "
                f"({found['text'].rstrip('.')}); its port is that of `ray start --head --port`, 6379 by default, "
                "not the dashboard's or the client's; or its head hangs"
            )
        case "token":
            raise token_refused(where, source)


def _check_versions(found: Mapping[str, Any], where: str) -> None:
    """Raise unless both sides run the same Ray and the same Python, patch version included, as Ray itself demands."""
    there = (found["ray"], found["python"])
    here = (found["own_ray"], platform.python_version())
    level = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch")
    same_python = there[1] == here[1] or (level == "minor" and str(there[1]).split(".")[:2] == here[1].split(".")[:2])
    if there[0] == here[0] and same_python:
        return
    raise ClusterError(
        f"{where}: the cluster runs Ray {there[0]} on Python {there[1]}, this machine Ray {here[0]} on Python "
        f"{here[1]}, and they must be the same; "
        + (
            f"`pip install ray=={there[0]}` here, or install {here[0]} there"
            if same_python
            else f"use an environment of Python {there[1]} here, or of {here[1]} there"
        )
    )


def _file_of(source: str) -> Path | None:
    return Path(source.removeprefix("file ")) if source.startswith("file ") else None


def _others_read(file: Path) -> bool:
    return bool(file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _names(nodes: list[str]) -> str:
    return ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
