"""Every export, read back by the target's own reader: all points, once, however often it is exported."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from sweeper.export.contents import series_of, trials_of
from sweeper.export.registry import export_run
from sweeper.tables.run import Run

Files = Callable[[Path], list[str]]
Grow = Callable[[int], Run]


def logged(run: Run) -> dict[str, dict[str, dict[int, float]]]:
    """Trial to name to step to value, straight from the tables."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    tables = {"": run.metrics} | {f"{name}/": run.measurements(name) for name in run.estimators}
    for prefix, table in tables.items():
        texts = {"trial_id", "measurement_id", "smoothness_by_fraction"}
        for name in [name for name in table.dropna(axis="columns", how="all") if name not in texts | {"step"}]:
            for trial, step, value in table[["trial_id", "step", name]].dropna().itertuples(index=False):
                found.setdefault(trial, {}).setdefault(f"{prefix}{name}", {})[step] = float(value)
    return found


# What all targets take


@pytest.mark.parametrize("rows", [1, 7, 65_536])
def test_the_series_of_a_run_are_its_tables_whatever_the_size_of_batches(small_run: Run, rows: int) -> None:
    found = {
        trial.trial_id: {
            name: dict(zip(one.steps.tolist(), one.values.tolist(), strict=True)) for name, one in series.items()
        }
        for trial, series in series_of(small_run, trials_of(small_run), batch_rows=rows)
    }
    assert found == logged(small_run)


def test_some_trials_are_read_without_the_others(small_run: Run) -> None:
    wanted = trials_of(small_run)[1::2]
    found = {trial.trial_id: set(series) for trial, series in series_of(small_run, wanted)}
    assert found == {trial.trial_id: set(logged(small_run)[trial.trial_id]) for trial in wanted}


def test_trials_say_what_was_swept_and_how_they_ended(small_run: Run) -> None:
    done, *_, lost = trials_of(small_run)
    assert (done.cell, done.label, done.seed) == ("learning_rate=1", "learning_rate=1 seed=0", 0)
    assert (done.settings["learning_rate"], done.settings["clip_norm"]) == (1.0, None)
    assert done.results["best_valid_loss"] == small_run.trials["best_valid_loss"][0]
    assert (lost.status, lost.has_failed, lost.results["diverged_step"]) == ("diverged", True, 20)


# TensorBoard


def accumulated(folder: Path) -> dict[str, Any]:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for file in folder.rglob("*tfevents*"):
        events = module.EventAccumulator(str(file.parent), size_guidance={"scalars": 0})
        events.Reload()
        found[str(file.parent.relative_to(folder))] = events
    return found


