"""Errors of a search name file, line and key, and say how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import SpecError
from sweeper.spec import Sweep, loads_spec

RATES = "update_rule.learning_rate"


def spec(search: str, *, rule: str = "{optimizer: sgd}", train: str = "{steps: 400}", more: str = "") -> str:
    return (
        f"problem: {{use: deep_linear}}\nupdate_rule: {rule}\ntrain: {train}\n"
        f"sweep:\n  search: {search}\n  seeds: 2\n{more}"
    )


def load(text: str) -> Sweep:
    return loads_spec(text, folder=Path())


FRONTIER = f"{{use: stability_frontier, over: {RATES}, between: [0.01, 100]}}"


def test_cells_of_a_search_are_checked_at_the_ends_of_its_range() -> None:
    sweep = load(spec(FRONTIER, more="  grid: {update_rule.clip_norm: [null, 0.25]}\n"))
    assert [(cell.swept["update_rule.clip_norm"], cell.swept[RATES]) for cell in sweep.cells] == [
        (None, 0.01),
        (None, 100.0),
        (0.25, 0.01),
        (0.25, 100.0),
    ]
    between = sweep.template.at(sweep.cells[2].place, {RATES: 3.0})
    assert between.update_rule["learning_rate"] == 3.0
    assert between.update_rule["clip_norm"] == 0.25


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{use: bisection}", "unknown search"),
        ("{over: update_rule.learning_rate, between: [1, 2]}", "use: is required"),
        (FRONTIER.replace("learning_rate", "lr"), "did you mean 'update_rule.learning_rate'"),
        (FRONTIER.replace(RATES, "resources.max_attempts"), "cannot be swept"),
        (FRONTIER.replace("[0.01, 100]", "[100, 0.01]"), "the range is empty, found 100 to 0.01"),
        (FRONTIER.replace("[0.01, 100]", "[1.0, 1.05]"), "are within a factor of 1.1 already"),
        (FRONTIER.replace("[0.01, 100]", "[0, 1]"), "must be greater than 0"),
        (FRONTIER.replace("}", ", within: 1.0}"), "must be greater than 1"),
        (FRONTIER.replace("}", ", verifies: 1}"), "did you mean 'verify'"),
        (FRONTIER.replace(RATES, "update_rule.momentum"), "must be less than 1, found 100"),
        ("{use: halving, first: 10, metric: valid_loss}", "but is never evaluated"),
        ("{use: halving}", "first: is required"),
    ],
)
def test_impossible_searches_are_refused_at_their_line(search: str, message: str) -> None:
    with pytest.raises(SpecError, match=r"<spec>:\d+:\d+: sweep\.search") as caught:
        load(spec(search, rule="{learning_rate: 1.0}" if "momentum" in search or "halving" in search else "{}"))
    assert message in str(caught.value)


def test_a_path_is_either_swept_or_searched_over() -> None:
    with pytest.raises(SpecError, match=r"learning_rate is already set by sweep\.search"):
        load(spec(FRONTIER, more=f"  grid: {{{RATES}: [1, 2]}}\n"))
    with pytest.raises(SpecError, match="is searched over, so that its values are not known"):
        load(spec(FRONTIER, more=f"  exclude: [{{{RATES}: 0.01}}]\n"))


def test_a_limit_on_the_loss_is_what_stops_the_trials_of_a_search() -> None:
    search = FRONTIER.replace("}", ", loss_above: 50}")
    assert all(cell.train["max_loss"] == 50 for cell in load(spec(search)).cells)
    with pytest.raises(SpecError, match=r"train\.max_loss is given, too"):
        load(spec(search, train="{steps: 5, max_loss: 3}"))
