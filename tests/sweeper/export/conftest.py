"""Made-up runs of any size, with hostile names, and runs that grow."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.tables.run import Run

_MADE = importlib.util.spec_from_file_location("made_runs", Path(__file__).parents[1] / "report" / "conftest.py")
assert _MADE is not None
assert _MADE.loader is not None
made = importlib.util.module_from_spec(_MADE)
_MADE.loader.exec_module(made)

RATE, NORM, MODEL = "update_rule.learning_rate", "update_rule.clip_norm", "problem.model"

HOSTILE = ("../../../escape", "a/b\n%s\x1b[2J", "=1+1", "x" * 5000, "", "\\input{/etc/passwd} 漢 ü ∇ $%&#_{}~^", "..")
"""Swept values that lead out of folders, run as formulas or commands, or are longer than names of files may be."""


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two cells of two seeds, one of which diverges in both, measured; for tests that only read it."""
    cells = [{RATE: 1.0, NORM: None}, {RATE: 30.0, NORM: None}]
    path = tmp_path_factory.mktemp("exported") / "small"
    run: Run = made._run_of(path, cells, diverges=lambda swept, seed: swept[RATE] > 10, measured=True)
    return run


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A cell for each hostile name, of one seed."""
    cells = [{RATE: 1.0, MODEL: name} for name in HOSTILE]
    run: Run = made._run_of(tmp_path_factory.mktemp("hostile") / "run", cells, seeds=1)
    return run


@pytest.fixture
def grow(tmp_path: Path) -> Callable[[int], Run]:
    """Makes a run of so many cells in the same place: the same one, begun and then continued."""

    def make(cells: int) -> Run:
        path = tmp_path / "grown"
        if path.exists():
            path.rename(tmp_path / f"before {cells}")
        run: Run = made._run_of(path, [{RATE: 1.0 + at, NORM: None} for at in range(cells)], seeds=2)
        return run

    return make


def names_in(folder: Path) -> list[str]:
    """Every file below a folder, by its path relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def files_in() -> Callable[[Path], Any]:
    """Every file below a folder."""
    return names_in
