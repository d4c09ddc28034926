"""The examples of docs/search.md are specs, and its searcher of one's own is run as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweeper.errors import ClipsweepError, SpecError
from sweeper.planning.preview import plan_document, plan_text
from sweeper.planning.searching import plan_of
from sweeper.spec import load_spec, loads_spec
from sweeper.store.journal import RunState

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
YAML = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
REST = {
    "problem": "problem: {use: deep_linear}\n",
    "update_rule": "update_rule: {optimizer: sgd}\n",
    "train": "train: {steps: 400, evaluate_every: 10}\n",
}
OWN = """
problem: {use: deep_linear, layers: 3, width: 4, samples: 16, batch_size: 4}
update_rule: {optimizer: sgd}
train: {steps: 20}
sweep:
  grid: {update_rule.clip_norm: [null, 0.25]}
  search: {use: "my_search:Bisect", over: {update_rule.learning_rate: [0.01, 1000]}, rounds: 5}
"""


@pytest.mark.parametrize("example", YAML, ids=range(len(YAML)))
def test_every_example_asks_for_trials(example: str, tmp_path: Path) -> None:
    written = re.findall(r"^(\w+):", example, flags=re.MULTILINE)
    rest = "".join(line for section, line in REST.items() if section not in written)
    if "halving" in example:
        rest = rest.replace("optimizer: sgd", "learning_rate: 1.0")
    assert plan_of(loads_spec(rest + example, folder=tmp_path), RunState()).trials


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with the page's searcher and a spec that names it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "my_search.py").write_text(PYTHON[0])
    (folder / "own.yaml").write_text(OWN)
    return folder


def test_the_searcher_of_ones_own_keeps_its_promises_and_runs(
    inline_run: Callable[..., Any], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "my_search", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", f"from my_search import Bisect\n{PYTHON[1]}"], cwd=own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run = inline_run("name: own\n" + OWN)()
    trials = pd.read_parquet(run.run_dir.path / "trials.parquet")
    assert len(trials) == 10
    assert "diverged" in set(trials["status"])
    assert "my_search" not in sys.path


def test_planning_does_not_import_it_and_says_what_a_run_would_import(own: Path) -> None:
    (own / "my_search.py").write_text("raise SystemExit('imported')\nclass Bisect: ...\n")
    document = plan_document(load_spec(own / "own.yaml"), own / "run")
    assert [found["use"] for found in document["code"]] == ["my_search:Bisect"]
    assert "what it asks for is known once it runs" in plan_text(document)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("class Other: ...", "has no 'Bisect'"),
        ("import nowhere_at_all\nclass Bisect: ...", "needs nowhere_at_all, which is not installed"),
        ("class Bisect:\n  def __init__(self, over): ...", "unexpected keyword argument 'rounds'"),
        ("class Bisect:\n  def __init__(self, **o): 1 / 0", "raised ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_it_is_said_at_its_line_in_the_spec(own: Path, code: str, message: str) -> None:
    (own / "my_search.py").write_text(code)
    sys.modules.pop("my_search", None)
    with pytest.raises(SpecError, match=r"own\.yaml:7:\d+: sweep\.search\.use: ") as caught:
        plan_of(load_spec(own / "own.yaml"), RunState())
    assert message in str(caught.value)
    sys.modules.pop("my_search", None)


def test_code_from_elsewhere_needs_consent(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.run import run_sweep

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(own / "my_search.py", elsewhere / "my_search.py")
    monkeypatch.syspath_prepend(str(elsewhere))
    with pytest.raises(ClipsweepError, match=r"code from outside its own folder .*my_search:Bisect"):
        run_sweep(load_spec(own / "own.yaml"), out=tmp_path / "run")
