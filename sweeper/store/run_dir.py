"""Every path of a run directory, and every atomic write into it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

from sweeper.errors import IntegrityError, RunDirectoryError
from sweeper.store.guarded_paths import make_folder, open_new, open_to_append, read_file, refuse_strangers

__all__ = ["RunDir", "checked_name", "checked_table", "file_hash", "publish"]

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$")
_TABLE = re.compile(r"^[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)?$")


def file_hash(data: bytes | memoryview) -> str:
    """The xxh3 hash of stored bytes; detects accidents, not attacks.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> file_hash(b"")
        '99aa06d3014798d86001c324468d497f'
    """
    return xxhash.xxh3_128_hexdigest(data)


def checked_name(name: object) -> str:
    """A file or folder name from a run's files, checked so that it cannot lead out of the run directory.

    Args:
        name: From a journal.

    Returns:
        ``name``.

    Raises:
        ValueError: It is not a string of letters, digits, dots, dashes and underscores, or it begins with one of the
            last three.

    Example:
        >>> checked_name("metrics-0001-000001.parquet")
        'metrics-0001-000001.parquet'
        >>> checked_name("../../.bashrc")
        Traceback (most recent call last):
        ...
        ValueError: not a valid file name of a run: '../../.bashrc'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"not a valid file name of a run: {name!r:.80}")
    return name


def checked_table(name: object) -> str:
    """The name of a table, checked so that it cannot lead out of the run directory.

    Args:
        name: ``trials``, ``metrics``, ``telemetry`` or ``measurements/<estimator>``.

    Returns:
        ``name``.

    Raises:
        ValueError: The name is not of that form.
    """
    if not isinstance(name, str) or not _TABLE.fullmatch(name):
        raise ValueError(f"not a table name: {name!r:.80}")
    return name


