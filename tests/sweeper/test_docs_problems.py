"""The example of docs/problems.md is run as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.check import check_sweep
from sweeper.spec import load_spec

PAGE = Path(__file__).resolve().parents[2] / "docs" / "problems.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert found is not None
    return found[1]


def test_the_page_on_problems_of_ones_own_tells_the_truth(
    inline_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "my_problem.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(folder))
    run = inline_run("name: doc\n" + block("yaml").replace("steps: 200", "steps: 60"))()
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet")
    assert len(trials) == 12
    assert (trials["status"] == "done").all()
    assert (trials["best_valid_loss"] < 3).all()
    measured = pd.read_parquet(run.run_dir.path / "measurements" / "directional_smoothness.parquet")
    assert measured["smoothness"].gt(0).all()


def test_the_example_keeps_all_promises(tmp_path: Path) -> None:
    (tmp_path / "my_problem.py").write_text(block("python"))
    (tmp_path / "sweep.yaml").write_text("name: doc\n" + block("yaml"))
    checked = [one.finding for one in check_sweep(load_spec(tmp_path / "sweep.yaml"))]
    assert [finding.broken for finding in checked if not finding.holds] == []
    assert len(checked) > 20
