"""The manual of the estimators runs as it is written, and names every column there is."""

from __future__ import annotations

import doctest
import os
import re
from pathlib import Path

import pytest

from sweeper.tables.schemas import MEASUREMENTS

MANUAL = Path(__file__).parents[2] / "docs" / "estimators.md"


def test_the_examples_of_the_manual_run_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failures, tried = doctest.testfile(os.fspath(MANUAL), module_relative=False, optionflags=flags)
    assert failures == 0
    assert tried > 5


@pytest.mark.parametrize("estimator", MEASUREMENTS)
def test_every_column_is_explained(estimator: str) -> None:
    text = MANUAL.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)`", text))
    assert {name.removesuffix("_by_probe") for name in MEASUREMENTS[estimator].names} <= named
    assert "smoothness_by_probe" in named
    assert estimator in named