def publish(target: Path, write: bytes | Callable[[IO[bytes]], object], *, staging: Path) -> None:
    """Put a complete file in place, or leave everything as it was, even if the machine stops at any moment.

    The bytes are written and flushed to ``staging`` on the same file system, then renamed over ``target``, then the
    rename itself is flushed: a reader sees the old file or the new one, never part of one.

    Args:
        target: Where the file goes; an older one is replaced.
        write: The bytes, or a function that writes them to the open file that it is given.
        staging: Folder for the unfinished file; created if it is missing.

    Raises:
        OSError: The disk is full or not writable; the unfinished file is removed and ``target`` is unchanged.
    """
    make_folder(staging)
    make_folder(target.parent)
    unfinished = staging / f"{target.name}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        with open_new(unfinished) as file:
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
    """Flush a folder's entries, so that a rename survives a power cut."""
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
        """What has happened, one checked JSON line per record; the source of truth."""
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
        """Training states, one folder per trial."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """The driver's log, one log per trial that had problems, and Ray's logs."""
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
        """Which driver holds the directory: host and pid; the file's modification time is the heartbeat."""
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
        """Exists if somebody, on any machine, has asked the driver to stop cleanly."""
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
        return self.path / f"{checked_table(name)}.parquet"

    def checkpoint(self, trial: str, step: int, *, driver_epoch: int, attempt: int) -> Path:
        """A checkpoint's place; no trainer of an earlier driver or attempt writes to the same name."""
        return self.checkpoints / trial / f"step-{step:010d}-e{driver_epoch}-a{attempt}.safetensors"

    def snapshot(self, trial: str, step: int) -> Path:
        """The place of a kept snapshot."""
        return self.path / "snapshots" / trial / f"step-{step:010d}.safetensors"

    def trial_log(self, trial: str) -> Path:
        """What went wrong in one trial, with tracebacks."""
        return self.logs / f"{trial}.log"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return os.path.lexists(self.journal)

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
            data = read_file(path)
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read: {error.strerror}") from error
        if file_hash(data) != expected:
            raise IntegrityError(f"{path}: holds other bytes than were written (xxh3 differs, {len(data)} bytes)")
        return data

    def set_aside(self, path: Path) -> None:
        """Move a damaged file to quarantine."""
        make_folder(self.quarantine)
        with contextlib.suppress(FileNotFoundError):
            path.replace(self.quarantine / f"{path.parent.name}-{path.name}")

    def create(self) -> None:
        """Create the directory, or accept one in which a run was begun.

        Raises:
            RunDirectoryError: The path is a file, holds something else, cannot be written, can be written by others,
                or holds a symbolic link.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path}: is a file; --out must be a directory")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Whatever the umask: nobody else may change what a driver trusts.
            self.path.mkdir(mode=0o755, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir()}
            known = {self.driver.name, self.ended.name, self.stop_request.name, self.staging.name, ".lock"}
            if self.staging.name in names:
                # A driver died here before it wrote to the journal.
                known |= {self.parts.name, self.logs.name}
            if not self.exists and names - known:
                raise RunDirectoryError(
                    f"{self.path}: is not empty and does not hold a run; choose another directory with --out"
                )
            # Only once it is known to be a run directory: it might be somebody's home, large and full of links.
            refuse_strangers(self.path, to_write=True)
            for folder in (self.staging, self.parts, self.logs):
                make_folder(folder)
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: cannot be written: {error.strerror}; choose another directory with --out"
            ) from error

    def refuse_links(self) -> None:
        """Refuse to read a run that contains a symbolic link.

        Raises:
            RunDirectoryError: There is one, or a folder that cannot be listed.
        """
        try:
            if self.exists:
                refuse_strangers(self.path, to_write=False)
        except OSError as error:
            raise RunDirectoryError(f"{error.filename or self.path}: cannot be read: {error.strerror}") from error

    def log_trial(self, trial: str, heading: str, text: str) -> None:
        """Add to a trial's log.

        Args:
            trial: Trial id.
            heading: What this is about; the time is prepended.
            text: The text; what cannot be encoded is replaced.
        """
        with self.append_to(self.trial_log(trial)) as log:
            log.write(f"--- {time.strftime('%F %T')} {heading}\n{text}\n".encode(errors="replace"))

    def append_to(self, path: Path) -> IO[bytes]:
        """Open one of this run's logs for appending."""
        make_folder(path.parent)
        return open_to_append(path)

    def require(self) -> RunDir:
        """This directory, if a run was begun in it.

        Returns:
            ``self``.

        Raises:
            RunDirectoryError: There is no run here, or a symbolic link in it.
        """
        self.refuse_links()
        if self.exists:
            return self
        if not self.path.exists():
            siblings = sorted(p.parent.name for p in self.path.parent.glob("*/journal.jsonl"))
            known = f"; runs there: {', '.join(siblings[:10])}" if siblings else ""
            raise RunDirectoryError(f"{self.path}: no such directory{known}")
        raise RunDirectoryError(f"{self.path}: does not hold a run (no {self.journal.name})")

    def clean(self, *, keep: set[Path]) -> int:
        """Remove what no journal line names: staging, and unnamed parts and checkpoints. Only under the lock.

        A crash leaves the parts of one commit at most before its line. Where parts of several have none, the journal
        has lost lines, and what they named is set aside.

        Args:
            keep: The parts and checkpoints that the journal names.

        Returns:
            How many parts were set aside.
        """
        shutil.rmtree(self.staging, ignore_errors=True)
        make_folder(self.staging)
        parts = [path for path in self.parts.glob("*") if path not in keep]
        lost = len({"-".join(path.stem.rsplit("-", 2)[1:]) for path in parts}) > 1
        for path in parts:
            if lost:
                self.set_aside(path)
            else:
                path.unlink(missing_ok=True)
        for path in self.checkpoints.glob("*/*"):
            if path not in keep:
                path.unlink(missing_ok=True)
        for folder in self.checkpoints.glob("*"):
            with contextlib.suppress(OSError):  # not empty: in use
                folder.rmdir()
        return len(parts) if lost else 0
