"""A run as one HTML file: what it says, what it thins, and that nothing of a name becomes markup."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from estimators.fits.intervals import Interval, mean_interval
from estimators.fits.significance import p_value, replications_needed
from sweeper.cli.app import app
from sweeper.errors import ClipsweepError
from sweeper.report.comparisons import Comparison
from sweeper.report.page import data
from sweeper.report.page.contents import Page, build_page
from sweeper.report.page.html import render_page
from sweeper.report.page.thinning import evenly, thinned
from sweeper.report.page.words import more_seeds
from sweeper.tables.run import Run
from sweeper.tables.several import SeveralRuns
from sweeper.watch import make_page

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>{{7*7}}'\"&\u202e<!--"


def page_of(run: Run, **options: Any) -> Page:
    return build_page(run, [run.path], **options)


def island(html: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Elements(HTMLParser):
    """Tags with their attributes, as a browser finds them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# What it says


def test_the_answer_comes_in_words_and_names_the_seeds_that_would_tell(run_of_12: Run) -> None:
    page = page_of(run_of_12)
    said = " ".join(page.answer)
    assert "Clipping at 0.25 (sgd + clip_norm) lets the learning rate be at least 1 times" not in said
    assert "Clipping at 0.25" in page.answer[0]
    assert re.search(r"Diverged: 3 of 8 \(sgd\), 0 of 16 \(sgd \+ clip_norm\)\.", said)


def test_a_run_without_a_trial_that_ended_says_so(run_of: Callable[..., Run]) -> None:
    run = run_of([{"update_rule.learning_rate": 1.0}], diverges=lambda swept, seed: False)
    run.__dict__["trials"] = run.trials.assign(status="queued")
    page = page_of(run)
    assert page.answer == ["No trial has ended yet, so there is no answer."]


def test_so_many_seeds_would_tell_as_the_power_of_a_t_test_asks_for() -> None:
    """Simulated: the number of seeds finds the difference in four of five sweeps."""
    wanted = replications_needed(0.5, 1.0)
    assert wanted == 34
    draws = np.random.default_rng(0).normal(0.5, 1.0, size=(2000, wanted))
    assert np.mean([p_value(row) < 0.05 for row in draws]) == pytest.approx(0.8, abs=0.03)
    assert replications_needed(math.nan, 1.0) is None
    assert replications_needed(1.0, 0.0) == 2
    assert replications_needed(1e-9, 1.0) is None


def test_more_cells_to_choose_from_take_more_seeds_to_tell() -> None:
    difference = mean_interval([0.1, 0.3, -0.2, 0.4])
    one = Comparison(first="a", second="b", difference=difference, as_chosen=difference, context="")
    many = Comparison(
        first="a", second="b", difference=difference, as_chosen=difference, context="", cells_tried=(1, 20)
    )
    assert more_seeds(one) is not None
    assert more_seeds(many) > more_seeds(one)  # type: ignore[operator]
    nothing = Interval(mean=0.0, low=0.0, high=0.0, count=3)
    assert more_seeds(Comparison(first="a", second="b", difference=nothing, as_chosen=nothing, context="")) is None


def test_the_rows_of_the_page_are_those_of_the_report(run_of_12: Run) -> None:
    page = page_of(run_of_12, sort="-learning_rate")
    at = page.heads.index("learning_rate")
    assert [row[at] for row in page.cells] == sorted((row[at] for row in page.cells), key=float, reverse=True)
    assert [key[at] for key in page.keys] == [float(row[at]) for row in page.cells]
    assert sum(page.best) == 2
    assert all(page.best[place] for place in page.order[:2]), "the best of every arm come first"


def test_charts_hold_the_numbers_of_the_tables(run_of_12: Run) -> None:
    page = page_of(run_of_12)
    charts = {chart.name.partition("-")[0]: chart for chart in page.charts}
    assert {"curves", "scatter", "rates", "frontier", "activity"} <= charts.keys()
    frontier = charts["frontier"].columns
    unstable = {page.labels[cell]: share for cell, share in zip(frontier["cell"], frontier["share"], strict=True)}
    assert unstable["learning_rate=10 no clipping"] == 1.0
    assert unstable["learning_rate=3 no clipping"] == 0.5
    assert unstable["learning_rate=10 clip_norm=0.25"] == 0.0
    scatter = charts["scatter"].columns
    points = run_of_12.measurements("directional_smoothness")
    assert len(scatter["cell"]) == len(points), "so few are not thinned"
    assert max(scatter["smoothness"]) == pytest.approx(points["smoothness"].max(), rel=1e-3)


