"""What the journal does not name does not exist; what it names, it names whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import IntegrityError
from sweeper.monitor.status import state_of
from sweeper.store.journal import Journal, RunState, _seal, open_state, read_journal, read_state, repair_journal, replay
from sweeper.store.planned_trials import dump_trial, parse_trial
from sweeper.store.records import Retried, dump_record, parse_record
from sweeper.store.recovery import recover
from sweeper.store.run_dir import RunDir

RECORDS = [
    {"type": "opened", "format": 1, "epoch": 1, "environment": {"torch": "2"}},
    {
        "type": "planned",
        "measurement": "m",
        "measure": None,
        "trials": [
            {
                "trial_id": "a",
                "cell_id": "c",
                "arm": "sgd",
                "seed": 0,
                "swept": {},
                "learning_rate": 0.1,
                "clip_norm": None,
                "steps": 20,
            }
        ],
    },
    {
        "type": "committed",
        "parts": [{"table": "metrics", "file": "f", "rows": 10, "xxh3": "0"}],
        "segments": [
            {
                "trial": "a",
                "epoch": 1,
                "attempt": 1,
                "start": 0,
                "stop": 10,
                "outcome": None,
                "checkpoint": ["c", "1"],
                "measurement": "m",
                "facts": {
                    "num_steps": 10,
                    "num_clipped": 0,
                    "train_s": 1.0,
                    "evaluate_s": 0.5,
                    "estimate_s": 0.25,
                    "started_at": 1.7e9,
                    "ended_at": 1.7e9,
                    "host": "h",
                },
            }
        ],
    },
]


def write(path: Path, lines: list[dict[str, Any]]) -> bytes:
    """A journal of any lines, each with its number and hash, whatever it holds."""
    path.write_bytes(b"".join(_seal({"n": number, **line}) for number, line in enumerate(lines)))
    return path.read_bytes()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    write(tmp_path / "journal", RECORDS)
    records, whole = read_journal(tmp_path / "journal")
    assert [record["type"] for record in records] == ["opened", "planned", "committed"]
    assert whole == (tmp_path / "journal").stat().st_size


def test_a_journal_cut_at_any_byte_gives_the_whole_records_before_the_cut(tmp_path: Path) -> None:
    data = write(tmp_path / "journal", RECORDS)
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data) + 1):
        (tmp_path / "cut").write_bytes(data[:cut])
        records, whole = read_journal(tmp_path / "cut")
        assert len(records) == sum(end <= cut for end in ends)
        assert whole == max([end for end in ends if end <= cut], default=0)


def test_a_torn_tail_is_cut_off_and_kept_before_anything_is_appended(tmp_path: Path) -> None:
    data = write(tmp_path / "journal", RECORDS)
    path = tmp_path / "journal"
    path.write_bytes(data + b'{"n":3,"type":"fai')
    records, whole = read_journal(path)
    assert repair_journal(path, whole, tmp_path / "quarantine")
    Journal(path, len(records)).append(Retried(trials=()))
    assert [record["type"] for record in read_journal(path)[0]][-1] == "retried"
    assert b'{"n":3,"type":"fai' in (next((tmp_path / "quarantine").iterdir())).read_bytes()


def test_zero_bytes_at_the_end_are_a_torn_tail(tmp_path: Path) -> None:
    data = write(tmp_path / "journal", RECORDS)
    (tmp_path / "journal").write_bytes(data + b"\0" * 4096)
    assert len(read_journal(tmp_path / "journal")[0]) == 3


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    data = bytearray(write(path, RECORDS))
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    position %= len(data)
    data[position] ^= 1 << bit
    path.write_bytes(data)
    try:
        records, _ = read_journal(path)
    except IntegrityError:
        assert position < ends[-2] + 1, "only damage before a whole line is refused"
    else:
        assert len(records) < 3
        assert [record["n"] for record in records] == list(range(len(records)))


def test_a_line_written_twice_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "journal", RECORDS)
    first = data.splitlines(keepends=True)[0]
    (tmp_path / "journal").write_bytes(first + data)
    with pytest.raises(IntegrityError, match=r"journal:2: damaged line before intact ones"):
        read_journal(tmp_path / "journal")


def test_a_journal_of_a_newer_format_is_refused_with_the_mend(tmp_path: Path) -> None:
    write(tmp_path / "journal", [{"type": "opened", "format": 99}])
    with pytest.raises(IntegrityError, match=r"newer clipsweep \(format 99.*upgrade"):
        read_journal(tmp_path / "journal")


def test_replay_adds_up_to_where_each_trial_stands(tmp_path: Path) -> None:
    write(tmp_path / "journal", RECORDS)
    state = replay(read_journal(tmp_path / "journal")[0])
    assert (state.driver_epoch, state.next_number, len(state.parts)) == (1, 3, 1)
    assert (state.trials["a"].step, state.trials["a"].resolved) == (10, False)
    assert (state.trials["a"].status(), state.trials["a"].status(running=True)) == ("paused", "running")
    assert state.trials["a"].segments[0].checkpoint == ("c", "1")


def test_a_trial_given_up_is_failed_or_lost_by_its_last_error_and_queued_again_by_a_retry() -> None:
    def state_after(*more: dict[str, object]) -> str:
        return replay([*RECORDS[:2], *more]).trials["a"].status()

    failed = {"type": "failed", "trial": "a", "epoch": 1, "attempt": 1, "kind": "raised", "error": "no", "final": True}
    assert state_after(failed) == "failed"
    assert state_after({**failed, "kind": "died"}) == "lost"
    assert state_after({**failed, "final": False}) == "queued"
    assert state_after(failed, {"type": "retried", "trials": ["a"]}) == "queued"


def test_a_record_about_an_unknown_trial_is_refused() -> None:
    with pytest.raises(IntegrityError, match="journal record 2: not understood"):
        replay([RECORDS[0], {**RECORDS[1], "trials": []}, {**RECORDS[2], "n": 2}])


# Journals of an earlier version, recorded from its command line

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_is_written_today_is_the_language_of_recorded_journals(path: Path) -> None:
    lines, _ = read_journal(path)
    assert len(lines) > 2
    for line in lines:
        again = json.loads(_seal({"n": line["n"], **dump_record(parse_record(line))}))
        del again["xxh3"]
        # What was measured again is named by what it measures alone; the estimator's name stood there twice.
        known = {key: value for key, value in line.items() if key not in {"estimator"}}
        assert again == known


SECTION = {"use": "a", "n": [1, None]}


def planned(swept: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A trial in a line of the journal, as earlier versions wrote it."""
    own = {"trial_id": "t", "cell_id": "c", "arm": "sgd", "seed": 0, "learning_rate": 0.1, "clip_norm": None}
    return {**own, "steps": 5, "swept": swept, **more}


