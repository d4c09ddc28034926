"""Reports on made-up runs whose answers are known."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.driver.commit import Committer
from sweeper.driver.open_segments import OpenSegment
from sweeper.errors import ClipsweepError
from sweeper.formats import FORMATS
from sweeper.protocol.events import SegmentId
from sweeper.protocol.messages import SegmentFacts, SegmentItem
from sweeper.report.plots.draw import draw
from sweeper.report.render.summary import render
from sweeper.report.summary import build_report
from sweeper.store.journal import Journal, RunState
from sweeper.store.planned_trials import TrialRecord
from sweeper.store.records import Opened, Planned
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

RATE, CLIP = "update_rule.learning_rate", "update_rule.clip_norm"


FACTS = SegmentFacts(
    num_steps=10,
    num_clipped=0,
    last_finite_loss=1.0,
    started_at=0.0,
    ended_at=1.0,
    train_s=1.0,
    evaluate_s=0.0,
    host="here",
    pid=1,
    data="made up",
)


class MadeUpRun:
    """Writes a run with given losses through the same committer as a real one."""

    def __init__(self, path: Path) -> None:
        self.run_dir = RunDir(path)
        self.run_dir.create()
        self.committer = Committer(self.run_dir, Journal(self.run_dir.journal, 0), RunState(), measurement="m1")
        self.committer.record(Opened(driver_epoch=1, environment={}))

    def add(
        self,
        rate: float,
        clip: float | None,
        seed: int,
        *,
        loss: float = 1.0,
        valid: float | None = None,
        outcome: str = "done",
        clipped: float = 0.0,
        exponent: float | None = None,
        metrics: Mapping[str, tuple[float, float]] | None = None,
        declared: Mapping[str, str] | None = None,
    ) -> None:
        name = f"trial-{rate}-{clip}-{seed}"
        trial = TrialRecord(
            trial_id=name,
            cell_id=f"cell-{rate}-{clip}",
            arm="sgd" if clip is None else "sgd + clip_norm",
            seed=seed,
            swept={RATE: rate, CLIP: clip},
            learning_rate=rate,
            clip_norm=clip,
            steps=10,
        )
        self.committer.record(Planned(measurement="m1", measure={}, trials=(trial,)))
        if outcome == "failed":
            self.committer.note_failure(name, 1, "raised", "ValueError: no", final=True)
            return
        step = np.arange(11)
        columns: dict[str, np.ndarray[Any, Any]] = {"step": step, "epoch": step / 5, "clipped": step < 0}
        columns |= {key: np.full(11, loss) for key in ("train_loss", "grad_norm", "step_size", "update_norm")}
        columns["learning_rate"] = np.full(11, rate)
        if valid is not None:
            columns["valid_loss"] = np.where(step == 10, valid, np.nan)
        for metric, (middle, last) in (metrics or {}).items():
            columns[metric] = np.where(step == 10, last, np.where(step == 5, middle, np.nan))
        diverged = {"diverged_step": 7, "last_finite_loss": 3.0} if outcome == "diverged" else {}
        item = SegmentItem(
            segment=SegmentId(name, 1, 0),
            start=0,
            stop=10,
            rows=columns,
            checkpoint=None,
            outcome=outcome,
            facts=replace(FACTS, num_clipped=round(10 * clipped), metrics=declared or {}, **diverged),
        )
        segment = OpenSegment(item=item)
        if exponent is not None:
            for k in range(5):
                norm = 2.0**k
                measured = {"smoothness": norm**exponent, "smoothness_by_fraction": [1.0], "snr": 100.0}
                row = {"trial_id": name, "step": k, "epoch": 0.0, "loss": 1.0, "grad_norm": norm, **measured}
                segment.add({"directional_smoothness": row}, 0.1)
            # Rounding only: must stay out of the correlation.
            noise = {"smoothness": 1e6, "snr": 0.5, "smoothness_by_fraction": [1.0]}
            segment.add({"directional_smoothness": {"trial_id": name, "step": 9, "grad_norm": 1e-3, **noise}}, 0.1)
        self.committer.add(SegmentId(name, 1, 0), segment)
        self.committer.commit(force=True, running=frozenset())

    def read(self) -> Run:
        self.committer.refresh()
        return Run(self.run_dir.path)


@pytest.fixture
def made_up(tmp_path: Path) -> MadeUpRun:
    run = MadeUpRun(tmp_path / "run")
    for seed in (0, 1, 2):
        run.add(1.0, None, seed, loss=2.0, valid=2.5 + 0.01 * seed)
        run.add(20.0, None, seed, outcome="diverged" if seed else "done", loss=9.0, valid=9.0)
        run.add(1.0, 0.25, seed, loss=3.0, valid=3.5, clipped=0.9, exponent=1.0)
        run.add(20.0, 0.25, seed, loss=1.0, valid=1.5 + 0.01 * seed, clipped=0.5, exponent=2.0)
    return run


def test_cells_are_aggregated_over_their_seeds(made_up: MadeUpRun) -> None:
    report = build_report(made_up.read())
    assert next(cell.values for cell in report.cells) == {"learning_rate": 1.0, "clip_norm": None}
    cells = {(cell.values["learning_rate"], cell.values["clip_norm"]): cell for cell in report.cells}
    best = cells[20.0, 0.25].losses["best_valid_loss"]
    assert best.mean == pytest.approx(1.51)
    assert math.log(best.high / best.mean) == pytest.approx(4.302653 * 0.01 / math.sqrt(3) / 1.51, rel=1e-5)
    assert cells[20.0, 0.25].clipped_fraction == pytest.approx(0.5)
    assert cells[20.0, 0.25].correlation.mean == pytest.approx(1.0)
    assert cells[20.0, 0.25].points == 15, "snapshots below their noise floor are left out"


def test_diverged_seeds_are_counted_and_stay_in_the_table(made_up: MadeUpRun) -> None:
    report = build_report(made_up.read())
    cell = next(cell for cell in report.cells if cell.values == {"learning_rate": 20.0, "clip_norm": None})
    assert (cell.diverged, cell.seeds) == (2, 3)
    assert cell.losses["best_valid_loss"].count == 1, "only the seed that ended has a final loss"


def test_the_best_of_an_arm_is_a_cell_all_of_whose_seeds_ended(made_up: MadeUpRun) -> None:
    report = build_report(made_up.read())
    bests = {best.arm: best for best in report.bests}
    assert bests["sgd"].cell is not None
    assert bests["sgd"].cell.values["learning_rate"] == 1.0
    assert bests["sgd + clip_norm"].cell is not None
    assert bests["sgd + clip_norm"].cell.values["learning_rate"] == 20.0
    assert bests["sgd"].cells_tried == 2


def test_arms_are_compared_seed_by_seed(made_up: MadeUpRun) -> None:
    report = build_report(made_up.read())
    (comparison,) = report.comparisons
    assert (comparison.first, comparison.second) == ("sgd + clip_norm", "sgd")
    # Both arms get worse by 0.01 a seed: the pairing takes that out to the last digit.
    assert comparison.difference.mean == pytest.approx(-1.0)
    assert comparison.difference.high - comparison.difference.low == pytest.approx(0, abs=1e-9)
    assert comparison.verdict == "sgd + clip_norm is better"
    line = (
        "sgd + clip_norm is better than sgd by 1 in best valid loss (3 paired seeds, the best of 2 cells against the "
    )
    assert line in render(report, "table")


def test_clipping_is_compared_with_no_clipping_whichever_is_planned_first(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for seed in (0, 1, 2):
        run.add(1.0, 0.25, seed, loss=3.0 + 0.1 * seed)
        run.add(1.0, None, seed, loss=2.0)
    report = build_report(run.read())
    (comparison,) = report.comparisons
    assert (comparison.first, comparison.second) == ("sgd + clip_norm", "sgd")
    line = "sgd + clip_norm is worse than sgd by 1.10 [0.85, 1.35] in final train loss (3 paired seeds)"
    assert line in render(report, "table")


def test_an_interval_across_zero_decides_nothing(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for seed, (plain, clipped) in enumerate([(1.0, 2.0), (2.0, 1.0), (1.5, 1.6)]):
        run.add(1.0, None, seed, loss=plain)
        run.add(1.0, 0.25, seed, loss=clipped)
    (comparison,) = build_report(run.read()).comparisons
    assert comparison.verdict == "undecided at 95 %"


def test_one_seed_says_nothing_of_chance(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, loss=2.0)
    run.add(1.0, 0.25, 0, loss=1.0)
    (comparison,) = build_report(run.read()).comparisons
    assert comparison.verdict == "one seed says nothing about chance"


def test_an_arm_that_always_fails_has_no_best_and_is_named(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, loss=2.0)
    run.add(1.0, 0.25, 0, outcome="failed")
    report = build_report(run.read())
    assert [best.cell is None for best in report.bests] == [False, True]
    assert report.statuses == {"done": 1, "failed": 1}
    assert "best sgd + clip_norm: no cell finished with all its seeds" in render(report, "table")


def test_rows_can_be_grouped_filtered_and_sorted(made_up: MadeUpRun) -> None:
    run = made_up.read()
    assert [(cell.seeds, cell.trials) for cell in build_report(run, by=["clip_norm"]).cells] == [(3, 6), (3, 6)]
    assert [(cell.seeds, cell.trials) for cell in build_report(run, by=[CLIP]).cells] == [(3, 6), (3, 6)]
    assert len(build_report(run, where=["learning_rate=20", "clip_norm=none"]).cells) == 1
    by_loss = build_report(run, sort="-final_train_loss").cells
    losses = [cell.losses["final_train_loss"].mean for cell in by_loss]
    assert losses == [3.0, 2.0, 1.0, 9.0], "the mean of survivors, which is the largest, is not among those of all"
    assert [bool(cell.left_out) for cell in by_loss] == [False, False, False, True]
    by_clip = [cell.values["clip_norm"] for cell in build_report(run, sort="clip_norm").cells]
    assert by_clip == [0.25, 0.25, None, None], "what has no value stands last"


def test_a_number_is_found_as_the_table_prints_it(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for rate in (0.1, 10**-0.5, 1.00001, 1.00002):
        run.add(rate, None, 0)
    read = run.read()
    (cell,) = build_report(read, where=["learning_rate=0.3162"]).cells
    assert cell.values["learning_rate"] == 10**-0.5
    assert "0.3162" in render(build_report(read), "table")
    assert len(build_report(read, where=["learning_rate=1.00001"]).cells) == 1
    with pytest.raises(ClipsweepError, match=r"learning_rate=1'.*means 1\.00001 or 1\.00002; write all digits"):
        build_report(read, where=["learning_rate=1"])
    with pytest.raises(
        ClipsweepError, match=r"no trial has this value; learning_rate is 0\.1, 0\.316228, 1\.00001 or 1\.00002$"
    ):
        build_report(read, where=["learning_rate=0.316"])


def test_a_row_of_several_cells_averages_within_each_seed_and_its_interval_is_over_seeds(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for rate in (1.0, 2.0, 3.0):
        for seed in (0, 1):
            run.add(rate, None, seed, loss=rate + 0.1 * seed)
    report = build_report(run.read(), by=["clip_norm"])
    (cell,) = report.cells
    assert (cell.seeds, cell.trials) == (2, 6)
    loss = cell.losses["final_train_loss"]
    # Seeds 2.0 and 2.1: the rates, which differ by 1, are not replications.
    assert (loss.count, loss.mean) == (2, pytest.approx(2.05))
    assert math.log(loss.high / loss.mean) == pytest.approx(12.7062 * 0.05 / 2.05, rel=1e-4)
    assert "2 (6 trials)" in render(report, "table")
    assert "done)" not in render(report, "table"), "nothing is left out"
    (row,) = csv.DictReader(io.StringIO(render(report, "csv")))
    assert (row["seeds"], row["trials"], row["left_out"]) == ("2", "6", "")


def test_a_mean_over_survivors_says_so_at_the_loss_in_every_format(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for seed in (0, 1, 2):
        run.add(1.0, None, seed, loss=1.0 + seed, outcome="diverged" if seed == 2 else "done")
        run.add(2.0, None, seed, loss=3.0 + seed, outcome="diverged" if seed else "done")
        run.add(3.0, None, seed, outcome="diverged" if seed else "failed")
    report = build_report(run.read(), by=["clip_norm"])
    (cell,) = report.cells
    # Seed 0 is the mean of 1 and 3, seed 1 is 2; all trials of seed 2 diverged.
    assert (cell.losses["final_train_loss"].count, cell.losses["final_train_loss"].mean) == (2, 2.0)
    sentence = "5 of 9 trials diverged and 1 failed; the mean is of the 3 that are done"
    for style in ("table", "md"):
        assert "2 (3 of 9 done)" in render(report, style)
        assert f"the only row: {sentence}" in render(report, style)
    assert json.loads(render(report, "json"))["cells"][0]["left_out"] == sentence
    (row,) = csv.DictReader(io.StringIO(render(report, "csv")))
    assert row["left_out"] == sentence
    # A row that is a single cell is marked, too; one without any loss has none to mark.
    shown = render(build_report(Run(run.run_dir.path)), "md")
    assert "(2 of 3 done)" in shown
    assert "learning_rate=2: 2 of 3 trials diverged; the mean is of the 1 that is done" in shown
    assert "learning_rate=3" not in shown


def test_rows_of_which_the_same_is_to_be_said_share_a_line(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for rate in range(1, 8):
        for seed in (0, 1):
            run.add(float(rate), None, seed, outcome="diverged" if seed else "done")
    shown = render(build_report(run.read(), by=["learning_rate"]), "table")
    (line,) = (line for line in shown.splitlines() if "the mean is of" in line)
    assert line.endswith("learning_rate=4 and 3 more rows: 1 of 2 trials diverged; the mean is of the 1 that is done")


def test_the_clipped_share_of_a_row_is_of_all_its_trials(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for seed in (0, 1):
        run.add(1.0, 0.25, seed, clipped=0.8)
        run.add(1.0, None, seed)
        # Nothing of these was trained, so nothing is known of them.
        run.add(2.0, 0.25, seed, clipped=0.8)
        run.add(2.0, None, seed, outcome="failed")
        run.add(3.0, None, seed)
    report = build_report(run.read(), by=["learning_rate"])
    assert [cell.clipped_fraction for cell in report.cells] == pytest.approx([0.4, 0.8, math.nan], nan_ok=True)
    (note,) = (note for note in report.notes if "never clipped" in note)
    assert "in 2 rows some of them have no threshold" in note
    assert [cell["clipped_fraction"] for cell in json.loads(render(report, "json"))["cells"]] == [0.4, 0.8, None]
    cells = build_report(Run(run.run_dir.path))
    assert [cell.clipped_fraction for cell in cells.cells][:2] == pytest.approx([0.8, math.nan], nan_ok=True)
    assert not any("never clipped" in note for note in cells.notes)


def best_of(run: Run, metric: str) -> float:
    return float(run.trials[f"best_{metric}"].iloc[0])


@pytest.mark.parametrize("metric", ["valid_acc", "acc", "f1", "auc", "r2", "accuracy_top5", "Accuracy"])
def test_the_best_of_a_metric_whose_name_says_so_is_its_maximum(tmp_path: Path, metric: str) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, metrics={metric: (0.9, 0.5)})
    read = run.read()
    assert best_of(read, metric) == 0.9
    report = build_report(read)
    assert f"best {metric.replace('_', ' ')} (max)" in render(report, "table")
    assert f"best {metric.replace('_', ' ')} (max)" in render(report, "md")
    assert json.loads(render(report, "json"))["directions"] == {f"best_{metric}": "max"}
    (row,) = csv.DictReader(io.StringIO(render(report, "csv")))
    assert (row[f"best_{metric}"], row[f"best_{metric}_direction"]) == ("0.9", "max")
    assert "no direction is declared" not in render(report, "table")


@pytest.mark.parametrize("metric", ["valid_loss", "top1_error", "fid_score", "valid_ppl"])
def test_losses_and_errors_are_minimised(tmp_path: Path, metric: str) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, metrics={metric: (0.4, 0.5)})
    assert best_of(run.read(), metric) == 0.4
    assert f"best {metric.replace('_', ' ')} (min)" in render(build_report(run.read()), "table")


def test_an_unknown_metric_is_minimised_and_the_report_says_so_once(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, metrics={"foo": (0.9, 0.5)})
    run.add(1.0, None, 1, metrics={"foo": (0.9, 0.5)})
    assert best_of(run.read(), "foo") == 0.5
    shown = render(build_report(run.read()), "table")
    line = "best_foo is its minimum: no direction is declared for foo (metrics: {foo: max} in the spec)"
    assert shown.count(line) == 1


def test_the_problem_declares_a_direction_and_the_last_spec_overrides_it(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, metrics={"foo": (0.9, 0.5), "acc": (0.9, 0.5)}, declared={"foo": "max", "acc": "min"})
    read = run.read()
    assert (best_of(read, "foo"), best_of(read, "acc")) == (0.9, 0.5)
    assert build_report(read).directions == {"best_acc": "min", "best_foo": "max"}
    run.committer.record(Planned(measurement="m1", measure={}, metrics={"foo": "min", "fo": "max"}))
    # The journal is ahead of the table, as after a crash: the table is corrected as it is read.
    assert best_of(Run(run.run_dir.path), "foo") == 0.5
    read = run.read()
    assert (best_of(read, "foo"), best_of(read, "acc")) == (0.5, 0.5)
    assert "the spec's metrics name fo, which no trial has; known: acc, foo" in render(build_report(read), "table")
    run.committer.record(Planned(measurement="m1", measure={}, metrics={}))
    assert best_of(run.read(), "foo") == 0.9


def test_a_table_of_an_earlier_version_is_corrected_as_it_is_read(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, metrics={"valid_acc": (0.9, 0.5), "valid_loss": (0.4, 0.6)})
    read = run.read()
    path = run.run_dir.path / "trials.parquet"
    old = pq.read_table(path)
    place = old.column_names.index("best_valid_acc")
    old = old.set_column(place, "best_valid_acc", pa.array([0.5])).replace_schema_metadata(None)
    pq.write_table(old, path)
    read = Run(run.run_dir.path)
    assert (best_of(read, "valid_acc"), best_of(read, "valid_loss")) == (0.9, 0.4)


def test_an_arm_without_the_metric_by_which_cells_are_ranked_is_named_as_that(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0, valid=2.0)
    run.add(2.0, None, 0, loss=0.1)
    run.add(1.0, 0.25, 0, loss=0.1)
    report = build_report(run.read())
    shown = render(report, "table")
    assert "best sgd + clip_norm: has no best_valid_loss (1 cell tried" in shown
    assert "no cell finished" not in shown
    assert "* best sgd: learning_rate=1 no clipping" in shown
    assert "(2 cells tried, 1 of them without best_valid_loss)" in shown
    bests = json.loads(render(report, "json"))["best"]
    assert [(best["why_none"], best["unranked"]) for best in bests] == [(None, 1), ("has no best_valid_loss", 1)]


def test_a_loss_that_the_spec_maximises_is_ranked_and_compared_that_way(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    for seed in (0, 1):
        run.add(1.0, None, seed, valid=2.0 + 0.01 * seed)
        run.add(1.0, 0.25, seed, valid=1.0 + 0.01 * seed)
        run.add(2.0, None, seed, valid=0.5)
    run.committer.record(Planned(measurement="m1", measure={}, metrics={"valid_loss": "max"}))
    report = build_report(run.read())
    assert report.bests[0].cell is not None
    assert report.bests[0].cell.values["learning_rate"] == 1.0
    assert report.comparisons[0].verdict == "sgd is better"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ["rate"]}, "no column 'rate'; known: learning_rate, clip_norm"),
        ({"where": ["clip_norm"]}, "expected column=value"),
        ({"where": ["clip_norm=7"]}, "clip_norm=7': no trial has this value; clip_norm is none or 0.25"),
        ({"sort": "beauty"}, "--sort 'beauty': no such column"),
    ],
)
def test_unknown_columns_and_empty_choices_are_errors(
    made_up: MadeUpRun, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClipsweepError, match=message):
        build_report(made_up.read(), **options)


def test_every_format_shows_every_cell(made_up: MadeUpRun) -> None:
    report = build_report(made_up.read())
    for style in FORMATS:
        assert "0.25" in render(report, style)
    assert "1.510 ± 0.025" in render(report, "table")
    assert "1.510 ± 0.025" in render(report, "md")
    rows = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    assert [float(row["best_valid_loss"]) for row in rows] == pytest.approx([2.51, 9.0, 3.5, 1.51])
    document = json.loads(render(report, "json"))
    assert document["comparisons"][0]["verdict"] == "sgd + clip_norm is better"
    assert "NaN" not in render(report, "json")


def test_a_formula_in_a_value_is_defused_in_csv_and_markup_is_text_in_the_table(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0)
    trials = run.committer.state.trials
    next(iter(trials.values())).record.swept["problem.corpus"] = "=cmd|'[red]x'"
    run.committer.refresh()
    report = build_report(_frozen(run))
    assert "'=cmd|" in render(report, "csv")
    assert "[red]x" in render(report, "table")


def test_an_option_of_ones_own_called_trials_keeps_its_column_in_csv(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0)
    next(iter(run.committer.state.trials.values())).record.swept["problem.trials"] = 7
    run.committer.refresh()
    (row,) = csv.DictReader(io.StringIO(render(build_report(_frozen(run)), "csv")))
    assert (row["problem.trials"], row["trials"]) == ("7", "1")


def _frozen(run: MadeUpRun) -> Run:
    """The run with the state that the committer holds, in place of the journal's."""
    read = Run(run.run_dir.path)
    read.__dict__["state"] = run.committer.state
    return read


@pytest.mark.parametrize("kind", ["smoothness", "loss"])
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_plots_are_pictures(made_up: MadeUpRun, tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"{kind}{suffix}"
    draw(made_up.read(), kind, file)
    signature: Sequence[bytes] = {".png": (b"\x89PNG",), ".svg": (b"<?xml",), ".pdf": (b"%PDF",)}[suffix]
    assert file.read_bytes().startswith(tuple(signature))


def test_a_plot_of_nothing_is_an_error(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.add(1.0, None, 0)
    with pytest.raises(ClipsweepError, match="no directional smoothness was measured"):
        draw(run.read(), "smoothness", tmp_path / "x.png")
    with pytest.raises(ClipsweepError, match="no plot 'histogram'; known: smoothness, loss"):
        draw(run.read(), "histogram", tmp_path / "x.png")
    with pytest.raises(ClipsweepError, match=r"unknown picture format '.gif'"):
        draw(run.read(), "loss", tmp_path / "x.gif")
