"""Hill's plot of a run: deviations in units of their snapshot, a line per seed, and what it says without them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from estimators.fits.tails import hill_curve
from sweeper.errors import ClipsweepError
from sweeper.report.noise import deviations_of
from sweeper.report.plots.draw import draw
from sweeper.tables.run import Run


class Noisy:
    """Just enough of a run for its noise."""

    path = "made-up"
    measurement = None
    estimators = ("gradient_noise",)

    def __init__(self, rows):
        self.state = SimpleNamespace(measurements={"m": None})
        self._rows = pd.DataFrame(rows)

    def measurements(self, name):
        return self._rows


def row(trial, deviations, measurement="m"):
    return {"trial_id": trial, "step": 0, "measurement_id": measurement, "tau": 1.0, "deviations": deviations}


TRIALS = pd.DataFrame({"trial_id": ["a", "b"], "cell_id": ["x", "x"]})


def test_deviations_are_in_units_of_their_snapshot_and_a_trial_has_those_of_all():
    run = Noisy([row("a", [1.0, 2.0, 4.0]), row("a", [10.0, 20.0, 80.0]), row("b", [3.0, 3.0, 6.0])])
    found = deviations_of(run, TRIALS)
    np.testing.assert_allclose(found["a"], [0.5, 1, 2, 0.5, 1, 4])
    np.testing.assert_allclose(found["b"], [1, 1, 2])


def test_snapshots_measured_again_or_without_noise_do_not_count():
    run = Noisy([row("a", [1.0, 2.0, 4.0]), row("a", [9.0, 9.0], "again"), row("b", [0.0, 0.0]), row("b", None)])
    assert list(deviations_of(run, TRIALS)) == ["a"]


@pytest.mark.parametrize("rows", [[row("a", None)], [{"trial_id": "a", "measurement_id": "m", "tau": 1.0}]])
def test_tables_without_deviations_say_which_estimator_measures_them(rows):
    with pytest.raises(ClipsweepError, match="use the estimator gradient_noise"):
        deviations_of(Noisy(rows), TRIALS)


SPEC = """
problem: {use: deep_linear, layers: 3, width: 6, samples: 32, batch_size: 4}
update_rule: {learning_rate: 0.01}
train: {steps: 12}
measure:
  every: 2
  data_fraction: 1
  estimators: [{use: directional_smoothness, delta: 0.5}, {use: gradient_noise, num_batches: 8}]
sweep: {grid: {update_rule.clip_norm: [null, 0.5]}, seeds: 2}
"""


def test_hill_s_plot_of_a_real_run_has_a_line_per_seed_and_all_its_numbers(module_inline_run, tmp_path):
    run = Run(module_inline_run(SPEC).run_dir.path)
    drawn = draw(run, "noise", tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 5000
    # Six snapshots of eight batches, and one k fewer.
    assert pd.DataFrame(drawn).groupby("seed").size().tolist() == [94, 94]
    first = next(iter(deviations_of(run, run.trials).values()))
    k, alpha = hill_curve(first)
    assert [row["tail_index"] for row in drawn[:47]] == pytest.approx(alpha.tolist())
    assert [row["k"] for row in drawn[:47]] == k.tolist()


def test_too_few_deviations_say_what_would_give_more(module_inline_run, tmp_path):
    run = Run(module_inline_run(SPEC.replace("steps: 12", "steps: 2")).run_dir.path)
    with pytest.raises(ClipsweepError, match=r"more than 10 deviations .* num_batches of gradient_noise"):
        draw(run, "noise", tmp_path / "noise.png")
