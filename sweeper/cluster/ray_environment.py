"""Ray reads its environment when it is imported; this sets it before."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from sweeper.cluster.joining import is_loopback, join, token_source

__all__ = ["prepare"]

_QUIET = {
    # Its deduplicator prints raylet messages to stdout whatever log_to_driver says.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers otherwise run at nice +15, and lose to anything else on the machine.
    "RAY_worker_niceness": "0",
    # An actor without a share of a GPU should see none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}

_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Otherwise Ray takes 127.0.0.1 for the machine's own address, and listens on every interface."""


def prepare(address: str, *, insecure: bool = False) -> tuple[str, tuple[str, ...]]:
    """Set Ray's environment variables unless the user has, and check whether a cluster can be joined.

    A local Ray is private: it listens only on the loopback, and its token is created here, exists only in the
    environment of this process and its children, and is never written to a file.

    Args:
        address: The cluster's address; ``local`` starts a private one.
        insecure: Whether to accept a cluster that others can reach and that has no token.

    Returns:
        The address to use, and what the user should know, one line each.

    Raises:
        ClusterError: The cluster cannot be joined.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if address != "local":
        joined = join(address, insecure=insecure)
        if joined.guarded:
            os.environ["RAY_AUTH_MODE"] = "token"
        if is_loopback(joined.address.rpartition(":")[0]):
            os.environ |= _ON_LOOPBACK
        return joined.address, joined.notes
    os.environ |= _ON_LOOPBACK
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token":
        if "ray" not in sys.modules:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        elif token_source() is None:
            # The user's own program has already imported Ray, which has therefore fixed how it authenticates. It would
            # write this file itself, but readable by everybody.
            _make_token_file(Path.home() / ".ray" / "auth_token")
    return address, ()


def _make_token_file(path: Path) -> None:
    """Write a new token to a file that only its owner can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
