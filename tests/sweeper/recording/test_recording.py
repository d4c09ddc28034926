"""Loops that somebody else has written, as a run directory that every command reads."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from estimators import SmoothnessMonitor
from sweeper.cli.app import app
from sweeper.errors import ClipsweepError, RunDirectoryError
from sweeper.monitor.follow import cancel
from sweeper.monitor.status import in_words, retry, run_status, trial_rows
from sweeper.planning.preview import plan_document
from sweeper.recording.names import checked_values
from sweeper.remeasure import estimate_run
from sweeper.report.answers import build_answers
from sweeper.report.fits import build_fits
from sweeper.report.other_fits import fit_direction
from sweeper.report.plots.draw import draw
from sweeper.report.render.times import render_times
from sweeper.report.summary import build_report
from sweeper.report.times import build_times
from sweeper.run import run_sweep
from sweeper.spec.load import load_spec
from sweeper.store.journal import read_state
from sweeper.store.lock import DriverLock
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run
from tests.sweeper.recording.conftest import data, loss_fn


def loop(out: Path, *, steps: int = 40, rate: float = 0.5, start: int = 0, **options: Any) -> SmoothnessMonitor:
    """A loop of 40 steps, measured at every second one."""
    seed = options.get("seed", 0)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    momentum = options.pop("momentum", 0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    options = {"every": 2, "budget": None, "clip_norm": 0.1, "probe": data(seed)} | options
    with SmoothnessMonitor(model, optimizer, loss_fn, out=out, first_step=start, **options) as monitor:
        for batch in (data(seed) * steps)[start:steps]:
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.note(loss)
            if options["clip_norm"] is not None:
                monitor.clip_grad_norm_(options["clip_norm"])
            optimizer.step()
    return monitor


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds with two thresholds, and one without."""
    out = tmp_path_factory.mktemp("recorded") / "run"
    for clip_norm in (0.1, 0.4, None):
        for seed in range(3):
            loop(out, seed=seed, clip_norm=clip_norm)
    return out


def test_the_tables_are_those_of_a_sweep_and_pandas_reads_them(recorded: Path) -> None:
    trials, metrics, telemetry = (
        pd.read_parquet(recorded / f"{name}.parquet") for name in ("trials", "metrics", "telemetry")
    )
    assert list(trials["status"]) == ["done"] * 9
    assert list(trials["steps"]) == [40] * 9
    assert sorted(set(trials["arm"])) == ["sgd", "sgd + clip_norm"]
    assert trials["clip_norm"].isna().sum() == 3
    assert list(trials["learning_rate"]) == [0.5] * 9
    assert trials["cell_id"].nunique() == 3
    assert trials["final_train_loss"].between(0, 1).all()
    assert len(metrics) == 9 * 40
    clipped = metrics[metrics["trial_id"].isin(trials["trial_id"][trials["clip_norm"] == 0.1])]
    pd.testing.assert_series_equal(clipped["clipped"], clipped["grad_norm"] > 0.1, check_names=False)
    share = clipped.groupby("trial_id")["clipped"].mean()
    assert trials.set_index("trial_id")["clipped_fraction"][share.index].tolist() == share.tolist()
    # Nobody said how many steps an epoch has.
    assert metrics["epoch"].isna().all()
    measured = pd.read_parquet(recorded / "measurements" / "directional_smoothness.parquet")
    assert len(measured) == 9 * 20
    assert (measured["smoothness"] > 0).all()
    assert measured["data_fraction"].isna().all()
    # What the monitor took of the loop's time.
    assert (telemetry["waited_s"] >= telemetry["estimate_s"]).all()
    assert (telemetry["train_s"] > 0).all()
    assert telemetry["data"].nunique() == 3