def test_curves_are_means_over_seeds_within_their_bands(run_of_3: Run) -> None:
    page = page_of(run_of_3)
    curves = page.charts[0].columns
    assert all(
        low <= mean <= high for low, mean, high in zip(curves["low"], curves["mean"], curves["high"], strict=True)
    )
    metrics = run_of_3.metrics.merge(run_of_3.trials[["trial_id", "cell_id"]], on="trial_id")
    first = metrics[(metrics["cell_id"] == "cell-0") & (metrics["step"] == 0)]["train_loss"]
    place = next(
        at for at, (cell, step) in enumerate(zip(curves["cell"], curves["step"], strict=True)) if cell == step == 0
    )
    assert curves["mean"][place] == pytest.approx(first.mean(), rel=1e-3)
    assert curves["high"][place] == pytest.approx(first.max(), rel=1e-3)


def test_a_running_mean_is_over_the_steps_of_its_own_trial() -> None:
    rows = pd.DataFrame({
        "trial_id": ["a"] * 120 + ["b"] * 30,
        "loss": [*np.arange(120.0), *np.full(30, 7.0)],
    })
    means = data._running_mean(rows, "loss")
    expected = rows["loss"][:120].rolling(3, min_periods=1).mean()
    assert means[:120].to_list() == pytest.approx(expected.to_list())
    assert means[120:].to_list() == [7.0] * 30, "a trial of few steps is as it is"


SPEC = """
problem: {{use: deep_linear, layers: 2, width: {width}, samples: 8}}
train: {{steps: 6, evaluate_every: 2}}
measure: {{every: 2, data_fraction: 1, estimators: [{{use: directional_smoothness, delta: 0.5}}]}}
sweep: {{grid: {{update_rule.learning_rate: [0.01, 0.02]}}, seeds: 2}}
"""


def test_several_runs_are_compared_in_one_page(inline_run: Callable[..., Any]) -> None:
    paths = [Path(inline_run(SPEC.format(width=width), name=f"w{width}")().run_dir.path) for width in (3, 4)]
    page = build_page(SeveralRuns(paths), paths)
    at = page.heads.index("run")
    assert [row[at] for row in page.cells] == ["w3/run", "w3/run", "w4/run", "w4/run"]
    assert {place for place in page.charts[0].columns["cell"]} == {0, 1, 2, 3}
    assert [one.run for one in page.provenance] == [str(path) for path in paths]
    printed = CliRunner().invoke(app, ["report", *map(str, paths)])
    assert printed.exit_code == 0, printed.output
    assert "w3/run" in printed.output
    assert printed.output.startswith(", ".join(map(str, paths)) + ": 8 done"), "it names both"


# What it thins


def test_a_page_of_many_cells_stays_within_its_bounds(
    run_of: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MOST_CURVES", 10)
    monkeypatch.setattr(data, "MOST_CURVE_POINTS", 100)
    monkeypatch.setattr(data, "MOST_DOTS", 90)
    rates = [0.1 * 1.1**at for at in range(30)]
    page = page_of(run_of([{"update_rule.learning_rate": rate} for rate in rates], measured=True))
    curves, scatter = page.charts[0], next(chart for chart in page.charts if chart.name.startswith("scatter"))
    assert len(set(curves.columns["cell"])) == 10
    assert len(curves.columns["cell"]) <= 100
    assert "curves of 10 of 30 cells" in curves.reading.lower()
    assert len(scatter.columns["cell"]) <= 90
    assert "90 of 600 snapshots" in scatter.reading
    assert len(page.cells) == 30, "the table has all of them"


def test_thinning_keeps_the_ends_and_the_extremes() -> None:
    points = pd.DataFrame({"cell": 0, "x": np.arange(1000.0), "y": np.sin(np.arange(1000.0))})
    kept = thinned(points, by="cell", along="x", most=20, always="y")
    assert len(kept) <= 20
    assert {0.0, 999.0} <= set(kept["x"])
    assert kept["y"].min() == points["y"].min()
    assert kept["y"].max() == points["y"].max()
    with pytest.raises(ValueError, match="too few"):
        evenly(10, 1)


# What it is made of


def test_nothing_of_a_name_becomes_markup_or_script(run_of: Callable[..., Run]) -> None:
    cells = [{"problem.corpus": corpus, "update_rule.learning_rate": 1.0} for corpus in (HOSTILE, "plain")]
    html = render_page(page_of(run_of(cells)), made=HOSTILE)
    elements = Elements(html).found
    assert [tag for tag, _ in elements].count("script") == 3, "data, library and our own"
    assert not any(tag == "img" for tag, _ in elements)
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)
    assert not any("style" in attributes for _, attributes in elements), "the policy forbids them"
    assert any(text.startswith("</script>") for row in island(html)["cells"] for text in row), "as a text it is shown"
    assert "{{7*7}}" in html, "no template within a template"


def test_the_policy_lets_nothing_else_run_or_load(run_of_3: Run) -> None:
    html = render_page(page_of(run_of_3))
    policy = next(of["content"] for tag, of in Elements(html).found if of.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html.partition('<script type="application/json"')[0])


