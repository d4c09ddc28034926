"""Names and errors come from code and files of others: a terminal and a spreadsheet get them as text alone."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sweeper.cli.app import app, main
from sweeper.formats import csv_table, markdown_table
from sweeper.labels import printable
from sweeper.monitor.display import LineDisplay
from sweeper.monitor.status import trial_rows
from sweeper.report.render.table import Column, Table
from sweeper.report.render.terminal import terminal_lines, terminal_table

HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold]lr=[1e-3][/bold]\r\x9b31m\u202egpj.exe"


@pytest.mark.parametrize(
    "shown",
    [
        terminal_table(Table(title=HOSTILE, columns=[Column(head=HOSTILE, cells=[HOSTILE])], labels=[HOSTILE])),
        terminal_lines([HOSTILE], width=200),
        "\n".join(markdown_table([HOSTILE], [[HOSTILE]])),
        printable(HOSTILE),
    ],
    ids=["table", "lines", "markdown", "plain"],
)
def test_markup_is_kept_as_text_and_no_control_character_gets_through(shown: str) -> None:
    assert "[bold]lr=[1e-3][/bold]" in shown
    assert "\\x1b[2J" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_what_a_sweep_says_is_shown_as_text() -> None:
    output = io.StringIO()
    with LineDisplay(Console(file=output, force_terminal=True, width=200)) as display:
        display.say(HOSTILE)
    assert "[bold]lr=[1e-3][/bold]" in output.getvalue()
    assert output.getvalue().rstrip("\n").isprintable()


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1"]
)
def test_a_spreadsheet_runs_nothing(cell: str) -> None:
    head, value = csv.reader(io.StringIO(csv_table([{cell: cell}])))
    assert value[0].startswith("'")
    assert head[0].startswith("'"), "a swept option's name is the user's own too"


def test_lines_stay_lines() -> None:
    assert printable("a\nb\tc") == "a\nb\\tc"


# Every command

PROBLEM = """
import torch
from torch import nn
from trainers.problem import Problem

def one(*, fails, **names):
    def loss(model, batch, carry):
        if fails:
            raise RuntimeError("\x1b]0;owned\x07\x1b[2Jcannot \u202e\\n\x1b[31mstep")
        return (model.weight - 1).square().mean(), carry

    return Problem(
        model=nn.Linear(1, 1, bias=False), loss=loss, batch=lambda step: torch.tensor(float(step)),
        probe=lambda fraction: [torch.tensor(-1.0)], steps_per_epoch=5, fingerprint="one",
    )
"""

SPEC = """
name: hostile
problem: {use: "hostile_problem:one", fails: false, "k\\e[2J": "\\e[31m"}
update_rule: {learning_rate: 0.1}
train: {steps: 6}
measure: {every: 2, data_fraction: 1, keep: true}
sweep:
  grid:
    problem.fails: [false, true]
    problem.name: ["\\e]0;owned\\a[bold]x[/bold]\\u202e", "$a_{\\n  forged  done\\e[1A"]
    "problem.=1+1": [1, 2]
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, module_hostile_run: Callable[..., Any]) -> tuple[Path, Path]:
    """A spec and its run, in a folder, all of whose names are made to mislead a terminal."""
    folder = tmp_path_factory.mktemp("hostile") / "here\x1b[2J\u202e"
    folder.mkdir()
    (folder / "hostile_problem.py").write_text(PROBLEM)
    (folder / "sweep.yaml").write_text(SPEC)
    run: Path = module_hostile_run(SPEC, folder).run_dir.path
    (run / "logs" / "driver.log").write_text(f"what code of the user's own has raised: {HOSTILE}\n")
    return folder / "sweep.yaml", run


COMMANDS = [
    *(["report", "RUN", "--format", style] for style in ("table", "md", "csv", "json")),
    *(["fit", "RUN", "--format", style] for style in ("table", "md", "csv", "json")),
    *([name, "RUN"] for name in ("status", "logs", "advise", "theory")),
    ["status", "RUN", "--json"], ["logs", "RUN", "FAILED"], ["ls", "FOLDER"], ["ls", "FOLDER", "--json"],
    ["plot", "RUN", "loss"], ["plot", "RUN", "nothing\x1b[2J"], ["report", "RUN", "--where", "problem.name=\x1b[2J"],
    ["plan", "SPEC"], ["plan", "SPEC", "--json"], ["validate", "SPEC"], ["check", "SPEC"],
    ["null-test", "SPEC", "--set", "sweep.grid={}"], ["validate", "SPEC", "--set", "problem.\x1b[2J=1"],
    ["estimate", "RUN", "--estimator", "\x1b[2J"], ["logs", "RUN", "\x1b[2J"], ["status", "FOLDER"], ["data", "list"],
    ["retry", "RUN", "\x1b[2J"], ["query", "RUN"], ["query", "RUN", "select * from '\x1b[2J'"],
    *(["query", "RUN", "from trials", "--format", style] for style in ("table", "md", "csv", "json")),
    *(["query", "RUN", "--format", style] for style in ("md", "csv", "json")),
    *(["compare", "RUN", "OTHER", "--format", style] for style in ("table", "md", "csv", "json")),
    ["query", "RUN", "select chr(27) || 'x' || chr(10) || '  forged' as \"a\x1b[2J\""],
]  # fmt: skip


# Names of sixty characters take much of a figure, which is another matter.
@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command).encode("unicode_escape").decode())
def test_whatever_names_and_errors_hold_no_command_sends_it_to_the_terminal(
    hostile: tuple[Path, Path], command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, run = hostile
    failed = next(row["trial_id"] for row in trial_rows(run) if row["status"] == "failed")
    if "OTHER" in command and not (other := run.with_name("other\x1b[2J")).exists():
        shutil.copytree(run, other)
    words = {
        "OTHER": str(run.with_name("other\x1b[2J")),
        "RUN": str(run),
        "SPEC": str(spec),
        "FOLDER": str(run.parent),
        "FAILED": failed,
    }
    monkeypatch.setattr("sys.argv", ["clipsweep", *(words.get(word, word) for word in command)])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr()
    said = shown.out + shown.err
    assert said.strip()
    assert "internal error" not in said
    assert [line for line in said.split("\n") if not line.isprintable()] == []
    assert not any(line.startswith("  forged") for line in said.split("\n")), "a name cannot make lines of its own"


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
def test_a_plot_of_such_names_is_drawn(hostile: tuple[Path, Path]) -> None:
    _, run = hostile
    done = CliRunner().invoke(app, ["plot", str(run), "loss"])
    assert done.exit_code == 0
    assert (run / "plots" / "loss.png").stat().st_size > 0


def test_json_is_whole_and_says_what_the_names_are(hostile: tuple[Path, Path]) -> None:
    _, run = hostile
    document = json.loads(CliRunner().invoke(app, ["status", str(run), "--json"]).output)
    assert any(
        "\x1b]0;owned\x07cannot" in failure["error"] or "\x1b" in failure["error"] for failure in document["failures"]
    )
