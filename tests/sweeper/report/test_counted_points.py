"""Report, fit and pictures count the same points, whatever was superseded or measured twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sweeper.report.fits import build_fits
from sweeper.report.plots.answers import fit
from sweeper.report.select import select
from sweeper.run import run_sweep
from sweeper.spec import loads_spec
from sweeper.tables.run import Run

SPEC = """
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 8}
update_rule: {learning_rate: 0.05}
train: {steps: 20}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep: {grid: {update_rule.learning_rate: [0.01, 0.05]}, seeds: 2}
"""


@pytest.fixture
def changed_run(
    inline_run: Callable[..., Any], new_listener: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A finished run whose spec was changed, so that each of its two cells stands beside a superseded one."""
    first = inline_run(SPEC)()
    changed = SPEC.replace("batch_size: 8", "batch_size: 4")
    with monkeypatch.context() as patched:
        patched.setattr("sweeper.run._drive", lambda *arguments, **options: False)
        sweep = loads_spec(changed, folder=first.run_dir.path.parent)
        run_sweep(sweep, out=first.run_dir.path, listener=new_listener(), accept_change=True, new_measurement=True)
    return Run(inline_run(changed)().run_dir.path)


def drawn(figure: Any) -> list[int]:
    """Points in each panel that has any."""
    counts = [sum(len(np.asarray(dots.get_offsets())) for dots in axis.collections) for axis in figure.axes]
    return [count for count in counts if count]


def test_the_fit_s_picture_leaves_superseded_cells_out_unless_asked_for_them(changed_run: Run) -> None:
    cells = build_fits(changed_run, resamples=0)
    assert [cell.cell_id for cell in cells] == list(dict.fromkeys(select(changed_run, [])["cell_id"]))
    assert drawn(fit(changed_run, select(changed_run, []))) == [20, 20]
    assert drawn(fit(changed_run, select(changed_run, ["superseded=True"]))) == [20, 20]


def test_the_fit_s_picture_of_one_seed_has_its_points_alone(changed_run: Run) -> None:
    assert drawn(fit(changed_run, select(changed_run, ["seed=1"]))) == [10, 10]
