"""Old or new, never partial; one driver a directory."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from sweeper.errors import IntegrityError, RunDirectoryError
from sweeper.store.lock import DriverLock
from sweeper.store.run_dir import RunDir, file_hash, publish


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target, staging = tmp_path / "table", tmp_path / "staging"
    publish(target, b"old", staging=staging)

    def half(file: IO[bytes]) -> None:
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        publish(target, half, staging=staging)
    assert target.read_bytes() == b"old"
    assert list(staging.iterdir()) == []


def _rewrite(folder: str) -> None:
    size = 0
    while True:
        size = (size + 1) % 50
        publish(Path(folder) / "table", bytes([size]) * 20_000, staging=Path(folder) / "staging")


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        writer = context.Process(target=_rewrite, args=(str(tmp_path),))
        writer.start()
        while not (tmp_path / "table").exists():
            time.sleep(0.01)
        time.sleep(0.05)
        writer.kill()
        writer.join()
        data = (tmp_path / "table").read_bytes()
        assert len(data) == 20_000
        assert len(set(data)) == 1


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(
        RunDirectoryError, match="is not empty and does not hold a run; choose another directory with --out"
    ):
        RunDir(tmp_path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file"):
        RunDir(tmp_path / "run").create()


def test_a_missing_run_is_named_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "lstm").mkdir()
    (tmp_path / "lstm" / "journal.jsonl").touch()
    with pytest.raises(RunDirectoryError, match="no such directory; runs there: lstm"):
        RunDir(tmp_path / "lstn").require()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunDirectoryError, match="does not hold a run"):
        RunDir(tmp_path / "empty").require()


@pytest.mark.parametrize("name", ["../x", "Metrics", "a/b/c", "", "a b"])
def test_no_table_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a table name"):
        RunDir(tmp_path).table(name)


def test_damaged_bytes_are_found(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    (tmp_path / "part").write_bytes(b"rows")
    assert run_dir.read_checked(tmp_path / "part", file_hash(b"rows")) == b"rows"
    with pytest.raises(IntegrityError, match="other bytes than were written"):
        run_dir.read_checked(tmp_path / "part", file_hash(b"rowz"))
    with pytest.raises(IntegrityError, match="cannot be read: No such file"):
        run_dir.read_checked(tmp_path / "gone", file_hash(b"rows"))


def test_cleaning_removes_what_nothing_names_and_keeps_the_rest(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.create()
    named, stray = run_dir.parts / "named", run_dir.parts / "stray"
    orphan = run_dir.checkpoints / "trial" / "step-1"
    orphan.parent.mkdir(parents=True)
    for path in (named, stray, orphan, run_dir.staging / "half"):
        path.touch()
    run_dir.clean(keep={named})
    assert named.exists()
    assert not any(path.exists() for path in (stray, orphan, orphan.parent, run_dir.staging / "half"))


HOLD = """
import sys, time
from pathlib import Path
from sweeper.store.lock import DriverLock
from sweeper.store.run_dir import RunDir
with DriverLock(RunDir(Path(sys.argv[1]))).hold():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_refused_by_the_first_ones_host_and_pid(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.create()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        match = f"pid {holder.pid} on {socket.gethostname()} is running this sweep"
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        asked = time.monotonic()
        with pytest.raises(RunDirectoryError, match=match), DriverLock(run_dir).hold():
            pass
        assert time.monotonic() - asked < 2
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    # The lock of a killed driver is free at once.
    with DriverLock(run_dir).hold():
        assert json.loads(run_dir.driver.read_bytes())["pid"] == os.getpid()
    assert not run_dir.driver.exists()


def test_a_driver_on_another_host_is_known_by_its_heartbeat(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.create()
    run_dir.driver.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with pytest.raises(RunDirectoryError, match="pid 7 on elsewhere"), DriverLock(run_dir).hold():
        pass
    silent = time.time() - 3600
    os.utime(run_dir.driver, (silent, silent))
    with DriverLock(run_dir).hold():
        pass


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_directory_in_which_others_may_write_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    run_dir.path.chmod(mode)
    with pytest.raises(RunDirectoryError, match=rf"can be written by others \(mode {mode:04o}\).*`chmod -R go-w"):
        run_dir.create()
    run_dir.path.chmod(0o755)
    run_dir.create()


def test_a_new_directory_is_its_owners_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        RunDir(tmp_path / "run").create()
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["journal.jsonl", "parts", "staging", "logs", "checkpoints", "trials.parquet"])
def test_no_symbolic_link_is_followed_out_of_a_run_directory(tmp_path: Path, name: str) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    run_dir.journal.touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    place = run_dir.path / name
    if place.is_dir():
        place.rmdir()
    place.unlink(missing_ok=True)
    place.symlink_to(elsewhere)
    with pytest.raises(RunDirectoryError, match=f"{name}: is a symbolic link, which is not followed"):
        run_dir.create()
    assert (elsewhere / "precious").read_text() == "kept"


def test_a_directory_in_which_a_driver_died_at_its_very_start_is_taken_up_again(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    (run_dir.logs / "driver.log").write_text("driver starts")
    run_dir.create()
    assert not run_dir.exists
    (tmp_path / "mine" / "logs").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="is not empty and does not hold a run"):
        RunDir(tmp_path / "mine").create()
