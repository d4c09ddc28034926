"""The page on the public Python faces runs as it is written, section by section."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import estimators
import sweeper
import trainers

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
ESTIMATORS, TRAINERS, SPEC, RUN = SECTIONS
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("section", [ESTIMATORS, TRAINERS, SPEC])
def test_the_examples_run_as_they_are_written(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(SECTIONS[section], {}, section, os.fspath(PAGE), 0)
    failed, tried = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert failed == 0
    assert tried > 4


@pytest.mark.ray
def test_a_sweep_runs_from_python_as_it_is_written(tmp_path: Path) -> None:
    # In a process of its own: a driver takes over signals and starts a Ray.
    (tmp_path / "page.md").write_text(SECTIONS[SPEC] + SECTIONS[RUN], encoding="utf-8")
    command = [sys.executable, "-m", "doctest", "-o", "ELLIPSIS", "page.md"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "small" / "trials.parquet").is_file()


def test_every_public_name_of_trainers_and_sweeper_is_shown() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for package in (trainers, sweeper):
        assert [name for name in package.__all__ if not re.search(rf"\b{name}\b", text)] == []
    assert {"directional_smoothness", "measure_pairs", "mean_interval", "ESTIMATORS"} <= set(estimators.__all__)
