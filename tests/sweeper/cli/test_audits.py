"""The screen of ``clipsweep audit-clip``: a table that fits, with findings, lines and remedies, and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ask = Callable[..., Any]
WORDS = ["audit-clip", "shown_step:train_step", "--ranks", "1"]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_an_audit_fits_the_terminal_and_says_what_is_wrong_where_and_how_to_mend_it(
    ask: Ask, shown_folder: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = ask(*WORDS)
    assert shown.code == 1
    first, *rows = shown.out.splitlines()
    assert first == "shown_step:train_step on 1 rank"
    assert max(map(len, rows)) <= min(columns, 110)
    assert [row for row in rows if row.startswith("  FINDING")] == [
        row for row in rows if "what is clipped nothing: " in row
    ]
    text = " ".join(" ".join(rows).split())
    assert "fix: clip between the last backward() and optimizer.step()" in text
    number = (shown_folder / "shown_step.py").read_text().splitlines().index(
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
    ) + 1  # fmt: skip
    assert f"at shown_step.py:{number}, in train_step: torch.nn.utils.clip_grad_norm_" in text
    assert shown.err.endswith(f"1 finding in {sum(row[2] != ' ' for row in rows)} answers\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "3"], "error: --ranks 3: give 1 or 2\n"),
        (["--max-norm", "-1"], "error: --max-norm -1: the threshold that is meant is a positive number\n"),
        (["--max-norm", "nan"], "error: --max-norm nan: the threshold that is meant is a positive number\n"),
        (["--timeout", "0"], "error: --timeout 0: give seconds, more than 0 and at most 3600\n"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(ask: Ask, words: list[str], message: str) -> None:
    shown = ask("audit-clip", "shown_step:train_step", *words)
    assert (shown.code, shown.out, shown.err) == (2, "", message)
