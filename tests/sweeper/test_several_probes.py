"""``measure.probes``: the same snapshots on several shares of the data, from the draw to what ``fit`` says of it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from estimators import ESTIMATORS, SAMPLED
from sweeper.errors import ClipsweepError
from sweeper.planning.plan import measurement_id
from sweeper.report.fits import build_fits
from sweeper.report.other_fits import several_values, with_probes
from sweeper.report.plots.draw import draw as draw_plot
from sweeper.report.render.fits import render_fits
from sweeper.spec.load import loads_spec
from sweeper.spec.sections.measure import Measure
from sweeper.tables.measured import MEASURED
from sweeper.tables.run import Run
from sweeper.workers.estimator import build_probe
from trainers.data.order import probe_batches, probe_subset
from trainers.errors import TrainerError
from trainers.problems import build_problem
from trainers.training.selftest import examine
from trainers.update.flat import flat_parameters

PROBLEM = {"layers": 2, "width": 4, "samples": 60, "batch_size": 20}

SPEC = """
problem: {{use: deep_linear, layers: 3, width: 6, samples: 90, batch_size: 30}}
update_rule: {{learning_rate: 0.05}}
train: {{steps: 40}}
measure:
  every: 2
  data_fraction: 0.3
  probes: {probes}
  estimators:
    - {{use: directional_smoothness, delta: 0.5}}
    - {{use: hessian_spectral_norm}}
    - {{use: gradient_noise, num_batches: 3}}