def test_report_fit_advise_and_plots_answer(recorded: Path, tmp_path: Path) -> None:
    run = Run(recorded)
    assert run.swept == ["update_rule.clip_norm"]
    report = build_report(run)
    assert [(cell.label, cell.seeds, cell.done) for cell in report.cells] == [
        ("clip_norm=0.1", 3, 3),
        ("clip_norm=0.4", 3, 3),
        ("no clipping", 3, 3),
    ]
    assert all(math.isfinite(cell.losses["final_train_loss"].mean) for cell in report.cells)
    assert [cell.points for cell in build_fits(run)] == [60, 60, 60]
    assert [row.clipped for row in build_answers(run).activity[:1]] == [report.cells[0].clipped_fraction]
    for kind in ("loss", "fit", "smoothness"):
        assert draw(run, kind, tmp_path / f"{kind}.png")
        assert (tmp_path / f"{kind}.png").stat().st_size > 10_000


def test_answers_that_need_what_was_not_measured_say_how_a_monitor_measures_it(recorded: Path, tmp_path: Path) -> None:
    run = Run(recorded)
    with pytest.raises(
        ClipsweepError, match=r"SmoothnessMonitor\(estimators={'other_directions': {}, ...}\) measures it"
    ):
        fit_direction(run, run.trials, "gradient")
    for kind, text in {
        "sharpness": r"SmoothnessMonitor\(estimators={'critical_sharpness': {}, ...}\) measures it",
        "stability": "SmoothnessMonitor does not measure preconditioned_sharpness, only sweeps do",
        "agreement": "SmoothnessMonitor keeps none to be measured again",
    }.items():
        with pytest.raises(ClipsweepError, match=text) as caught:
            draw(run, kind, tmp_path / f"{kind}.png")
        assert "clipsweep estimate" not in str(caught.value)


def test_where_the_time_of_loops_went_is_told_in_their_words_and_no_key_of_a_spec_is_advised(recorded: Path) -> None:
    times = build_times("mine", read_state(recorded / "journal.jsonl"))
    text = " ".join(render_times(times, "table").split())
    assert "of 9 loops" in text
    assert "seconds of loops, added up; waiting: for SmoothnessMonitor" in text
    assert "measuring: the estimators' part of waiting" in text
    assert "trainers" not in text
    assert times.advice == ()


def test_a_driver_that_never_was_has_no_log_and_that_is_said(recorded: Path) -> None:
    told = CliRunner().invoke(app, ["logs", str(recorded)])
    assert (told.exit_code, told.stdout) == (0, "")
    assert "no driver has logged anything here" in told.stderr.replace("\n", " ")


def test_status_says_what_it_is(recorded: Path) -> None:
    document = run_status(recorded)
    assert document["recorder"] == "SmoothnessMonitor"
    assert document["state"] == "finished"
    assert in_words(document) == "recorded by SmoothnessMonitor, 360 steps of 9 loops"
    assert {(row["step"], row["steps"]) for row in trial_rows(recorded)} == {(40, 40)}


def test_no_command_of_a_sweep_touches_it(recorded: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: small\nproblem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 8}\n"
        "update_rule: {learning_rate: 0.01}\ntrain: {steps: 2}\n"
    )
    before = {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match="recorded by SmoothnessMonitor, and no sweep: it cannot be run"):
        run_sweep(load_spec(spec), out=recorded)
    with pytest.raises(RunDirectoryError, match="it cannot be run, so choose another directory with --out"):
        plan_document(load_spec(spec), out=recorded)
    with pytest.raises(RunDirectoryError, match="cannot be cancelled"):
        cancel(RunDir(recorded))
    with pytest.raises(RunDirectoryError, match="cannot be measured again"):
        estimate_run(recorded, "gradient_noise")
    with pytest.raises(RunDirectoryError, match="cannot be queued again"):
        retry(recorded, [])
    after = {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()}
    assert after == before