def test_tensorboard_reads_every_point_once_after_two_exports(small_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    for _ in range(2):
        export_run(small_run.path, "tensorboard", tmp_path)
    found = accumulated(tmp_path)
    assert len(found) == 4
    expected = logged(small_run)
    for folder, events in found.items():
        trial = folder.rpartition("seed=")[2].partition("-")[2]
        tags = {tag for tag in events.Tags()["scalars"] if not tag.startswith("result/")}
        assert tags == set(expected[trial])
        for tag in tags:
            points = {event.step: event.value for event in events.Scalars(tag)}
            assert len(events.Scalars(tag)) == len(points)
            assert points == pytest.approx(expected[trial][tag], rel=1e-6)


def test_tensorboard_has_the_seeds_of_a_cell_in_one_folder_and_in_one_group(small_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    export_run(small_run.path, "tensorboard", tmp_path)
    groups: dict[str, set[str]] = {}
    for folder, events in accumulated(tmp_path).items():
        contents = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        start = HParamsPluginData.FromString(contents).session_start_info
        groups.setdefault(folder.partition("/")[0], set()).add(start.group_name)
        assert start.hparams["learning_rate"].number_value in {1.0, 30.0}
        assert start.hparams["clip_norm"].string_value == "null"
    assert sorted(map(sorted, groups.values())) == [["learning_rate=1 (cell-0)"], ["learning_rate=30 (cell-1)"]]


def test_tensorboard_has_no_run_twice_when_growth_renames_the_cells(grow: Grow, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    to = tmp_path / "to"
    export_run(grow(1).path, "tensorboard", to)
    (first,) = {path.parent.parent.name for path in to.rglob("*tfevents*")}
    export_run(grow(3).path, "tensorboard", to)
    assert len(list(to.rglob("*tfevents*"))) == 6
    assert not (to / first).exists()


# W&B


def offline_records(file: Path) -> list[Any]:
    """The records of a ``.wandb`` file: a log in the form of LevelDB's, of blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, found, pending = file.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        pending += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in {1, 4}:
            found.append(Record.FromString(pending))
            pending = b""
    return found


def test_wandb_has_an_offline_run_per_trial_in_the_group_of_its_cell_with_every_point_once(
    small_run: Run, tmp_path: Path, files_in: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 10)
    monkeypatch.setenv("WANDB_ENTITY", "somebody")
    before = set(psutil.Process().children(recursive=True))
    for _ in range(2):
        export_run(small_run.path, "wandb", tmp_path)
    assert set(psutil.Process().children(recursive=True)) <= before, "W&B has left a process behind"
    assert os.environ["WANDB_ENTITY"] == "somebody"
    files = sorted(tmp_path.rglob("*.wandb"))
    assert len(files) == 4 == len(files_in(tmp_path)) - 1
    expected = logged(small_run)
    for file in files:
        assert b"secret" not in file.read_bytes()
        records = offline_records(file)
        (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        assert run.run_group == f"learning_rate={30 if 'trial-1' in run.run_id else 1} (cell-{run.run_id[6]})"
        assert (run.job_type, run.project, run.entity) == ("sgd", "small", "")
        assert {"seed", "arm", "learning_rate"} <= {one.key for one in run.config.update}
        points: dict[str, dict[int, float]] = {}
        for record in records:
            if record.WhichOneof("record_type") == "history":
                row = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                for name, value in row.items():
                    if not name.startswith("_"):
                        number = float(value.strip('"'))
                        assert points.setdefault(name, {}).setdefault(int(row["_step"]), number) == number
        assert points == expected[run.run_id]


# MLflow


def mlflow_runs(folder: Path) -> tuple[Any, list[Any]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    return client, list(client.search_runs([experiment.experiment_id]))


def test_mlflow_has_a_run_per_cell_with_its_seeds_inside_and_every_point_once(small_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    for _ in range(2):
        export_run(small_run.path, "mlflow", tmp_path)
    client, runs = mlflow_runs(tmp_path)
    trials = {run.data.tags["clipsweep.trial_id"]: run for run in runs if "clipsweep.trial_id" in run.data.tags}
    cells = {run.info.run_id: run for run in runs if "clipsweep.cell_id" in run.data.tags}
    assert len(runs) == 6 == len(trials) + len(cells)
    expected = logged(small_run)
    assert trials.keys() == expected.keys()
    for name, run in trials.items():
        assert (
            cells[run.data.tags["mlflow.parentRunId"]].data.params["learning_rate"] == run.data.params["learning_rate"]
        )
        assert run.info.status == ("FAILED" if run.data.tags["status"] == "diverged" else "FINISHED")
        for metric, points in expected[name].items():
            history = client.get_metric_history(run.info.run_id, metric)
            assert len(history) == len(points)
            assert {one.step: one.value for one in history} == points


def test_mlflow_extends_what_has_grown_and_keeps_the_runs_that_it_has(grow: Grow, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    to = tmp_path / "to"
    export_run(grow(1).path, "mlflow", to)
    before = {run.info.run_id for run in mlflow_runs(to)[1]}
    export_run(grow(2).path, "mlflow", to)
    after = {run.info.run_id for run in mlflow_runs(to)[1]}
    assert before < after
    assert len(after) == 6


# CSV


def test_pandas_reads_the_tables_as_they_are(small_run: Run, tmp_path: Path) -> None:
    for _ in range(2):
        export_run(small_run.path, "csv", tmp_path)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    pd.testing.assert_frame_equal(
        metrics.astype(object).fillna("-"), small_run.metrics.astype(object).fillna("-"), check_dtype=False
    )
    rows = pd.read_csv(tmp_path / "measurements" / "directional_smoothness.csv")
    np.testing.assert_array_equal(rows["smoothness"], small_run.measurements()["smoothness"])
    assert rows["smoothness_by_fraction"].eq("[1.0]").all()
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert list(trials["trial_id"]) == list(small_run.trials["trial_id"])


def test_no_text_of_a_csv_is_a_formula_and_different_texts_stay_different(hostile_run: Run, tmp_path: Path) -> None:
    export_run(hostile_run.path, "csv", tmp_path)
    models = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False)["problem.model"]
    assert models.nunique() == len(models)
    assert not models.str.startswith(("=", "+", "-", "@")).any()
    assert "\x1b" not in (tmp_path / "trials.csv").read_text()


# LaTeX


def test_the_tables_are_balanced_ascii_without_commands_of_the_names(hostile_run: Run, tmp_path: Path) -> None:
    export_run(hostile_run.path, "latex", tmp_path)
    text = (tmp_path / "report.tex").read_bytes().decode("ascii")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\bottomrule") == 1
    assert r"\input{" not in text
    assert r"\textbackslash{}input" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    columns = len(text[text.index(r"\begin{tabular}{") :].partition("}{")[2].partition("}")[0])
    assert len(body) == 7
    for row in body:
        assert row.endswith(r" \\")
        assert row.replace(r"\&", "").count("&") == columns - 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
@pytest.mark.parametrize("name", ["small_run", "hostile_run"])
def test_latex_compiles_the_document(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    export_run(request.getfixturevalue(name).path, "latex", tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    if "booktabs.sty' not found" in done.stdout:
        pytest.skip("this LaTeX has no booktabs")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "document.pdf").stat().st_size > 1000


# Hostile names


@pytest.mark.parametrize("target", ["tensorboard", "wandb", "mlflow", "csv", "latex"])
def test_hostile_names_are_exported_and_nothing_leaves_the_folder(
    hostile_run: Run, tmp_path: Path, files_in: Files, target: str
) -> None:
    package = {"csv": "csv", "latex": "math"}.get(target, target)
    pytest.importorskip(package, reason=f"the extra {target} is not installed")
    to = tmp_path / "a" / "b" / "c" / "to"
    found = export_run(hostile_run.path, target, to)
    assert found.trials == 7
    assert all(name.startswith("a/b/c/to/") for name in files_in(tmp_path))
    assert all(len(part) < 150 for name in files_in(to) for part in name.split("/"))
    assert math.isfinite(found.bytes)
