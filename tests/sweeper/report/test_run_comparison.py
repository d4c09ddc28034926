"""Runs against each other: what differs, which cells are the same, and what the paired differences say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from sweeper.errors import ClipsweepError
from sweeper.report.render.run_comparison import render_comparison
from sweeper.report.run_comparison import RunsComparison, build_comparison
from sweeper.tables.run import Run

RATE, NORM, STEPS = "update_rule.learning_rate", "update_rule.clip_norm", "train.steps"
ENVIRONMENT = {
    "python": "3.12.1",
    "clipsweep": "0.1.0",
    "gpu_devices": [],
    "revisions": {"clipsweep": {"commit": "a" * 40, "branch": "main", "uncommitted_changes": False}, "spec": None},
    "code": [{"use": "own:make", "root": "/a", "sha256": "1" * 64, "files": {"own.py": "1" * 64}}],
}

MakeRun = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path, made_run: MakeRun) -> MakeRun:
    """``make("one", cells, steps=60, loss=...)``: a run with the files that say where it comes from."""

    def made(name: str, cells: list[Any], *, steps: int = 60, environment: Any = ENVIRONMENT, **options: Any) -> Run:
        run = made_run(tmp_path / "runs" / name, cells, **options)
        settings = {
            "name": name,
            "train": {"steps": steps},
            "update_rule": {"learning_rate": 5.0, "clip_norm": 0.25},
            "sweep": {"seeds": 2},
        }
        (run.path / "resolved.yaml").write_text(yaml.safe_dump(settings))
        (run.path / "environment.json").write_text(json.dumps(environment))
        return Run(run.path)

    return made


def cells_of(*pairs: tuple[float, float | None]) -> list[dict[str, Any]]:
    return [{RATE: rate, NORM: norm} for rate, norm in pairs]


TWO = cells_of((1.0, None), (1.0, 0.5))


def texts(comparison: RunsComparison) -> str:
    return render_comparison(comparison, "table")


def test_the_same_run_again_has_the_same_trials_and_the_same_rows(make: MakeRun) -> None:
    comparison = build_comparison([make("one", TWO, measured=True), make("two", TWO, measured=True)])
    (pair,) = comparison.pairs
    assert comparison.differences == ()
    assert pair.same_trials == 4
    assert pair.same_rows is not None
    assert pair.same_rows.agree
    assert pair.same_rows.rows == 4 * 41 + 4 * 10
    assert comparison.num_tests == 0, "there is nothing to test in what is the same"
    assert {loss.verdict for cell in pair.cells for loss in cell.losses} == {"no difference"}
    shown = texts(comparison)
    assert "nothing differs in spec, code and environment" in shown
    assert "all trials are the same by their ids, and the 204 rows of 4 finished trials agree bit for bit" in shown


@pytest.mark.parametrize("table", ["metrics", "measurements/directional_smoothness"])
def test_one_bit_in_one_row_is_told_with_its_place(make: MakeRun, table: str) -> None:
    one, two = make("one", TWO, measured=True), make("two", TWO, measured=True)
    file = two.path / f"{table}.parquet"
    rows = pq.read_table(file)
    column = "train_loss" if table == "metrics" else "smoothness"
    values = rows[column].to_pylist()
    values[7] = math.nextafter(values[7], math.inf)
    pq.write_table(rows.set_column(rows.column_names.index(column), column, pa.array(values)), file)
    (pair,) = build_comparison([one, two]).pairs
    assert pair.same_rows is not None
    assert (pair.same_rows.differing, pair.same_rows.missing) == (1, 0)
    step = 7 if table == "metrics" else 28
    assert pair.same_rows.first == f"{table.rpartition('/')[2]}, trial trial-0-0, step {step}, {column}"


def test_a_row_that_one_run_lacks_is_no_agreement(make: MakeRun) -> None:
    one, two = make("one", TWO), make("two", TWO)
    rows = pq.read_table(two.path / "metrics.parquet")
    pq.write_table(rows.filter(pc.field("step") != 3), two.path / "metrics.parquet")
    comparison = build_comparison([one, two])
    assert comparison.pairs[0].same_rows is not None
    assert (comparison.pairs[0].same_rows.missing, comparison.pairs[0].same_rows.agree) == (4, False)
    assert "and 4 rows of metrics in one run alone" in texts(comparison)


def test_what_differs_is_told_path_by_path(make: MakeRun) -> None:
    files = {"own.py": "2" * 64, "new.py": "3" * 64}
    later: dict[str, Any] = {
        **ENVIRONMENT,
        "python": "3.13.0",
        "revisions": {"clipsweep": {"commit": "b" * 40, "uncommitted_changes": True}, "spec": None},
        "code": [{"use": "own:make", "root": "/b", "sha256": "2" * 64, "files": files}],
    }
    one, two = make("one", TWO), make("two", TWO, steps=80, environment=later, prefix="other-")
    found = {(row.kind, row.path): dict(row.values) for row in build_comparison([one, two]).differences}
    assert found == {
        ("spec", "train.steps"): {"one": 60, "two": 80},
        ("code", "clipsweep commit"): {"one": "a" * 40, "two": "b" * 40},
        ("code", "clipsweep uncommitted changes"): {"one": False, "two": True},
        ("code", "own:make"): {"one": "1" * 64, "two": "2" * 64},
        ("code", "own:make own.py"): {"one": "1" * 64, "two": "2" * 64},
        ("code", "own:make new.py"): {"two": "3" * 64},
        ("environment", "python"): {"one": "3.12.1", "two": "3.13.0"},
    }


def test_files_that_cannot_be_read_are_named_and_no_error(make: MakeRun) -> None:
    one, two = make("one", TWO), make("two", TWO)
    (two.path / "resolved.yaml").unlink()
    (two.path / "environment.json").write_text("[" * 100_000)
    comparison = build_comparison([one, two])
    assert any("two has no resolved.yaml and no environment.json" in note for note in comparison.notes)
    assert comparison.pairs[0].same_trials == 4


def test_cells_of_other_settings_are_matched_by_what_is_swept(make: MakeRun) -> None:
    one = make("one", cells_of((1.0, None), (2.0, None), (3.0, None)), loss=lambda swept, seed: 1.0 + seed)
    others = [{RATE: 2, NORM: None}, {RATE: 1, NORM: None}, {RATE: 4, NORM: None}]
    two = make("two", others, steps=80, prefix="other-", loss=lambda swept, seed: 1.5 + seed)
    (pair,) = build_comparison([one, two]).pairs
    assert [(cell.values["learning_rate"], cell.cell_ids) for cell in pair.cells] == [
        (1.0, ("cell-0", "other-cell-1")),
        (2.0, ("cell-1", "other-cell-0")),
    ]
    assert (pair.only_reference, pair.only_other) == (("learning_rate=3",), ("learning_rate=4",))
    (loss,) = pair.cells[0].losses
    assert (loss.loss, loss.reference, loss.other, loss.difference.count) == ("best_valid_loss", 1.5, 2.0, 2)
    assert loss.difference.mean == loss.difference.low == 0.5
    assert pair.same_rows is None


def test_what_a_run_does_not_sweep_has_the_value_of_its_spec(make: MakeRun) -> None:
    one = make("one", cells_of((1.0, 0.25), (1.0, None)))
    two = make("two", [{RATE: 1.0}], prefix="other-")
    (pair,) = build_comparison([one, two]).pairs
    assert [cell.values for cell in pair.cells] == [{"learning_rate": 1.0, "clip_norm": 0.25}]
    assert pair.only_other == ()


def test_better_is_decided_with_all_cells_counted(make: MakeRun) -> None:
    cells = cells_of(*((float(rate), None) for rate in range(1, 9)))
    noise = [0.0, 0.03, -0.02, 0.01]

    def after(swept: Any, seed: int) -> float:
        # The first cell is clearly better; the second is so only where it is tested alone.
        gain = {1.0: 1.0, 2.0: 0.045}.get(swept[RATE], 0.0)
        return 2.0 + seed - gain + noise[(seed + int(swept[RATE])) % 4]

    one = make("one", cells, seeds=4, loss=lambda swept, seed: 2.0 + seed)
    comparison = build_comparison([one, make("two", cells, seeds=4, prefix="other-", loss=after)])
    (pair,) = comparison.pairs
    verdicts = [cell.losses[0].verdict for cell in pair.cells]
    assert verdicts == ["better", *["undecided"] * 7]
    second = pair.cells[1].losses[0]
    assert second.p_value < 0.05 < second.p_adjusted
    assert comparison.num_tests == 8
    assert pair.overall[0].difference.count == 4
    assert pair.overall[0].p_adjusted == pair.overall[0].p_value, "a question of its own"
    assert "over all 8 cells in common" in texts(comparison)
    assert "8 tests of cells" in texts(comparison)


def test_seeds_that_diverged_in_one_run_are_not_paired(make: MakeRun) -> None:
    one = make("one", TWO, loss=lambda swept, seed: 1.0 + seed)
    two = make("two", TWO, prefix="o", diverges=lambda swept, seed: swept[NORM] is None and seed == 0)
    first, second = build_comparison([one, two]).pairs[0].cells
    assert (first.losses[0].difference.count, second.losses[0].difference.count) == (1, 2)
    assert first.losses[0].verdict == "one seed says nothing about chance"
    assert dict(first.statuses[1]) == {"diverged": 1, "done": 1}


def test_the_first_of_several_runs_is_the_reference(make: MakeRun) -> None:
    runs = [make(name, TWO, prefix=name, loss=lambda *_, at=at: 1.0 + at) for at, name in enumerate("abc")]
    comparison = build_comparison(runs)
    assert comparison.reference == "a"
    assert [(pair.other, pair.cells[0].losses[0].difference.mean) for pair in comparison.pairs] == [
        ("b", 1.0),
        ("c", 2.0),
    ]
    assert len(build_comparison(runs, where=["seed=0 and clip_norm=none"]).pairs[0].cells) == 1
    shown = texts(comparison)
    assert "cells in common, b against a" in shown
    assert "cells in common, c against a" in shown


def test_wrong_runs_are_refused(make: MakeRun) -> None:
    one = make("one", TWO)
    with pytest.raises(ClipsweepError, match="takes two runs or more"):
        build_comparison([one])
    with pytest.raises(ClipsweepError, match="given twice"):
        build_comparison([one, Run(one.path)])


def test_runs_without_a_common_cell_are_told_so(make: MakeRun) -> None:
    comparison = build_comparison([make("one", TWO), make("two", cells_of((7.0, None)), prefix="other-")])
    assert "two against one: no cell in common" in texts(comparison)
    assert render_comparison(comparison, "csv").count("\n") == 0
