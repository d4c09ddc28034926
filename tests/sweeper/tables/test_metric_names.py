"""Names of a problem's own metrics, and the columns beside which they stand."""

from __future__ import annotations

import pytest

from sweeper.tables.schemas import MEASUREMENTS, METRICS
from trainers.metric_names import OWNED, alike, unfit


def test_no_metric_is_called_like_a_column_of_its_table_or_a_key() -> None:
    assert OWNED >= {*METRICS.names}
    assert {
        name for name in set.intersection(*(set(schema.names) for schema in MEASUREMENTS.values())) if "id" in name
    } <= OWNED


@pytest.mark.parametrize(
    "name", [*sorted(OWNED), "Step", "TRAIN_LOSS", "", " acc", "acc ", "a\nb", "a\x1b[2J", "\udce9", "x" * 101]
)
def test_what_does_not_fit_is_said_in_one_line_of_plain_characters(name: str) -> None:
    text = unfit(name)
    assert text.isprintable()
    assert len(text) < 200
    assert text.startswith("the metric '")


@pytest.mark.parametrize(
    "name", ["acc", "valid_loss", "valid/loss", "top-5 accuracy", "f1", "Genauigkeit_ä", "loss", "error", "x" * 100]
)
def test_other_names_fit(name: str) -> None:
    assert unfit(name) == ""


@pytest.mark.parametrize("names", [["valid_loss", "Valid_Loss"], ["\u00e9", "e\u0301"], ["a", "\u00c9", "E\u0301"]])
def test_metrics_that_sql_or_people_cannot_tell_apart_are_named(names: list[str]) -> None:
    text = alike(names)
    assert text.isascii()
    assert ascii(names[-1]) in text
    assert alike([names[0], "other"]) == ""
