"""Ray reads its environment when it is imported; this sets it before."""

from __future__ import annotations

import os
import secrets
import sys

__all__ = ["prepare"]

_QUIET = {
    # Its deduplicator prints raylet messages to stdout whatever log_to_driver says.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers otherwise run at nice +15, and lose to anything else on the machine.
    "RAY_worker_niceness": "0",
    # An actor without a share of a GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


def prepare(address: str) -> None:
    """Set what Ray is to find, where the user has not set it.

    A local Ray is private: its token is made here, lives in the environment of this process and its children, and is
    never written to a file.

    Args:
        address: The cluster's address; ``local`` starts a private one.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Where a program of the user's has imported Ray already, it has its mind made up, and makes a token itself.
    if address == "local" and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
