"""What the journal does not name does not exist; what it names, it names whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.errors import IntegrityError
from sweeper.store.journal import Journal, read_journal, repair_journal, replay

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


def write(path: Path, records: list[dict[str, object]]) -> bytes:
    journal = Journal(path, 0)
    for record in records:
        journal.append(record)
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
    Journal(path, len(records)).append({"type": "retried", "trials": []})
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
    with pytest.raises(IntegrityError, match=r"journal:2: damaged line before whole ones"):
        read_journal(tmp_path / "journal")


def test_a_journal_of_a_newer_format_is_refused_with_the_mend(tmp_path: Path) -> None:
    write(tmp_path / "journal", [{"type": "opened", "format": 99}])
    with pytest.raises(IntegrityError, match=r"newer clipsweep \(format 99.*upgrade"):
        read_journal(tmp_path / "journal")


def test_replay_adds_up_to_where_each_trial_stands(tmp_path: Path) -> None:
    write(tmp_path / "journal", RECORDS)
    state = replay(read_journal(tmp_path / "journal")[0])
    assert (state.epoch, state.next_number, len(state.parts)) == (1, 3, 1)
    assert (state.trials["a"].step, state.trials["a"].status, state.trials["a"].resolved) == (10, "running", False)
    assert state.trials["a"].segments[0].checkpoint == ("c", "1")


def test_a_trial_given_up_is_failed_or_lost_by_its_last_error_and_queued_again_by_a_retry() -> None:
    def state_after(*more: dict[str, object]) -> str:
        return replay([*RECORDS[:2], *more]).trials["a"].status

    failed = {"type": "failed", "trial": "a", "epoch": 1, "attempt": 1, "kind": "raised", "error": "no", "final": True}
    assert state_after(failed) == "failed"
    assert state_after({**failed, "kind": "died"}) == "lost"
    assert state_after({**failed, "final": False}) == "queued"
    assert state_after(failed, {"type": "retried", "trials": ["a"]}) == "queued"


def test_a_record_about_an_unknown_trial_is_refused() -> None:
    with pytest.raises(IntegrityError, match="journal record 2: not understood"):
        replay([RECORDS[0], {**RECORDS[1], "trials": []}, {**RECORDS[2], "n": 2}])
