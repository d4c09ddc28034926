"""L0 and L1 layer by layer: known constants come back, noise stays out, and a real run has a row per tensor."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sweeper.errors import ClipsweepError
from sweeper.report.other_fits import fit_layers
from sweeper.report.render.fits import render_fits
from sweeper.tables.run import Run

LAYERS = {"body": (2.0, 0.5), "head": (0.1, 8.0)}
"""Tensor to its L0 and L1."""


class Layered:
    """Just enough of a run: two seeds of one cell, 60 snapshots, two tensors with constants of their own."""

    path = "made-up"
    swept = ("update_rule.learning_rate",)
    measurement = None
    estimators = ("layer_smoothness",)

    def __init__(self, snr=100.0):
        self.state = SimpleNamespace(measurements={"m": None}, cases={}, recorder=None)
        self.values = {f"trial-{seed}": {"update_rule.learning_rate": 1.0} for seed in range(2)}
        self.trials = pd.DataFrame([
            {
                "trial_id": name,
                "cell_id": "cell",
                "case": None,
                "arm": "sgd",
                "seed": seed,
                "update_rule.learning_rate": 1.0,
            }
            for seed, name in enumerate(self.values)
        ])
        rows = []
        for seed, name in enumerate(self.values):
            norms = np.random.default_rng(seed).permutation(np.geomspace(0.05, 10, 60))
            for step, norm in enumerate(norms):
                of = [norm, 0.3 * norm]
                rows.append({
                    "trial_id": name,
                    "step": step,
                    "measurement_id": "m",
                    "layers": list(LAYERS),
                    "smoothness_by_layer": [L0 + L1 * g for (L0, L1), g in zip(LAYERS.values(), of, strict=True)],
                    "snr_by_layer": [snr, 100.0],
                    "grad_norm_by_layer": of,
                })
        again = [{**row, "measurement_id": "again", "smoothness_by_layer": [1e6, 1e6]} for row in rows[:3]]
        self._rows = pd.DataFrame([*rows, *again])

    def measurements(self, name):
        assert name == "layer_smoothness"
        return self._rows


def test_every_tensor_has_the_constants_it_was_made_from():
    found = fit_layers(run := Layered(), run.trials)
    assert [cell.layer for cell in found] == list(LAYERS)
    for cell, constants in zip(found, LAYERS.values(), strict=True):
        assert (cell.L0.mean, cell.L1.mean) == pytest.approx(constants, rel=1e-5)
        assert cell.points == 120, "snapshots measured again on other data are not of this f"
        assert cell.bound.count == cell.control.count == 0
    text = render_fits("here", found, "md")
    assert "layer by layer" in text
    assert "| body |" in text
    assert "| head |" in text
    assert "of the bound" not in text, "a layer has none"


def test_what_does_not_stand_clear_of_rounding_stays_out_tensor_by_tensor():
    found = fit_layers(run := Layered(snr=1.0), run.trials)
    assert [cell.layer for cell in found] == ["head"]


def test_a_run_without_the_estimator_says_how_to_measure_it():
    run = Layered()
    run.estimators = ("directional_smoothness",)
    with pytest.raises(ClipsweepError, match="--estimator layer_smoothness` measures kept snapshots"):
        fit_layers(run, run.trials)


SPEC = """
problem: {use: deep_linear, layers: 3, width: 6, samples: 32, batch_size: 16}
update_rule: {learning_rate: 0.05}
train: {steps: 50}
measure: {every: 2, data_fraction: 1, estimators: [{use: layer_smoothness, delta: 0.5}]}
sweep: {grid: {update_rule.clip_norm: [null, 0.5]}, seeds: 2}
"""


def test_a_real_run_has_a_row_for_each_cell_and_tensor(module_inline_run):
    run = Run(module_inline_run(SPEC).run_dir.path)
    found = fit_layers(run, run.trials)
    layers = list(run.measurements("layer_smoothness")["layers"].iloc[0])
    assert [cell.layer for cell in found] == layers * 2
    assert len({cell.cell_id for cell in found}) == 2
    assert all(cell.points == 50 for cell in found)
