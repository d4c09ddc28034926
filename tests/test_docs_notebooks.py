"""The notebooks of the manual run as they are written, and show what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
JUPYTER = FOLDER / "sweep.ipynb"
MARIMO = FOLDER / "own_loop.py"

# In a process of its own: a kernel is a process that ours would otherwise have to wait for, with an event loop.
EXECUTE = """
import json, sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
shown = [[dict(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]
print(json.dumps(shown))
"""


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1]), "IPYTHONDIR": str(folder / "ipython")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
@pytest.mark.skipif(find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="no Jupyter here")
def test_the_jupyter_notebook_runs_and_every_answer_is_one_table(tmp_path: Path) -> None:
    _, ran, *answers = json.loads(run(tmp_path, "-c", EXECUTE, str(JUPYTER)).splitlines()[-1])
    # The bar, in one place, and what the cell returns; nothing that another library would show by itself.
    bar, last = (output for output in ran if output.get("name") != "stderr")  # where Ray misses widgets
    assert "<progress" in bar["data"]["text/html"]
    assert "6 done, 2 diverged" in last["data"]["text/plain"]
    assert [len(outputs) for outputs in answers] == [1] * len(answers)
    for answer in (outputs[0] for outputs in answers[:3]):
        assert "<table>" in answer["data"]["text/html"]
        assert "first" in answer["data"]["text/plain"]
    assert answers[-1][0]["data"]["text/html"].startswith('<iframe sandbox="allow-scripts"')
    assert (tmp_path / "runs" / "first" / "trials.parquet").is_file()


def test_the_jupyter_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(JUPYTER.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.skipif(find_spec("marimo") is None, reason="no marimo here")
def test_the_marimo_notebook_runs_as_a_script_and_passes_its_own_check(tmp_path: Path) -> None:
    run(tmp_path, str(MARIMO))
    run(tmp_path, "-m", "marimo", "check", "--strict", str(MARIMO))
    assert not list(tmp_path.glob("runs*"))