def test_a_list_and_the_text_of_its_json_are_two_values_in_the_journal() -> None:
    swept = {"problem.m": [1, 2], "problem.n": "[1, 2]", "problem.s": SECTION, "problem.t": json.dumps(SECTION), "u": 1}
    trial = parse_trial(planned({}, structured=[]))
    line = json.loads(json.dumps(dump_trial(replace(trial, swept=swept))))
    assert all(not isinstance(value, list | dict) for value in line["swept"].values())
    again = parse_trial(line)
    assert again.swept == swept


def test_lists_and_sections_of_earlier_journals_are_what_they_were() -> None:
    swept = {"problem.m": "[1, 2]", "problem.s": json.dumps(SECTION), "problem.t": "[1,2]", "problem.x": "{", "u": "1"}
    trial = parse_trial(planned(swept))
    assert trial.swept == {**swept, "problem.m": [1, 2], "problem.s": SECTION}


@pytest.mark.parametrize(
    "more", [{"structured": ["other"]}, {"structured": ["u"]}, {"structured": ["m"]}, {"structured": [1]}]
)
def test_a_planned_trial_whose_lists_cannot_be_read_is_refused(more: Mapping[str, Any]) -> None:
    line = {
        "n": 0,
        "type": "planned",
        "measurement": "m",
        "measure": None,
        "trials": [planned({"u": 1, "m": "["}, **more)],
    }
    with pytest.raises(IntegrityError, match="journal record 0: not understood"):
        replay([line])


def recorded(name: str) -> RunState:
    return replay(read_journal(Path(__file__).parent / "recorded" / f"{name}.jsonl")[0])


def test_a_recorded_journal_of_failures_retries_damage_and_a_changed_spec_still_replays() -> None:
    state = recorded("retried-remeasured-damaged-superseded")
    stands = {name: (trial.status(), trial.step, len(trial.attempts)) for name, trial in state.trials.items()}
    assert stands == {
        "4cb3d1b31df56ebd": ("done", 12, 2),
        "fb4621a4bb836e17": ("done", 12, 5),
        "67cb9764c241e439": ("done", 12, 1),
        "ef92b0a564fb9785": ("done", 12, 1),
    }
    assert state.superseded == {"4cb3d1b31df56ebd", "fb4621a4bb836e17"}
    assert {part.table for part in state.parts if part.void} == {
        "measurements/directional_smoothness",
        "metrics",
    }, "the rows of what was trained again count no more"
    (measured,) = state.remeasured.values()
    assert measured == {(trial, step) for trial in state.superseded for step in (0, 3, 6, 9)}
    assert (state.driver_epoch, state.next_number) == (5, 20)
    code = state.trials["67cb9764c241e439"].record.code
    assert code is not None
    assert (code.use, code.root) == ("moody:line", Path("/home/somebody/work/moody.py"))


def test_a_recorded_journal_of_several_estimators_still_replays() -> None:
    state = recorded("images")
    assert [(trial.status(), trial.step, len(trial.segments)) for trial in state.trials.values()] == [
        ("done", 12, 2)
    ] * 4
    assert {part.table for part in state.parts} == {
        "metrics",
        *(f"measurements/{name}" for name in ("directional_smoothness", "gradient_noise", "hessian_spectral_norm")),
    }
    facts = [segment.facts for trial in state.trials.values() for segment in trial.segments]
    assert sum(fact.num_snapshots or 0 for fact in facts) == 16
    assert all(fact.num_steps == 6 and fact.host == "laptop" and fact.waited_s is not None for fact in facts)


@pytest.mark.parametrize("left", [b"", b'{"n":0,"type":"opened","for'])
def test_a_journal_without_a_whole_line_beside_rows_is_refused_and_nothing_is_deleted(
    tmp_path: Path, left: bytes
) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    run_dir.journal.write_bytes(left)
    assert open_state(run_dir).trials == recover(run_dir).trials == {}, "a driver that died at its very start"
    run_dir.journal.write_bytes(left)
    part = run_dir.parts / "metrics-1.parquet"
    part.write_bytes(b"rows")
    for read in (open_state, recover, state_of):
        with pytest.raises(IntegrityError, match=r"journal.jsonl:1: cut off or damaged.*1 file of committed rows"):
            read(run_dir)
    assert part.read_bytes() == b"rows"
    assert run_dir.journal.read_bytes() == left


def test_a_line_that_is_not_understood_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(path, [*RECORDS[:1], {"type": "retried", "trials": ["unknown"]}])
    with pytest.raises(IntegrityError, match=r"journal:2: not understood(.|\n)*restore the journal from a backup"):
        read_state(path)
