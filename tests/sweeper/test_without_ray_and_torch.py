"""An installation without Ray and PyTorch reads runs, and refuses the rest with the one command that mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SPEC = """
name: small
problem: {use: deep_linear}
train: {steps: 20}
measure: {every: 2}
sweep:
  grid: {update_rule.learning_rate: [0.01, 0.02], update_rule.clip_norm: [null, 1.0]}
  seeds: 2
"""

# Imported by Python before anything else, in the child processes of commands too.
WITHOUT = """
import importlib.metadata, sys

GONE = {"ray", "torch"}


class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing)
found = importlib.metadata.Distribution.from_name


def from_name(name):
    if name in GONE:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)


importlib.metadata.Distribution.from_name = from_name
"""

COMMANDS = """
import json, sys
from typer.testing import CliRunner
from sweeper.cli.app import app

ended = []
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, command)
    error = "" if result.exception is None or isinstance(result.exception, SystemExit) else repr(result.exception)
    ended.append([result.exit_code, error])
print(json.dumps(ended))
"""

PROVENANCE = """
import json
from pathlib import Path
from sweeper.planning.environment import conditions, provenance

known = conditions(trainer_threads=1, estimator_threads=1, gpus=False) | provenance(Path.cwd())
print(json.dumps([known["torch"], known["ray"], known["cuda"]]))
"""

READING = (
    ["validate", "SPEC"],
    ["plan", "SPEC"],
    ["status", "RUN"],
    ["ls", "."],
    ["logs", "RUN"],
    ["report", "RUN"],
    ["report", "RUN", "--format", "html", "--out", "page.html"],
    ["reach", "RUN"],
    ["fit", "RUN"],
    ["advise", "RUN"],
    ["times", "RUN"],
    ["compare", "RUN", "COPY"],
    *(["plot", "RUN", kind, "--out", f"{kind}.png", "--dpi", "30"] for kind in ("smoothness", "loss", "frontier")),
    ["query", "RUN", "select count(*) from trials"],
    ["export", "RUN", "csv"],
    ["export", "RUN", "latex"],
    ["list"],
    ["schema"],
)
TRAINING = (
    (["run", "SPEC", "--out", "other"], "ray and torch"),
    (["estimate", "RUN", "--estimator", "curvature"], "ray and torch"),
    (["check", "SPEC"], "torch"),
    (["null-test", "SPEC"], "torch"),
    (["audit-clip", "mine:step"], "torch"),
)


@pytest.fixture(scope="module")
def folder(module_inline_run: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, a copy of it, its spec, and what hides two packages from Python."""
    import shutil

    folder = tmp_path_factory.mktemp("light")
    done = module_inline_run(SPEC).run_dir.path
    for name in ("RUN", "COPY"):
        shutil.copytree(done, folder / name)
    (folder / "RUN" / "logs").mkdir(exist_ok=True)
    (folder / "RUN" / "logs" / "driver.log").write_text("ended\n")
    (folder / "SPEC").write_text(SPEC)
    (folder / "without").mkdir()
    (folder / "without" / "sitecustomize.py").write_text(WITHOUT)
    return folder


def python(folder: Path, code: str, *arguments: str) -> Any:
    """What a program prints where the two packages are not installed."""
    path = os.pathsep.join([str(folder / "without"), str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_packages_are_hidden(folder: Path) -> None:
    code = "import importlib.util as u\ntry: import torch\nexcept ImportError: print('[1]')"
    assert python(folder, code) == [1]


def test_runs_are_planned_read_drawn_compared_and_exported(folder: Path) -> None:
    ended = python(folder, COMMANDS, json.dumps(READING))
    assert dict(zip(map(" ".join, READING), ended, strict=True)) == {" ".join(command): [0, ""] for command in READING}
    assert {file.name for file in folder.glob("*.png")} == {"smoothness.png", "loss.png", "frontier.png"}
    assert (folder / "page.html").stat().st_size > 100_000


def test_what_trains_or_measures_says_what_to_install(folder: Path) -> None:
    ended = python(folder, COMMANDS, json.dumps([command for command, _ in TRAINING]))
    for (command, missing), (_, error) in zip(TRAINING, ended, strict=True):
        assert error.startswith("ClipsweepError"), command
        assert f"needs {missing}, which" in error, command
        assert "pip install 'clipsweep[run]'" in error, command
    assert not (folder / "other").exists()


def test_loops_recorded_without_ray_say_so_in_their_provenance(folder: Path) -> None:
    assert python(folder, PROVENANCE) == [None, None, None]