def test_a_report_is_written_where_it_is_asked_for(run_of_3: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(run_of_3.path), "--format", "html", "--out", str(file)])
    assert result.exit_code == 0, result.output
    assert file.read_text().startswith("<!doctype html>")
    assert island(file.read_text())["labels"]
    markdown = tmp_path / "report.md"
    CliRunner().invoke(app, ["report", str(run_of_3.path), "--format", "md", "--out", str(markdown)])
    printed = CliRunner().invoke(app, ["report", str(run_of_3.path), "--format", "md"])
    assert markdown.read_text() == printed.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "html", "--by", "learning_rate"], "a page has a row for each cell"),
        (["--format", "pdf"], "known: table, md, csv, json, html"),
        (["--format", "html", "--out", "/nowhere/at/all.html"], "cannot be written"),
    ],
)
def test_what_a_page_cannot_be_is_told(run_of_3: Run, options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["report", str(run_of_3.path), *options])
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_a_comparison_of_runs_is_a_page_too(inline_run: Callable[..., Any], tmp_path: Path) -> None:
    paths = [str(inline_run(SPEC.format(width=width), name=f"w{width}")().run_dir.path) for width in (3, 4)]
    file = tmp_path / "both.html"
    result = CliRunner().invoke(app, ["compare", *paths, "--format", "html", "--out", str(file)])
    assert result.exit_code == 0, result.output
    text = file.read_text().partition('<script type="application/json"')[0]
    assert "problem.width" in text, "what differs"
    assert "cells in common" in text
    assert {"w3/run", "w4/run"} <= {cell for row in island(file.read_text())["cells"] for cell in row}


def test_one_loss_near_overflow_does_not_flatten_all_others(run_of: Callable[..., Run]) -> None:
    def loss(swept: Any, seed: int) -> float:
        return 1e306 if swept["update_rule.learning_rate"] == 8 else 1.0 / swept["update_rule.learning_rate"]

    page = page_of(run_of([{"update_rule.learning_rate": float(2**at)} for at in range(4)], loss=loss))
    (rates,) = (chart for chart in page.charts if chart.name.startswith("rates"))
    low, top = rates.specification["layer"][-1]["encoding"]["y"]["scale"]["domain"]
    assert 0 < low < 0.25
    assert 1 < top < 1e6
    assert "1 cell above the picture" in rates.reading


def test_a_cell_of_one_seed_has_no_bar(run_of: Callable[..., Run]) -> None:
    page = page_of(run_of([{"update_rule.learning_rate": rate} for rate in (1.0, 2.0)], seeds=1))
    (rates,) = (chart for chart in page.charts if chart.name.startswith("rates"))
    assert rates.columns["low"] == [None, None]
    assert "bars" not in rates.reading
    assert len(rates.specification["layer"]) == 1


def test_functions_without_noise_are_not_said_to_lack_seeds(inline_run: Callable[..., Any]) -> None:
    spec = """
problem: {use: analytic, function: {use: extremal}, start_gap: 2, epsilon: 0.05}
train: {steps: 400}
sweep: {grid: {update_rule.learning_rate: [0.1, 0.2], update_rule.clip_norm: [null, 1.0]}}
"""
    run = Run(inline_run(spec, name="theory")().run_dir.path)
    page = page_of(run)
    assert not any("seed" in line or "test data" in line for line in page.limits)
    assert not any(chart.name.startswith("curves") for chart in page.charts), "one logged step is no curve"


def test_a_page_that_is_sent_has_no_address_and_no_argument_of_a_hook(run_of_3: Run) -> None:
    hooks = "on:\n  done: {post: 'https://user:secret@host/token'}\n  failed: {command: [curl, -H, 'Key: secret']}\n"
    (run_of_3.path / "spec.yaml").write_text(f"name: a\n{hooks}# mine\n\nsweep: {{seeds: 2}}\n")
    html = render_page(page_of(run_of_3))
    assert "secret" not in html.partition("<script type")[0].replace("may be secrets", "")
    assert "sweep: {seeds: 2}" in html
    (run_of_3.path / "spec.yaml").write_text("{name: a, on: {done: {post: https://host/secret}}}")
    assert "https://host" not in render_page(page_of(run_of_3)), "a spec that cannot be cut is not shown"


def test_correlations_count_where_seeds_tell_them_from_chance(run_of: Callable[..., Run]) -> None:
    cells = [{"update_rule.learning_rate": rate} for rate in (1.0, 2.0)]
    alone = " ".join(page_of(run_of(cells, seeds=1, measured=True)).answer)
    assert "one seed a cell says nothing about chance" in alone


def test_a_table_that_is_damaged_is_an_error_and_no_empty_page(run_of_3: Run) -> None:
    (run_of_3.path / "trials.parquet").write_bytes(b"nothing")
    with pytest.raises(ClipsweepError, match=r"trials\.parquet"):
        make_page(run_of_3.path)
    (run_of_3.path / "trials.parquet").unlink()
    assert "No trial has results yet" in make_page(run_of_3.path)