def test_a_sweeps_run_and_other_folders_are_refused(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    loop(sweep, steps=2)
    journal = sweep / "journal.jsonl"
    text = journal.read_text()
    # As if a driver had begun it.
    from sweeper.store.journal import Journal
    from sweeper.store.records import Opened

    journal.unlink()
    Journal(journal, 0).append(Opened(driver_epoch=1, environment={}))
    with pytest.raises(RunDirectoryError, match="holds the run of a sweep, which only `clipsweep run` adds to"):
        loop(sweep, steps=2)
    assert text != journal.read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty and does not hold a run"):
        loop(tmp_path / "other", steps=2)


def test_the_same_loop_twice_is_refused_or_replaced(tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop(out)
    text = r"with these values and seed=0 was recorded before \(seed=0: done, 40 steps\): .* repeat='replace'"
    with pytest.raises(RunDirectoryError, match=text):
        loop(out)
    loop(out, steps=20, repeat="replace")
    trials = pd.read_parquet(out / "trials.parquet")
    assert list(trials["superseded"]) == [True, False]
    assert list(trials["committed_step"]) == [40, 20]
    assert [cell.trials for cell in build_report(Run(out)).cells] == [1]
    loop(out, steps=10, repeat="replace")
    assert list(pd.read_parquet(out / "trials.parquet")["superseded"]) == [True, True, False]
    with pytest.raises(ClipsweepError, match="repeat='overwrite': must be 'refuse' or 'replace'"):
        loop(out, repeat="overwrite")


def test_a_loop_that_resumes_goes_on_with_its_trial_and_records_no_step_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop(out, steps=20)
    loop(out, steps=40, start=14)
    trials = pd.read_parquet(out / "trials.parquet")
    assert list(trials["committed_step"]) == [40]
    assert pd.read_parquet(out / "metrics.parquet")["step"].tolist() == list(range(40))
    measured = pd.read_parquet(out / "measurements" / "directional_smoothness.parquet")
    assert measured["step"].tolist() == list(range(0, 40, 2))
    assert trials["attempts"].tolist() == [2]


def test_what_raised_is_a_failed_trial_and_resuming_it_is_none(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def fails() -> None:
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with SmoothnessMonitor(model, optimizer, loss_fn, out=out, probe=data(0)):
            raise KeyError("no such\ncolumn")

    with pytest.raises(KeyError):
        fails()
    (trial,) = pd.read_parquet(out / "trials.parquet").to_dict("records")
    assert (trial["status"], trial["error"]) == ("failed", "KeyError: 'no such\\ncolumn'")
    document = run_status(out)
    assert document["failures"][0]["error"] == "KeyError: 'no such\\ncolumn'"


def test_another_way_of_measuring_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop(out, steps=2)
    with pytest.raises(
        RunDirectoryError, match=r"measured in another way:\n  estimators: .*\n.*choose another directory"
    ):
        loop(out, steps=2, seed=1, estimators={"directional_smoothness": {"method": "exact"}})
    with pytest.raises(RunDirectoryError, match=r"batches': 4.* -> .*'batches': 2"):
        loop(out, steps=2, seed=1, probe=data(1)[:2])
    # Another probe of the same size is what another seed has.
    loop(out, steps=2, seed=1)


@pytest.mark.parametrize(
    ("estimators", "text"),
    [
        ({"directional_smoothness": {"method": "grid"}}, r"\[0\].method: unknown method 'grid'\s+known: exact"),
        ({"directional_smoothness": {"delta": 0.3}}, r"\[0\].delta: 1/delta must be a whole number, found 0.3"),
        ({"gradient_noise": {"batches": 4}}, r"\[0\].batches: unknown key\s+known: use, num_batches"),
    ],
)
def test_options_that_an_estimator_does_not_take_are_refused_before_anything_is_trained(
    estimators: dict[str, dict[str, Any]], text: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ClipsweepError, match=f"^SmoothnessMonitor: measure.estimators{text}"):
        loop(out, estimators=estimators)
    assert not out.exists()


def test_a_loop_that_clips_without_having_said_so_is_warned_once_and_its_share_of_clipped_steps_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=out, probe=data(0), every=2, budget=None) as monitor:
        for batch in data(0):
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            # Every gradient is longer than that.
            monitor.clip_grad_norm_(1e-6)
            optimizer.step()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "the monitor was made without clip_norm" in warnings[0]
    assert warnings[0].endswith("hand over clip_norm=1e-06")
    run = Run(out)
    assert [(cell.has_threshold, cell.clipped_fraction) for cell in build_report(run).cells] == [(True, 1.0)]
    assert [row.clipped for row in build_answers(run).activity] == [1.0]


def test_values_tell_cells_apart_and_optimisers_are_arms(tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop(out, steps=4, values={"width": 8, "data.split": "a"})
    loop(out, steps=4, values={"width": 16, "data.split": "a"})
    loop(out, steps=4, values={"width": 16, "data.split": "a"}, rate=0.25, momentum=0.9)
    run = Run(out)
    trials = run.trials
    assert list(trials["arm"]) == ["sgd + clip_norm", "sgd + clip_norm", "sgd(momentum) + clip_norm"]
    assert list(trials["values.width"]) == [8, 16, 16]
    assert next(iter(run.values.values())) == {
        "values.width": 8,
        "data.split": "a",
        "update_rule.learning_rate": 0.5,
        "update_rule.momentum": None,
    }
    labels = list(run.state.labels().values())
    assert labels == [
        "width=8 learning_rate=0.5 momentum=none seed=0",
        "width=16 learning_rate=0.5 momentum=none seed=0",
        "width=16 learning_rate=0.25 momentum=0.9 seed=0",
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"": 1}, "'' is no name"),
        ({"a b": 1}, "'a b' is no name"),
        ({"update_rule.learning_rate": 1}, "the monitor reads it from the optimiser"),
        ({"update_rule.clip_norm": 1}, "hand it over as clip_norm"),
        ({"width": math.nan}, "width is nan; it must be a finite number"),
        ({"width": [1]}, r"width is \[1\]; it must be"),
        ({"width": 2**70}, "width is 1180"),
    ],
)
def test_values_that_are_none_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ClipsweepError, match=text):
        checked_values(values)


