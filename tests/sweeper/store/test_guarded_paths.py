"""No link planted in a run directory is followed, in no folder of it, and nobody else may write there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeper.cli.app import app
from sweeper.errors import ClipsweepError, IntegrityError, RunDirectoryError
from sweeper.monitor.status import retry
from sweeper.store.guarded_paths import make_folder, open_new, open_to_append, refuse_strangers
from sweeper.store.journal import _seal, open_state
from sweeper.store.lock import DriverLock
from sweeper.store.recovery import recover
from sweeper.store.run_dir import RunDir, file_hash, publish

SPEC = """
name: kept
problem: {use: deep_linear, layers: 2, width: 3, samples: 8, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 6, checkpoint_every: 2}
measure: {every: 2, keep: true, data_fraction: 1}
"""

FOLDERS = [
    "parts", "staging", "logs", "logs/ray", "measurements", "quarantine", "plots", "checkpoints", "checkpoints/0123",
    "snapshots", "snapshots/0123",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(module_inline_run: Callable[[str], Any]) -> Path:
    """A run with every kind of folder."""
    path: Path = module_inline_run(SPEC).run_dir.path
    for folder in FOLDERS:
        make_folder(path / folder)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the run's business."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("secret")
    return folder


def opened_to_read(path: Path) -> None:
    RunDir(path).require()


def opened_to_write(path: Path) -> None:
    with DriverLock(RunDir(path)).hold():
        pass


def made_to_write(path: Path) -> None:
    with DriverLock(RunDir(path)).hold(create=True):
        pass


WAYS = [
    opened_to_read, opened_to_write, made_to_write, lambda path: RunDir(path).create(),
    lambda path: open_state(RunDir(path)),
]  # fmt: skip
NAMES = ["require", "hold", "make and hold", "create", "plan"]


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
@pytest.mark.parametrize("folder", ["", *FOLDERS])
def test_a_link_in_any_folder_is_refused_by_every_way_in(
    run: Path, outside: Path, folder: str, way: Callable[[Path], object]
) -> None:
    way(run)
    for target in (outside, outside / "precious", outside / "nowhere"):
        link = run / folder / "planted"
        link.symlink_to(target)
        with pytest.raises(RunDirectoryError, match=r"planted: is a symbolic link, which is not followed in a run"):
            way(run)
        link.unlink()
    way(run)
    assert [path.name for path in outside.iterdir()] == ["precious"]


@pytest.mark.parametrize("way", [opened_to_write, made_to_write])
def test_a_driver_goes_through_its_directory_once(
    run: Path, way: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[tuple[Path, bool]] = []

    def refuse(root: Path, *, to_write: bool) -> None:
        walks.append((root, to_write))
        refuse_strangers(root, to_write=to_write)

    for module in ("run_dir", "lock"):
        monkeypatch.setattr(f"sweeper.store.{module}.refuse_strangers", refuse)
    way(run)
    assert walks == [(run, True)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_link_in_the_place_of_a_folder_is_refused(run: Path, outside: Path, folder: str) -> None:
    shutil.rmtree(run / folder)
    (run / folder).symlink_to(outside)
    for way in WAYS:
        with pytest.raises(RunDirectoryError, match="is a symbolic link"):
            way(run)
    assert (outside / "precious").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["precious"]


@pytest.mark.parametrize("way", WAYS, ids=NAMES)
def test_a_pipe_that_would_be_read_for_ever_is_refused(run: Path, way: Callable[[Path], object]) -> None:
    os.mkfifo(run / "logs" / "driver.log")
    with pytest.raises(RunDirectoryError, match=r"driver\.log: is neither a file nor a folder"):
        way(run)


COMMANDS: list[list[str]] = [
    ["status"], ["logs"], ["report"], ["fit"], ["advise"], ["retry"], ["plot", "loss"],
    ["estimate", "--estimator", "directional_curvature"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("place", ["logs/driver.log", "plots/loss.png", "metrics.parquet", "resolved.yaml"])
def test_no_command_reads_or_writes_what_a_planted_link_names(
    run: Path, outside: Path, place: str, command: list[str]
) -> None:
    (run / place).unlink(missing_ok=True)
    (run / place).symlink_to(outside / "precious")
    done = CliRunner().invoke(app, [command[0], str(run), *command[1:]])
    assert isinstance(done.exception, ClipsweepError)
    assert f"{place}: is a symbolic link" in str(done.exception)
    assert "secret" not in done.output
    assert (outside / "precious").read_text() == "secret"


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_folder_in_which_others_may_write_is_refused_to_writers_and_can_be_read(
    run: Path, folder: str, mode: int
) -> None:
    (run / folder).chmod(mode)
    match = rf"{folder}: can be written by others \(mode {mode:04o}\).*`chmod -R go-w {run}`"
    with pytest.raises(RunDirectoryError, match=match):
        RunDir(run).create()
    with pytest.raises(RunDirectoryError, match=match):
        opened_to_write(run)
    with pytest.raises(RunDirectoryError, match=match):
        retry(run, [])
    opened_to_read(run)
    (run / folder).chmod(0o755)
    opened_to_write(run)


def test_a_journal_in_which_others_may_write_is_refused(run: Path) -> None:
    (run / "journal.jsonl").chmod(0o664)
    with pytest.raises(RunDirectoryError, match=r"journal\.jsonl: can be written by others"):
        opened_to_write(run)


def test_whatever_the_umask_a_run_is_its_owners_alone(inline_run: Callable[..., Any]) -> None:
    before = os.umask(0)
    try:
        run = inline_run(SPEC)()
        with run.run_dir.append_to(run.run_dir.trial_log("0123")) as log:
            log.write(b"x")
    finally:
        os.umask(before)
    everything = [run.run_dir.path, *run.run_dir.path.rglob("*")]
    assert len(everything) > 10
    assert [path for path in everything if path.stat().st_mode & 0o022] == []
    opened_to_write(run.run_dir.path)


PLANNED = {"type": "planned", "measurement": "m", "measure": None}
TRIAL = {
    "trial_id": "a", "cell_id": "c", "arm": "sgd", "seed": 0, "swept": {}, "learning_rate": 1, "clip_norm": None,
    "steps": 4,
}  # fmt: skip
PART = {"table": "metrics", "file": "metrics-0001-000001.parquet", "rows": 1, "xxh3": "0"}
SEGMENT = {
    "trial": "a", "epoch": 1, "attempt": 1, "start": 0, "stop": 2, "outcome": None, "checkpoint": None,
    "measurement": "m",
    "facts": {
        "num_steps": 2, "num_clipped": 0, "train_s": 1.0, "evaluate_s": 0.0, "estimate_s": 0.0, "started_at": 1,
        "ended_at": 2, "host": "h",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ["../../outside", "/etc", "..", ".", "", "a/b/c", ".lock", "a\n", "a\0b", 7, None])
@pytest.mark.parametrize("key", ["trial_id", "file", "table", "checkpoint"])
def test_a_journal_cannot_lead_out_of_its_directory(tmp_path: Path, outside: Path, key: str, name: Any) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    trial = TRIAL | ({"trial_id": name} if key == "trial_id" else {})
    part = PART | ({key: name} if key in PART else {})
    segment = SEGMENT | ({"checkpoint": [name, "0"]} if key == "checkpoint" else {})
    lines = [
        PLANNED | {"trials": [trial]},
        {"type": "committed", "parts": [part], "segments": [segment]},
        {"type": "remeasured", "measurement": "m", "parts": [part], "snapshots": []},
    ]
    run_dir.journal.write_bytes(b"".join(_seal({"n": number, **line}) for number, line in enumerate(lines)))
    with pytest.raises(IntegrityError, match=r"journal\.jsonl:\d: not understood.*not a (table|valid file) name"):
        recover(run_dir)
    assert [path.name for path in outside.iterdir()] == ["precious"]


def test_files_are_opened_without_following_a_link_too(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"rows")
    link.symlink_to(target)
    for way in (open_new, open_to_append):
        with pytest.raises(OSError, match=r"exists|symbolic links"):
            way(link)
    with pytest.raises(IntegrityError, match="cannot be read"):
        RunDir(tmp_path).read_checked(link, file_hash(b"rows"))
    publish(link, b"new", staging=tmp_path / "staging")
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"rows", b"new", False)
