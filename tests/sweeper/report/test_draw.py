"""The file that a picture is written to."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli.app import app
from sweeper.errors import ClipsweepError
from sweeper.report.plots.draw import draw
from sweeper.tables.run import Run


def test_a_folder_that_does_not_exist_is_an_error_and_is_not_made(run_of_3: Run, tmp_path: Path) -> None:
    missing = tmp_path / "typed" / "wrongly"
    with pytest.raises(ClipsweepError, match=r"a\.png: cannot be written: there is no folder .*/typed/wrongly"):
        draw(run_of_3, "loss", missing / "a.png")
    assert not missing.parent.exists()


def test_the_run_s_own_folder_of_plots_is_made(run_of_3: Run) -> None:
    done = CliRunner().invoke(app, ["plot", str(run_of_3.path), "loss"])
    assert done.exit_code == 0
    assert (run_of_3.path / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