sweep: {{grid: {{update_rule.clip_norm: [null, 0.5]}}, seeds: 2}}
"""


@given(
    samples=st.integers(1, 300),
    fraction=st.floats(0.01, 1),
    batch_size=st.integers(1, 40),
    smaller=st.booleans(),
)
def test_draws_have_no_sample_in_common_and_one_size(
    samples: int, fraction: float, batch_size: int, smaller: bool
) -> None:
    def drawn(number: int) -> list[int]:
        chosen = probe_batches(samples, fraction, batch_size=batch_size, fingerprint="f", smaller=smaller, draw=number)
        assert len({len(batch) for batch in chosen}) == 1
        return [int(index) for batch in chosen for index in batch]

    first = drawn(0)
    most = samples // len(first)
    draws = [drawn(number) for number in range(most)]
    assert {len(one) for one in draws} == {len(first)}
    assert len({index for one in draws for index in one}) == most * len(first)
    with pytest.raises(TrainerError, match=f"at most {most} can be drawn without a sample in two of them"):
        drawn(most)


def test_the_first_draw_is_the_probe_as_it_always_was() -> None:
    whole = probe_subset(50, 1.0, fingerprint="f")
    assert torch.equal(probe_subset(50, 0.2, fingerprint="f"), whole[:10])
    assert torch.equal(probe_subset(50, 0.2, fingerprint="f", draw=3), whole[30:40])


def test_the_row_on_every_probe_is_what_each_says_by_itself() -> None:
    problem = build_problem("deep_linear", PROBLEM, seed=0)
    measure = Measure(every=1, data_fraction=0.3, probes=3).model_dump(mode="json")
    here = flat_parameters(problem.model)
    pair = torch.stack([here, here + 0.1])
    rows = [
        ESTIMATORS["directional_smoothness"](build_probe(problem, measure, draw=draw), pair, delta=0.5)
        for draw in range(3)
    ]
    values = [row["smoothness"] for row in rows]
    assert len(set(values)) == 3
    assert np.std(values) < 0.5 * np.mean(values)


def test_a_run_has_the_numbers_of_every_probe_beside_those_of_the_first(module_inline_run: Any) -> None:
    several = Run(module_inline_run(SPEC.format(probes=3)).run_dir.path)
    single = Run(module_inline_run(SPEC.format(probes=1)).run_dir.path)
    for estimator, names in SAMPLED.items():
        if estimator not in several.estimators:
            continue
        rows, alone = several.measurements(estimator), single.measurements(estimator)
        for name in names:
            table = np.array(rows[f"{name}_by_probe"].tolist(), dtype=float)
            assert table.shape == (len(rows), 3)
            np.testing.assert_array_equal(table[:, 0], rows[name].to_numpy(dtype=float))
            np.testing.assert_array_equal(rows[name].to_numpy(), alone[name].to_numpy())
            assert (table[:, 1] != table[:, 0]).mean() > 0.9, "another draw, other numbers"
            assert alone[f"{name}_by_probe"].isna().all()
    assert "loss_by_probe" not in several.measurements("gradient_noise")

    cells = with_probes(several, several.trials, build_fits(several))
    for cell in cells:
        assert cell.probes is not None
        assert cell.probes.count == 3
        assert 0 < cell.probes.smoothness < 1
        assert cell.probes.spearman >= 0
    text = render_fits("here", cells, "table", width=80)
    assert "what another probe of this size would change" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    [first, _] = csv.DictReader(io.StringIO(render_fits("here", cells, "csv")))
    assert first["probes"] == "3"
    assert float(first["smoothness_probe_sd"]) == pytest.approx(cells[0].probes.smoothness)
    document = json.loads(render_fits("here", cells, "json"))
    assert document["cells"][0]["probes"]["count"] == 3
    assert all(cell.probes is None for cell in with_probes(single, single.trials, build_fits(single)))


def test_bars_in_the_picture_are_the_spread_over_the_probes(module_inline_run: Any, tmp_path: Path) -> None:
    run = Run(module_inline_run(SPEC.format(probes=3)).run_dir.path)
    drawn = pd.DataFrame(draw_plot(run, "fit", tmp_path / "picture.png"))
    points = drawn[drawn["drawn"] == "point"].set_index(["trial_id", "step"])
    rows = run.measurements("directional_smoothness").set_index(["trial_id", "step"])
    assert len(points) == len(rows) == 80
    expected = rows["smoothness_by_probe"].map(lambda values: np.std(values, ddof=1))
    np.testing.assert_allclose(points["smoothness_sd"], expected.loc[points.index])


def test_the_spread_is_that_of_fits_to_each_probe_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.report import other_fits

    norms = np.geomspace(0.1, 10, 120)
    constants = [(1.0, 2.0), (1.5, 2.2), (0.5, 1.8)]
    lists = [[L0 + L1 * norm for L0, L1 in constants] for norm in np.random.default_rng(0).permutation(norms)]
    points = pd.DataFrame({
        "trial_id": "t",
        "step": range(120),
        "grad_norm": [(values[0] - 1) / 2 for values in lists],
        "smoothness": [values[0] for values in lists],
        "grad_norm_by_probe": [[(values[0] - 1) / 2] * 3 for values in lists],
        "smoothness_by_probe": lists,
        "mechanical_bound": math.nan,
    })
    trials = pd.DataFrame([{"trial_id": "t", "cell_id": "c", "seed": 0, "arm": "sgd", "case": None}])
    run: Any = SimpleNamespace(swept=[], path="here", estimators=(), cells={"c": {}}, cases={})
    monkeypatch.setattr(other_fits, "trusted_points", lambda run: points)
    monkeypatch.setattr("sweeper.report.fits.labels_of", lambda run, trials: _Label())
    [cell] = other_fits.fitted(run, trials, points, controlled=False)
    [found] = with_probes(run, trials, [cell])
    assert found.probes is not None
    assert found.probes.L0 == pytest.approx(np.std([1, 1.5, 0.5], ddof=1), rel=1e-4)
    assert found.probes.L1 == pytest.approx(np.std([2, 2.2, 1.8], ddof=1), rel=1e-4)
    assert found.probes.smoothness == pytest.approx(
        np.median([np.std(values, ddof=1) / np.mean(values) for values in lists])
    )


class _Label:
    def __getitem__(self, cell: str) -> str:
        return cell

    def texts(self, values: Any) -> dict[str, str]:
        return {}


def test_values_that_are_missing_on_a_probe_are_no_numbers() -> None:
    points = pd.DataFrame({"smoothness_by_probe": [[1.0, 2.0], None, [3.0, None], math.nan]})
    table = several_values(points, "smoothness")
    assert table.shape == (4, 2)
    assert np.isnan(table).tolist() == [[False, False], [True, True], [False, True], [True, True]]
    assert several_values(pd.DataFrame({"smoothness": [1.0]}), "smoothness").shape == (1, 0)


def test_every_sampled_number_has_its_column_and_there_are_no_others() -> None:
    for estimator, columns in MEASURED.items():
        names = {column.name for column in columns}
        expected = {f"{name}_by_probe" for name in SAMPLED.get(estimator, ())}
        assert {name for name in names if name.endswith("_by_probe")} == expected
        assert {name.removesuffix("_by_probe") for name in expected} <= names


def test_one_probe_is_the_section_that_it_always_was() -> None:
    one, two = Measure(every=1, data_fraction=0.1), Measure(every=1, data_fraction=0.1, probes=2)
    assert "probes" not in one.model_dump(mode="json")
    assert measurement_id(one) == measurement_id(Measure(every=1, data_fraction=0.1, probes=1))
    assert measurement_id(one) != measurement_id(two)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("{every: 1, data_fraction: 0.4, probes: 3}", "at most 2 of this share have no sample in common"),
        ("{every: 1, probes: 0}", "probes: must be at least 1"),
        ("{every: 1, probes: 2.5}", "measure.probes"),
    ],
)
def test_more_probes_than_there_are_data_are_refused_where_they_are_asked_for(section: str, words: str) -> None:
    text = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 1}\ntrain: {steps: 3}\nmeasure: "
    with pytest.raises(ClipsweepError, match=r"s\.yaml:4") as caught:
        loads_spec(f"{text}{section}\n", name="s.yaml", folder=Path())
    assert words in str(caught.value)


def found_by_check(probe: Callable[..., Iterable[Any]]) -> str:
    problem = build_problem("deep_linear", PROBLEM, seed=0)
    findings = examine(lambda seed: replace(problem, probe=probe), shares=(0.3,), draws=2)
    [found] = [finding for finding in findings if "the probe is frozen" in finding.promise]
    return found.broken or str(found.raised or "")


def test_check_tells_draws_that_are_no_draws() -> None:
    draws = build_problem("deep_linear", PROBLEM, seed=0).probe
    assert found_by_check(draws) == ""
    assert "probe(0.3, 1) has the samples of probe(0.3)" in found_by_check(lambda share, draw=0: draws(share))
    assert "give it a second argument, probe(share, draw=0)" in found_by_check(lambda share: draws(share))
    assert "of another size" in found_by_check(lambda share, draw=0: draws(share if draw == 0 else 0.2, draw))
