"""The comparison of two versions finds what differs, and nothing where nothing does."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "same_results.py"


@pytest.fixture(scope="module")
def same_results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("same_results", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal recordings of one run."""
    run = tmp_path / "before" / "runs" / "own"
    (run / "parts").mkdir(parents=True)
    pd.DataFrame({"trial_id": ["a"], "smoothness": [0.1 + 0.2], "train_s": [1.0]}).to_parquet(run / "trials.parquet")
    pd.DataFrame({"epoch": [1], "host": ["here"]}).to_parquet(run / "telemetry.parquet")
    (run / "parts" / "metrics-0001.parquet").write_bytes(b"named after its place in time")
    report = {"cells": [{"loss": 0.5}], "seconds": 3, "train_s": 1.0}
    (tmp_path / "before" / "own.report.json").write_text(json.dumps(report))
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    return tmp_path / "before", tmp_path / "after"


def test_two_recordings_that_differ_in_times_and_renamed_columns_alone_are_the_same(
    same_results: ModuleType, recorded: tuple[Path, Path]
) -> None:
    run = recorded[1] / "runs" / "own"
    pd.DataFrame({"trial_id": ["a"], "smoothness": [0.1 + 0.2], "train_s": [9.0]}).to_parquet(run / "trials.parquet")
    pd.DataFrame({"driver_epoch": [1], "host": ["there"]}).to_parquet(run / "telemetry.parquet")
    (run / "parts" / "metrics-0001.parquet").rename(run / "parts" / "metrics-0002.parquet")
    assert list(same_results.differences(*recorded)) == []


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"trial_id": ["a"], "smoothness": [0.3], "train_s": [1.0]}, "smoothness"),
        ({"trial_id": ["b"], "smoothness": [0.1 + 0.2], "train_s": [1.0]}, "trial_id"),
        ({"trial_id": ["a", "a"], "smoothness": [0.1 + 0.2] * 2, "train_s": [1.0] * 2}, "shape"),
    ],
)
def test_one_bit_of_one_row_another_id_and_one_row_more_are_found(
    same_results: ModuleType, recorded: tuple[Path, Path], columns: dict[str, list[object]], said: str
) -> None:
    pd.DataFrame(columns).to_parquet(recorded[1] / "runs" / "own" / "trials.parquet")
    (found,) = same_results.differences(*recorded)
    assert found.startswith("runs/own/trials.parquet: ")
    assert said in found


def test_another_answer_and_a_table_that_is_gone_are_found(
    same_results: ModuleType, recorded: tuple[Path, Path]
) -> None:
    (recorded[1] / "own.report.json").write_text(json.dumps({"cells": [{"loss": 0.25}], "seconds": 3}))
    (recorded[1] / "runs" / "own" / "telemetry.parquet").unlink()
    found = list(same_results.differences(*recorded))
    assert any(line.startswith("own.report.json.cells[0].loss: 0.5 against 0.25") for line in found)
    assert any(line.startswith("runs/own/telemetry.parquet: only in ") for line in found)
    assert len(found) == 2


def test_an_empty_recording_is_no_agreement(same_results: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    assert list(same_results.differences(tmp_path / "one", tmp_path / "other"))
