"""Every path of a run directory, and every atomic write into it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

from sweeper.errors import IntegrityError, RunDirectoryError

__all__ = ["RunDir", "file_hash", "publish"]

_TABLE = re.compile(r"^[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)?$")


def file_hash(data: bytes | memoryview) -> str:
    """The xxh3 hash of stored bytes; against accidents, not against attackers.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> file_hash(b"")
        '99aa06d3014798d86001c324468d497f'
    """
    return xxhash.xxh3_128_hexdigest(data)


def publish(target: Path, write: bytes | Callable[[IO[bytes]], object], *, staging: Path) -> None:
    """Put a whole file in its place, or leave everything as it was, whenever the machine stops.

    The bytes are written and flushed to ``staging`` on the same file system, then renamed over ``target``, then the
    renaming itself is flushed: a reader sees the old file or the new one, never a part.

    Args:
        target: Where the file is to stand; an older one is replaced.
        write: The bytes, or a function that writes them to the open file that it is given.
        staging: Folder for the unfinished file; created where it is missing.

    Raises:
        OSError: The disk is full or not writable; the unfinished file is removed, ``target`` untouched.
    """
    staging.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = staging / f"{target.name}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        with unfinished.open("wb") as file:
            if callable(write):
                write(file)
            else:
                file.write(write)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunDir:
    """The layout of one run.

    Attributes:
        path: The run directory itself.
    """

    path: Path

    @property
    def journal(self) -> Path:
        """What has happened, one checked JSON line each; the truth."""
        return self.path / "journal.jsonl"

    @property
    def parts(self) -> Path:
        """Committed rows, immutable Parquet files that the journal names."""
        return self.path / "parts"

    @property
    def staging(self) -> Path:
        """Unfinished files; may be emptied whenever no driver runs."""
        return self.path / "staging"

    @property
    def quarantine(self) -> Path:
        """What was found damaged, kept for inspection."""
        return self.path / "quarantine"

    @property
    def checkpoints(self) -> Path:
        """Training states, a folder a trial."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """The driver's log, a log per trial that has something to say, and Ray's."""
        return self.path / "logs"

    @property
    def spec(self) -> Path:
        """The spec as the user wrote it."""
        return self.path / "spec.yaml"

    @property
    def resolved(self) -> Path:
        """The spec with every default filled in."""
        return self.path / "resolved.yaml"

    @property
    def environment(self) -> Path:
        """Versions, commit and hardware of the last driver."""
        return self.path / "environment.json"

    @property
    def driver(self) -> Path:
        """Which driver holds the directory: host, pid, and a heartbeat in the file's time."""
        return self.path / "driver.json"

    @property
    def live(self) -> Path:
        """What the driver is doing right now, rewritten every second or so; for ``status``."""
        return self.path / "live.json"

    @property
    def ended(self) -> Path:
        """How the last driver ended; for ``attach`` and ``status``."""
        return self.path / "ended.json"

    @property
    def stop_request(self) -> Path:
        """Is there where somebody has asked the driver to end in order, from whatever machine."""
        return self.path / "stop"

    def table(self, name: str) -> Path:
        """The place of a readable table.

        Args:
            name: ``trials``, ``metrics``, ``telemetry`` or ``measurements/<estimator>``.

        Returns:
            A path below the run directory.

        Raises:
            ValueError: The name is not of that form, and could lead out of the directory.

        Example:
            >>> RunDir(Path("runs/x")).table("measurements/directional_smoothness").as_posix()
            'runs/x/measurements/directional_smoothness.parquet'
        """
        if not _TABLE.match(name):
            raise ValueError(f"not a table name: {name!r}")
        return self.path / f"{name}.parquet"

    def checkpoint(self, trial: str, step: int, *, epoch: int, attempt: int) -> Path:
        """A checkpoint's place; the driver's epoch and the attempt keep an outlived trainer from overwriting it."""
        return self.checkpoints / trial / f"step-{step:010d}-e{epoch}-a{attempt}.safetensors"

    def snapshot(self, trial: str, step: int) -> Path:
        """The place of a snapshot that is kept."""
        return self.path / "snapshots" / trial / f"step-{step:010d}.safetensors"

    def trial_log(self, trial: str) -> Path:
        """What went wrong in one trial, with tracebacks."""
        return self.logs / f"{trial}.log"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.journal.exists()

    def publish(self, target: Path, write: bytes | Callable[[IO[bytes]], object]) -> None:
        """:func:`publish` with this run's staging folder."""
        publish(target, write, staging=self.staging)

    def publish_json(self, target: Path, document: Any) -> None:
        """Publish a JSON document for people: indented, keys in the order given."""
        self.publish(target, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())

    def read_checked(self, path: Path, expected: str) -> bytes:
        """The bytes of a file whose hash the journal holds.

        Returns:
            The whole file.

        Raises:
            IntegrityError: The file is missing, or holds other bytes than were written.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from error
        if file_hash(data) != expected:
            raise IntegrityError(f"{path}: holds other bytes than were written (xxh3 differs, {len(data)} bytes)")
        return data

    def set_aside(self, path: Path) -> None:
        """Move a damaged file into quarantine."""
        self.quarantine.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.replace(self.quarantine / f"{path.parent.name}-{path.name}")

    def create(self) -> None:
        """Make the directory, or accept one that a run was begun in.

        Raises:
            RunDirectoryError: The path is a file, holds something else, cannot be written, can be written by others,
                or holds a symbolic link in the place of something that is written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path}: is a file; --out names a directory")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Whatever the umask: nobody else is to change what a driver trusts.
            self.path.mkdir(mode=0o755, exist_ok=True)
            self._refuse_strangers()
            names = {entry.name for entry in self.path.iterdir()}
            known = {self.driver.name, self.ended.name, self.stop_request.name, self.staging.name, ".lock"}
            if self.staging.name in names:
                # A driver died here before it had anything to say.
                known |= {self.parts.name, self.logs.name}
            if not self.exists and names - known:
                raise RunDirectoryError(
                    f"{self.path}: is not empty and holds no run; choose another directory with --out"
                )
            for folder in (self.staging, self.parts, self.logs):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written: {error.strerror}; choose another directory with --out"
            ) from error

    def _refuse_strangers(self) -> None:
        """Refuse a directory in which others may write, or in which a link leads elsewhere."""
        mode = self.path.stat().st_mode
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise RunDirectoryError(
                f"{self.path}: can be written by others (mode {stat.S_IMODE(mode):04o}), who could change results; "
                f"`chmod go-w {self.path}`, or choose another directory with --out"
            )
        for entry in self.path.iterdir():
            if entry.is_symlink():
                raise RunDirectoryError(
                    f"{entry}: is a symbolic link, which is not followed in a run directory; "
                    "move what it names there, or choose another directory with --out"
                )

    def require(self) -> RunDir:
        """This directory, if a run was begun in it.

        Returns:
            ``self``.

        Raises:
            RunDirectoryError: There is no run here.
        """
        if self.exists:
            return self
        if not self.path.exists():
            siblings = sorted(p.parent.name for p in self.path.parent.glob("*/journal.jsonl"))
            known = f"; runs there: {', '.join(siblings[:10])}" if siblings else ""
            raise RunDirectoryError(f"{self.path}: there is no such directory{known}")
        raise RunDirectoryError(f"{self.path}: holds no run (no {self.journal.name})")

    def clean(self, *, keep: set[Path]) -> None:
        """Remove what no journal line names: staging, and unnamed parts and checkpoints. Only under the lock."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(exist_ok=True)
        for path in [*self.parts.glob("*"), *self.checkpoints.glob("*/*")]:
            if path not in keep:
                path.unlink(missing_ok=True)
        for folder in self.checkpoints.glob("*"):
            with contextlib.suppress(OSError):  # not empty: in use
                folder.rmdir()
