"""Whatever a disk does to stored bytes is found, set aside and computed again: the tables are those of a sound run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.store.journal import read_journal, replay
from sweeper.store.run_dir import RunDir, publish
from sweeper.tables.readable import Compactor
from sweeper.tables.run import Run

SPEC = """
name: small
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 23, log_every: 2, evaluate_every: 10, checkpoint_every: 5}
measure: {every: 4, last: 1, data_fraction: 0.5, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep:
  grid: {update_rule.learning_rate: [0.01, 5.0]}
  seeds: 2
"""

InlineRun = Callable[..., Any]

TIMINGS = ["attempts", "started_at", "ended_at", "train_s", "estimate_s"]


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "a flipped bit": flip_a_bit,
    "truncation": lambda data: data[: len(data) // 2],
    "zero bytes": lambda data: bytes(len(data)),
    "an empty file": lambda data: b"",
}

damaged_in_every_way = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


def tables(path: Path) -> dict[str, pd.DataFrame]:
    return {
        "trials": pd.read_parquet(path / "trials.parquet").drop(columns=TIMINGS),
        "metrics": pd.read_parquet(path / "metrics.parquet"),
        "smoothness": pd.read_parquet(path / "measurements" / "directional_smoothness.parquet"),
    }


def assert_same(one: Path, other: Path) -> None:
    left, right = tables(one), tables(other)
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


@pytest.fixture(scope="module")
def sound(module_inline_run: Callable[[str], Any]) -> Path:
    """A finished run of many small commits, which tests copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
        path: Path = module_inline_run(SPEC).run_dir.path
    return path


@pytest.fixture(scope="module")
def under_way(module_stopped_run: Callable[[str, int], Any]) -> Path:
    """A run that was stopped when some of its trials had two checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.driver.commit._GROUP_S", 0.0)
        path: Path = module_stopped_run(SPEC, 20).run_dir.path
    return path


@pytest.fixture
def copy(inline_run: InlineRun, tmp_path: Path) -> Callable[[Path], Any]:
    """``copy(path)``: the next call of ``clipsweep run`` on a copy of a run."""

    def make(path: Path) -> Any:
        shutil.copytree(path, tmp_path / "copy" / "run")
        return inline_run(SPEC, name="copy")

    return make


@damaged_in_every_way
@pytest.mark.parametrize("table", ["metrics", "measurements-directional_smoothness"])
@pytest.mark.parametrize("which", [0, -1])
def test_a_damaged_part_is_set_aside_and_its_segments_are_trained_again(
    copy: Callable[[Path], Any], sound: Path, damage: Callable[[bytes], bytes], table: str, which: int
) -> None:
    run = copy(sound)
    part = sorted(run.run_dir.parts.glob(f"{table}-*"))[which]
    part.write_bytes(damage(part.read_bytes()))
    run()
    assert_same(run.run_dir.path, sound)
    assert not pd.read_parquet(run.run_dir.path / "metrics.parquet").duplicated(["trial_id", "step"]).any()
    assert 1 <= len(run.pools.assignments) < 4, "the trials that the part was of, and no other"
    (record,) = [r for r in read_journal(run.run_dir.journal)[0] if r["type"] == "damaged"]
    assert record["parts"] == [part.name]
    assert {assignment.trial for assignment in run.pools.assignments} == {trial for trial, _, _ in record["trials"]}
    assert (run.run_dir.quarantine / f"parts-{part.name}").exists()
    assert any(f"{part}: holds other bytes than were written" in line for line in run.listener.lines)


def test_parts_that_are_gone_or_damaged_together_come_back_and_stay(
    copy: Callable[[Path], Any], inline_run: InlineRun, sound: Path
) -> None:
    run = copy(sound)
    parts = sorted(run.run_dir.parts.iterdir())
    for part in parts[::3]:
        part.unlink()
    for part in parts[1::3]:
        part.write_bytes(flip_a_bit(part.read_bytes()))
    run()
    assert_same(run.run_dir.path, sound)
    # What was made again is damaged again: rows that were void before stay void.
    latest = max(run.run_dir.parts.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    latest.write_bytes(b"")
    again = inline_run(SPEC, name="copy")()
    assert again.pools.assignments
    assert_same(run.run_dir.path, sound)
    finished = inline_run(SPEC, name="copy")()
    assert finished.pools.assignments == []
    assert_same(run.run_dir.path, sound)


@damaged_in_every_way
@pytest.mark.parametrize("newest_only", [True, False])
def test_from_a_damaged_checkpoint_training_falls_back_to_the_one_before_or_to_the_start(
    copy: Callable[[Path], Any],
    sound: Path,
    under_way: Path,
    damage: Callable[[bytes], bytes],
    newest_only: bool,
) -> None:
    run = copy(under_way)
    by_trial: dict[Path, list[Path]] = {}
    for path in sorted(run.run_dir.checkpoints.glob("*/*")):
        by_trial.setdefault(path.parent, []).append(path)
    assert any(len(paths) == 2 for paths in by_trial.values())
    damaged = [path for paths in by_trial.values() for path in (paths[-1:] if newest_only else paths)]
    for path in damaged:
        path.write_bytes(damage(path.read_bytes()))
    run()
    assert_same(run.run_dir.path, sound)
    assert len(list(run.run_dir.quarantine.iterdir())) == len(damaged)
    said = [line for line in run.listener.lines if "was damaged; resumed from an earlier one" in line]
    assert len(said) == len(damaged)


@damaged_in_every_way
@pytest.mark.parametrize("origin", ["sound", "under_way"])
def test_a_damaged_tail_of_the_journal_is_cut_off_and_what_it_named_is_done_again(
    copy: Callable[[Path], Any],
    sound: Path,
    damage: Callable[[bytes], bytes],
    origin: str,
    request: pytest.FixtureRequest,
) -> None:
    run = copy(request.getfixturevalue(origin))
    journal = run.run_dir.journal
    *whole, tail = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole) + damage(tail))
    run()
    assert_same(run.run_dir.path, sound)
    if damage(tail):
        assert [path.name.startswith("journal-tail") for path in run.run_dir.quarantine.iterdir()].count(True) == 1
        assert any("the journal ended with a torn line; it was cut off" in line for line in run.listener.lines)
    records, length = read_journal(journal)
    assert length == journal.stat().st_size, "nothing was appended to a torn line"
    assert records[: len(whole)] == read_journal(sound / "journal.jsonl")[0][: len(whole)] or origin != "sound"


@pytest.mark.parametrize("kept", [1, 2, -3])
def test_rows_that_an_older_copy_of_the_journal_does_not_name_are_set_aside(
    copy: Callable[[Path], Any], sound: Path, kept: int
) -> None:
    run = copy(sound)
    parts = {path.name: path.read_bytes() for path in run.run_dir.parts.iterdir()}
    journal = run.run_dir.journal
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:kept]))
    named = {part.file for part in replay(read_journal(journal)[0], journal).parts}
    run()
    assert_same(run.run_dir.path, sound)
    aside = {path.name.removeprefix("parts-"): path.read_bytes() for path in run.run_dir.quarantine.iterdir()}
    assert aside == {name: data for name, data in parts.items() if name not in named}
    (told,) = [line for line in run.listener.lines if "the journal has lost lines" in line]
    assert f"{len(aside)} files of rows" in told


class PowerCut(BaseException):
    """The machine stops here; nothing catches it."""


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_crash_while_the_readable_tables_are_compacted_costs_none_and_counts_nothing_twice(
    copy: Callable[[Path], Any], inline_run: InlineRun, sound: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(sound)
    state = Run(run.run_dir.path).state
    names = sorted(
        path.relative_to(sound).as_posix() for path in sound.glob("**/*.parquet") if "parts" not in path.parts
    )
    assert len(names) == 4

    for cut in range(len(names)):
        left = cut

        def cutting(self: RunDir, target: Path, write: bytes) -> None:
            nonlocal left
            left -= 1
            if left >= 0 or moment == "after":
                publish(target, write, staging=self.staging)
            if left < 0:
                if moment == "within":
                    (self.staging / f"{target.name}.1.1").write_bytes(write[: len(write) // 2])
                raise PowerCut

        with monkeypatch.context() as patch:
            patch.setattr(RunDir, "publish", cutting)
            with pytest.raises(PowerCut):
                Compactor(run.run_dir).refresh(state)
        assert_same(run.run_dir.path, sound)
        assert len(pd.read_parquet(run.run_dir.path / "telemetry.parquet")) == len(
            pd.read_parquet(sound / "telemetry.parquet")
        )
    again = inline_run(SPEC, name="copy")()
    assert again.pools.assignments == []
    assert list(run.run_dir.staging.iterdir()) == []
    assert_same(run.run_dir.path, sound)
