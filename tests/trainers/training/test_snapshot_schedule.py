"""When snapshots are due."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.errors import TrainerError
from trainers.training.snapshot import SnapshotSchedule

STEPS, PER_EPOCH = 20, 4


def due(**options: Any) -> list[int]:
    schedule = SnapshotSchedule(**options)
    return [step for step in range(STEPS) if schedule.due(step, STEPS, PER_EPOCH)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"every": 7}, [0, 7, 14]),
        ({"first": 3}, [0, 1, 2]),
        ({"last": 2}, [18, 19]),
        ({"first": 100}, list(range(STEPS))),
        ({"epochs": 1}, [0, 4, 8, 12, 16]),
        ({"epochs": 2}, [0, 8, 16]),
        ({"epochs": 0.5}, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
        ({"epochs": 0.3}, [0, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18]),
        ({"steps": (5, 3, 99)}, [3, 5]),
        ({"every": 5, "from_step": 5, "to_step": 15}, [5, 10, 15]),
        ({"epochs": 1, "from_step": 5, "to_step": 12}, [8, 12]),
        ({"every": 5, "from_step": 6, "first": 1, "last": 1, "steps": [2]}, [0, 2, 10, 15, 19]),
    ],
)
def test_it_is_due_at(options: dict[str, Any], expected: list[int]) -> None:
    assert due(**options) == expected


@given(
    every=st.none() | st.integers(1, 30),
    first=st.integers(0, 30),
    last=st.integers(0, 30),
    epochs=st.none() | st.floats(0.1, 10),
    steps=st.lists(st.integers(0, 30)),
)
def test_together_they_are_a_union(
    every: int | None, first: int, last: int, epochs: float | None, steps: list[int]
) -> None:
    parts = [due(every=every), due(first=first), due(last=last), due(epochs=epochs), due(steps=steps)]
    together = due(every=every, first=first, last=last, epochs=epochs, steps=steps)
    assert together == sorted({step for part in parts for step in part})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"every": 0}, "every must be positive"), ({"epochs": -1.0}, "epochs must be"), ({"first": -1}, "first must not")],
)
def test_counts_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        SnapshotSchedule(**options)
