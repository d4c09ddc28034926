"""Tables of a run in a spreadsheet: as pandas writes them, and as Excel's format holds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest

from sweeper import Run, for_spreadsheet

SPEC = """
problem: {use: deep_linear, layers: 2, width: 3}
update_rule: {learning_rate: 0.01}
train: {steps: 6}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep: {grid: {update_rule.clip_norm: [null, 1.0]}}
"""


@pytest.fixture(scope="module")
def run(module_inline_run: Callable[[str], Any]) -> Run:
    return Run(module_inline_run(SPEC).run_dir.path)


def tables(run: Run) -> dict[str, pd.DataFrame]:
    return {
        "trials": run.trials,
        "metrics": run.metrics,
        "telemetry": run.telemetry,
        "smoothness": run.measurements(),
    }


def test_pandas_refuses_to_write_times_with_a_zone(run: Run, tmp_path: Path) -> None:
    """Why there is a function at all; if this ever works, it may go."""
    for name in ("trials", "telemetry"):
        with pytest.raises(ValueError, match="does not support datetimes with timezones"):
            tables(run)[name].to_excel(tmp_path / "refused.xlsx")


def test_every_table_can_be_written_and_read_again(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.xlsx"
    with pd.ExcelWriter(file) as writer:
        for name, frame in tables(run).items():
            for_spreadsheet(frame).to_excel(writer, sheet_name=name, index=False)
    for name, frame in tables(run).items():
        read = pd.read_excel(file, sheet_name=name)
        assert list(read.columns) == list(frame.columns)
        assert len(read) == len(frame)
        for column in frame.select_dtypes("number"):
            assert np.allclose(read[column].astype(float), frame[column].astype(float), equal_nan=True)
    moments = pd.read_excel(file, sheet_name="trials")["started_at"]
    assert list(moments.dt.tz_localize("UTC").dt.floor("s")) == list(run.trials["started_at"].dt.floor("s"))
    lists = pd.read_excel(file, sheet_name="smoothness")["smoothness_by_fraction"].map(eval)
    assert [list(values) for values in run.measurements()["smoothness_by_fraction"]] == list(lists)


def test_times_are_utc_whatever_their_zone_was() -> None:
    at = pd.Series(pd.to_datetime(["2026-07-01T12:00", None])).dt.tz_localize("Europe/Zurich")
    (plain,) = (for_spreadsheet(pd.DataFrame({"at": at}))["at"],)
    assert plain.dt.tz is None
    assert plain[0] == pd.Timestamp("2026-07-01T10:00")
    assert pd.isna(plain[1])


def test_a_spreadsheet_runs_nothing_and_takes_every_text(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "@SUM(A1)", "a\x1b[2Jb", "two\nlines", "plain", None]
    frame = pd.DataFrame({"=text": texts, "number": range(len(texts))})
    for_spreadsheet(frame).to_excel(tmp_path / "texts.xlsx", index=False)
    sheet = openpyxl.load_workbook(tmp_path / "texts.xlsx").active
    head, *cells = [row[0] for row in sheet.iter_rows()]
    assert head.value == "'=text"
    assert [cell.value for cell in cells] == [
        "'=1+1", "'+1", "'@SUM(A1)", "a\\x1b[2Jb", "two\\nlines", "plain", None
    ]  # fmt: skip
    assert not any(cell.data_type == "f" for cell in cells), "no formula"


def test_the_frame_itself_stays_as_it_is(run: Run) -> None:
    before = run.trials.copy()
    plain = for_spreadsheet(run.trials)
    pd.testing.assert_frame_equal(run.trials, before)
    assert plain.shape == before.shape
    numbers = before.select_dtypes(["number", "bool"]).columns
    pd.testing.assert_frame_equal(plain[numbers], before[numbers])
