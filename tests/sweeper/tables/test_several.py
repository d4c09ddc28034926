"""Several runs as one: every trial once, what distinguishes them in columns, and figures of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.errors import RunDirectoryError
from sweeper.report.plots.draw import draw
from sweeper.report.plots.loss import loss
from sweeper.report.select import select
from sweeper.tables.run import Run
from sweeper.tables.several import SeveralRuns

InlineRun = Callable[..., Any]

SPEC = """
problem: {{use: deep_linear, layers: 2, width: {width}, samples: 8, data_seed: {data_seed}}}
update_rule: {{learning_rate: 0.01}}
train: {{steps: {steps}, evaluate_every: 2}}
measure: {{every: 2, data_fraction: 1, estimators: [{{use: directional_smoothness, delta: 0.5}}]}}
sweep: {{grid: {{{grid}}}, seeds: {seeds}}}
"""
RATES = "update_rule.learning_rate: [0.01, 0.02]"


def spec(**changed: Any) -> str:
    text = SPEC if "data_seed" in changed else SPEC.replace(", data_seed: {data_seed}", "")
    return text.format(**{"width": 3, "steps": 6, "grid": RATES, "seeds": 1, **changed})


@pytest.fixture
def narrow(inline_run: InlineRun) -> Path:
    return Path(inline_run(spec(), name="narrow")().run_dir.path)


@pytest.fixture
def wide(inline_run: InlineRun) -> Path:
    grid = "problem.width: [4, 5], update_rule.clip_norm: [null, 0.1]"
    return Path(inline_run(spec(grid=grid), name="wide")().run_dir.path)


def test_what_one_run_sweeps_is_filled_in_for_the_other(narrow: Path, wide: Path) -> None:
    several = SeveralRuns([narrow, wide])
    assert several.names == ["narrow/run", "wide/run"]
    assert several.swept == ["run", "update_rule.learning_rate", "problem.width", "update_rule.clip_norm"]
    trials = several.trials
    assert trials.groupby("run")["problem.width"].unique().map(sorted).to_dict() == {
        "narrow/run": [3.0],
        "wide/run": [4.0, 5.0],
    }
    assert trials.groupby("run")["update_rule.learning_rate"].unique().map(sorted).to_dict() == {
        "narrow/run": [0.01, 0.02],
        "wide/run": [0.01],
    }
    assert len(several.metrics) == len(Run(narrow).metrics) + len(Run(wide).metrics)
    assert len(several.measurements()) == len(Run(narrow).measurements()) + len(Run(wide).measurements())
    of_wide = trials.loc[trials["run"] == "wide/run", "trial_id"]
    assert {several.folder_of(trial) for trial in of_wide} == {wide}


def test_a_trial_that_both_hold_counts_once(narrow: Path, inline_run: InlineRun) -> None:
    grown = Path(inline_run(spec(seeds=2), name="grown")().run_dir.path)
    several = SeveralRuns([narrow, grown])
    assert sorted(several.trials["run"]) == ["grown/run", "grown/run", "narrow/run", "narrow/run"]
    pd.testing.assert_frame_equal(
        several.metrics.sort_values(["trial_id", "step"], ignore_index=True),
        Run(grown).metrics.sort_values(["trial_id", "step"], ignore_index=True),
        check_dtype=False,
    )
    assert len(several.state.trials) == 4


def test_a_run_given_twice_and_what_is_no_run_are_refused(narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="one of the runs is given twice"):
        SeveralRuns([narrow, narrow.parent / ".." / "narrow" / "run"])
    with pytest.raises(RunDirectoryError, match="no such directory"):
        SeveralRuns([narrow, tmp_path / "nowhere"])


@pytest.mark.parametrize("kind", ["loss", "smoothness", "fit", "frontier"])
def test_figures_show_the_cells_of_both(kind: str, narrow: Path, wide: Path, tmp_path: Path) -> None:
    rows = draw(SeveralRuns([narrow, wide]), kind, tmp_path / "both.png", dpi=40)
    assert {row["run"] for row in rows if "run" in row} == {"narrow/run", "wide/run"}
    assert len({row["cell_id"] for row in rows if "cell_id" in row}) == 6


def test_problems_of_different_lengths_have_axes_of_their_own(narrow: Path, inline_run: InlineRun) -> None:
    longer = Path(inline_run(spec(steps=40, width=6), name="long")().run_dir.path)
    several = SeveralRuns([narrow, longer])
    axes = [axis for axis in loss(several, select(several, ())).axes if axis.get_ylabel() == "training loss"]
    assert sorted(round(axis.get_xlim()[1]) for axis in axes) == [6, 41]
    alone = Run(longer)
    (figure,) = [loss(alone, select(alone, ()))]
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