# Several processes, and sudden deaths

SCRIPT = """
import sys, time, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.sweeper.recording.conftest import data, loss_fn
from estimators import SmoothnessMonitor
from torch import nn

out, seed, steps, pause_s = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
torch.manual_seed(seed)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
monitor = SmoothnessMonitor(
    model, optimizer, loss_fn, out=out, every=2, budget=None, probe=data(seed), seed=seed, flush_every_s=0.05
)
for k in range(steps):
    optimizer.zero_grad()
    loss = loss_fn(model, data(seed)[k % 4])
    loss.backward()
    monitor.note(loss)
    optimizer.step()
    time.sleep(pause_s)
    print(k, flush=True)
monitor.close()
"""


def start(out: Path, seed: int, *, steps: int, pause_s: float = 0.0) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", SCRIPT, root, str(out), str(seed), str(steps), str(pause_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)


def test_processes_that_record_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = [start(out, seed, steps=40, pause_s=0.01) for seed in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    trials = pd.read_parquet(out / "trials.parquet")
    assert sorted(trials["seed"]) == [0, 1]
    assert list(trials["status"]) == ["done"] * 2
    metrics = pd.read_parquet(out / "metrics.parquet")
    assert metrics.groupby("trial_id")["step"].apply(list).tolist() == [list(range(40))] * 2
    assert len(pd.read_parquet(out / "measurements" / "directional_smoothness.parquet")) == 40
    assert not list((out / "quarantine").glob("*"))


@pytest.mark.chaos
def test_a_process_that_is_killed_loses_what_it_had_not_written_and_others_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, 0, steps=100_000, pause_s=0.005)
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    state = None
    while state is None or not any(trial.step > 30 for trial in state.trials.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if (out / "journal.jsonl").exists():
            state = read_state(out / "journal.jsonl")
    assert in_words(run_status(out)).endswith("1 loop, 1 at work")
    process.send_signal(signal.SIGKILL)
    reached = int(process.stdout.read().split()[-1])
    process.communicate()
    (trial,) = read_state(out / "journal.jsonl").trials.values()
    assert 30 < trial.step <= reached + 2
    assert in_words(run_status(out)).endswith("1 loop, 1 not closed: killed, or not seen from this host")
    # Half a commit, as a kill in the middle of one leaves it.
    (out / "parts" / "metrics-0001-999999.parquet").write_bytes(b"half")
    with (out / "journal.jsonl").open("ab") as file:
        file.write(b'{"n":99,"ty')
    loop(out, seed=1, clip_norm=None, rate=0.1)
    trials = pd.read_parquet(out / "trials.parquet")
    assert list(trials["status"]) == ["paused", "done"]
    assert list(trials["committed_step"]) == [trial.step, 40]
    metrics = pd.read_parquet(out / "metrics.parquet")
    assert len(metrics) == trial.step + 40
    assert not (out / "parts" / "metrics-0001-999999.parquet").exists()


def test_a_damaged_part_costs_its_loop_the_rows_from_there_on_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    loop(out, steps=10)
    loop(out, steps=10, seed=1)
    (part,) = (out / "parts").glob("metrics-0001-000002*")
    part.write_bytes(part.read_bytes()[:-9])
    loop(out, steps=10, seed=2)
    assert "the rows of 1 loop from there on are lost: `repeat='replace'` records it anew" in caplog.text
    trials = pd.read_parquet(out / "trials.parquet").set_index("seed")
    # The first flush, after the first snapshot, is whole.
    assert trials["committed_step"].to_dict() == {0: 1, 1: 10, 2: 10}
    assert trials["status"][[1, 2]].tolist() == ["done", "done"]
    assert list((out / "quarantine").glob("parts-metrics-0001*"))
    loop(out, steps=10, repeat="replace")
    assert len(build_report(Run(out)).cells[0].seed_losses) == 3


def test_rows_wait_while_another_process_holds_the_directory(tmp_path: Path) -> None:
    out = tmp_path / "run"
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SmoothnessMonitor(model, optimizer, loss_fn, out=out, every=1, budget=None, probe=data(0)) as monitor:
        with DriverLock(RunDir(out)).hold():
            for batch in data(0):
                loss_fn(model, batch).backward()
                optimizer.step()
            monitor.flush()
            assert read_state(out / "journal.jsonl").parts == []
        monitor.flush()
        assert len(read_state(out / "journal.jsonl").parts) == 2
    assert pd.read_parquet(out / "metrics.parquet")["step"].tolist() == [0, 1, 2, 3]


def test_a_disk_that_fails_in_the_middle_does_not_end_the_training_and_at_the_end_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = SmoothnessMonitor(model, optimizer, loss_fn, out=out, every=1, budget=None, probe=data(0))
    (out / "journal.jsonl").rename(out / "gone")
    with caplog.at_level(logging.WARNING):
        loss_fn(model, data(0)[0]).backward()
        optimizer.step()
    assert "rows could not be written, and will be tried again" in caplog.text
    with pytest.raises(RunDirectoryError, match=r"No such file .* rows of steps 0 to 1 are lost"):
        monitor.close()


def test_what_a_loop_raises_is_not_hidden_by_a_directory_that_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    optimizer = torch.optim.SGD((model := nn.Linear(4, 1)).parameters(), lr=0.1)
    monitor = SmoothnessMonitor(model, optimizer, loss_fn, out=out, probe=data(0))
    (out / "journal.jsonl").unlink()
    with pytest.raises(KeyError, match="mine"), monitor:
        raise KeyError("mine")
    assert "the last rows could not be written" in caplog.text


def test_a_loop_that_forgets_to_close_keeps_its_rows(tmp_path: Path) -> None:
    code = SCRIPT.replace("monitor.close()", "")
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", code.replace("0.05", "1e9"), root, str(tmp_path / "run"), "0", "5", "0"]
    subprocess.run(command, check=True, timeout=120, cwd=root, env=os.environ, stdout=subprocess.DEVNULL)
    (trial,) = read_state(tmp_path / "run" / "journal.jsonl").trials.values()
    assert (trial.step, trial.status()) == (5, "paused")
    document = json.loads(json.dumps(run_status(tmp_path / "run")))
    assert document["counts"] == {"paused": 1}
