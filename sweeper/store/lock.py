"""One driver per run directory: the lock, the heartbeat, and the request to stop."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import IO, Any

from sweeper.store.driver_files import JOB, STALE_AFTER_S, holder_of, refusal
from sweeper.store.guarded_paths import open_to_append, refuse_strangers
from sweeper.store.run_dir import RunDir

__all__ = ["DriverLock"]


_HEARTBEAT_S = 2.0
_RETRY_S = 0.02


class DriverLock:
    """Ensures one driver per run directory: an advisory lock, and a heartbeat where locks do not reach other hosts.

    Args:
        run_dir: The directory.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._lock_path = run_dir.path / ".lock"
        self._file: IO[bytes] | None = None
        self._beat_at = 0.0

    @contextlib.contextmanager
    def hold(self, *, create: bool = False, wait_s: float = 0.0) -> Iterator[DriverLock]:
        """Hold the directory for the duration of a ``with`` block.

        Args:
            create: Create the directory if it is missing; otherwise it must exist.
            wait_s: For how long another holder is waited for; loops that record into one directory take turns.

        Yields:
            This lock, whose :meth:`beat` must be called from time to time.

        Raises:
            RunDirectoryError: Another driver holds it; the message names its host and pid. Or others may write to the
                directory, or it holds a symbolic link, or it cannot be created.
        """
        # Either branch checks the whole directory once, before anything in it is opened.
        if create:
            self._run_dir.create()
        else:
            refuse_strangers(self._run_dir.path, to_write=True)
        self._file = open_to_append(self._lock_path)
        try:
            until = time.monotonic() + wait_s
            while not self._taken(self._file):
                if time.monotonic() >= until:
                    raise refusal(self._run_dir)
                time.sleep(_RETRY_S)
            self._run_dir.stop_request.unlink(missing_ok=True)
            self.beat(force=True)
            try:
                yield self
            finally:
                self._run_dir.driver.unlink(missing_ok=True)
        finally:
            self._file.close()
            self._file = None

    def beat(self, *, force: bool = False) -> None:
        """Show that this driver is alive; at most every two seconds."""
        now = time.monotonic()
        if not force and now - self._beat_at < _HEARTBEAT_S:
            return
        self._beat_at = now
        if force:
            holder: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
            import psutil  # takes 25 ms, which only the holder of a directory needs to spend

            # Distinguishes this process from a later one with the same id.
            holder["created"] = psutil.Process().create_time()
            if job := os.environ.get(JOB):
                holder["job"] = job
            self._run_dir.publish(self._run_dir.driver, json.dumps(holder).encode())
        else:
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._run_dir.driver)

    def _taken(self, file: IO[bytes]) -> bool:
        """Take the directory, if nobody holds it."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        if self._beats_elsewhere():
            fcntl.flock(file, fcntl.LOCK_UN)
            return False
        return True

    def asked_to_stop(self) -> bool:
        """Whether ``clipsweep cancel`` asked this driver to stop cleanly."""
        return self._run_dir.stop_request.exists()

    def _beats_elsewhere(self) -> bool:
        """Whether a driver of another host, which this host's lock cannot see, was alive a moment ago."""
        holder = holder_of(self._run_dir)
        if holder is None or holder.host == socket.gethostname():
            return False
        # Both times come from the file system's clock, so it does not matter if the hosts' clocks disagree.
        os.utime(self._lock_path)
        return self._lock_path.stat().st_mtime - holder.beat_at < STALE_AFTER_S
