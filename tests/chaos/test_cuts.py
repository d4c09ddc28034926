"""A machine that dies at any system call of a write leaves the old file or the new one, and nothing to trip over."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.store.journal import read_journal, repair_journal
from sweeper.store.run_dir import RunDir

OLD, NEW = "old" * 30_000, "new" * 30_000


def cuts(what: str, folder: Path) -> list[dict[str, Any]]:
    """What is left of a write after each of the moments at which it can be cut; the last one is whole."""
    script = Path(__file__).with_name("cut_system_calls.py")
    done = subprocess.run(
        [sys.executable, str(script), what, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    if done.stderr.startswith("skip: "):
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


@pytest.mark.parametrize(("what", "before"), [("replace", OLD), ("create", None)])
def test_a_file_published_is_old_or_new_whichever_system_call_was_the_last(
    tmp_path: Path, what: str, before: str | None
) -> None:
    outcomes = cuts(what, tmp_path)
    left = [outcome["left"] for outcome in outcomes]
    assert set(left) == {before, NEW}, "never a part of either"
    turn = left.index(NEW)
    assert set(left[:turn]) == {before}
    assert set(left[turn:]) == {NEW}, "once new, never old again"
    # The cuts strike while the file is unfinished, and every one of these leftovers is gone at the next start.
    assert 10 < turn < len(left) - 4
    assert any(outcome["unfinished"] for outcome in outcomes)
    assert not any(outcome["staging"] for outcome in outcomes)


def test_a_journal_cut_at_any_system_call_has_the_new_line_whole_or_not_at_all(tmp_path: Path) -> None:
    outcomes = cuts("append", tmp_path)
    numbers = []
    for index, outcome in enumerate(outcomes):
        journal = tmp_path / f"cut-{index:04d}" / "journal.jsonl"
        records, whole = read_journal(journal)
        repair_journal(journal, whole, tmp_path / "quarantine")
        assert journal.read_bytes().endswith(b"}\n")
        assert outcome["left"] is not None
        numbers.append(len(records))
    assert sorted(numbers) == numbers
    assert set(numbers) == {1, 2}


CALLS = ("open", "fsync", "replace", "close", "mkdir")
"""The functions of ``os`` through which :func:`sweeper.store.run_dir.publish` reaches the disk."""


class Failing:
    """Lets the first ``allowed`` calls of the system through and fails from then on, as a disk does that died."""

    def __init__(self, allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = allowed
        for name in CALLS:
            monkeypatch.setattr(os, name, self.guard(getattr(os, name)))

    def guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                if real.__name__ == "close":
                    real(*arguments)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*arguments, **options)

        return call


def test_a_call_that_fails_is_an_error_and_leaves_no_unfinished_file(tmp_path: Path) -> None:
    seen = []
    for allowed in range(100):
        run_dir = RunDir(tmp_path / str(allowed))
        run_dir.create()
        target = run_dir.path / "table"
        target.write_bytes(b"old")
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(allowed, patch)
            with contextlib.suppress(OSError):
                run_dir.publish(target, b"new")
            failed = failing.left < 0
        seen.append(target.read_bytes())
        assert list(run_dir.staging.iterdir()) == []
        if not failed:
            break
    else:
        raise AssertionError("publish never came to its end")
    assert seen[-1] == b"new"
    assert set(seen) == {b"old", b"new"}
    assert sorted(seen, key=lambda data: data == b"new") == seen
