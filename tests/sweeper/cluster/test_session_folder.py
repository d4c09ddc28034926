"""Where a local Ray keeps its sockets, whose paths are short."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from sweeper.cluster import ray_session
from sweeper.cluster.ray_session import _BELOW, _MOST_BYTES, _session_folder
from sweeper.errors import ClusterError


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files with a path that Ray refuses."""
    folder = tmp_path / ("é" * 30) / ("x" * 40)
    folder.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_path_too_long_for_sockets_is_said_and_another_folder_is_taken(long_folder: Path) -> None:
    said: list[str] = []
    folder = _session_folder(said.append)
    try:
        assert folder.parent == Path("/tmp")
        assert len(os.fsencode(folder / _BELOW)) <= _MOST_BYTES
        assert said == [f"Ray runs in /tmp: the path of {long_folder} is too long for its sockets"]
    finally:
        folder.rmdir()


def test_a_short_path_is_taken_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    parent = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    folder = _session_folder(said.append)
    try:
        assert folder.parent == parent
        assert said == []
    finally:
        folder.rmdir()
        parent.rmdir()


def test_without_another_folder_the_error_says_what_to_set(long_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session.os, "access", lambda path, mode: path == str(long_folder))
    with pytest.raises(ClusterError, match=r"too long for Ray's sockets: set TMPDIR to one of at most \d\d characters"):
        _session_folder(print)
