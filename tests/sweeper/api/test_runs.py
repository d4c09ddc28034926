"""Runs from Python answer what the commands answer, and show themselves with nothing of a name as markup."""

from __future__ import annotations

import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sweeper
from sweeper.api.answers import Answer
from sweeper.api.runs import Run
from sweeper.api.specs import Spec, load_spec
from sweeper.cli.app import app
from sweeper.driver.interrupts import listen_for_interrupts
from sweeper.errors import ClipsweepError
from sweeper.report.render.fragments import html_fragment
from sweeper.report.render.table import Column, Table
from sweeper.spec.sweep import Sweep
from sweeper.tables.run import Run as Tables

SPEC = """
name: small
problem: {use: deep_linear}
update_rule: {learning_rate: 0.01}
train: {steps: 20}
measure: {every: 2}
sweep:
  grid: {update_rule.clip_norm: [null, 1.0]}
  seeds: 2
"""
HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m'\"&"
COMMANDS = ("report", "fit", "advise")


@pytest.fixture(scope="module")
def path(module_inline_run: Callable[[str], Any]) -> Path:
    folder: Path = module_inline_run(SPEC).run_dir.path
    return folder


@pytest.fixture
def run(path: Path) -> Run:
    return Run(path)


class Tags(HTMLParser):
    """Which elements there are, and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def answers(run: Run) -> list[Answer[Any]]:
    return [run.report(), run.fit(), run.advise()]


@pytest.mark.parametrize("style", ["table", "md", "csv", "json"])
@pytest.mark.parametrize("command", COMMANDS)
def test_answers_are_those_of_the_command(run: Run, path: Path, command: str, style: str) -> None:
    printed = CliRunner().invoke(app, [command, str(path), "--format", style]).stdout
    assert getattr(run, command)().text(style) == printed.rstrip("\n")


def test_a_comparison_takes_runs_and_directories(run: Run, path: Path, inline_run: Callable[..., Any]) -> None:
    other = inline_run(SPEC, name="other")().run_dir.path
    printed = CliRunner().invoke(app, ["compare", str(path), str(other)]).stdout
    assert str(run.compare(other)) == str(run.compare(Tables(other))) == printed.rstrip("\n")


def test_conditions_may_be_one_text(run: Run) -> None:
    assert len(run.report(where="clip_norm=1").found.cells) == 1
    assert run.report(where="clip_norm=1").to_dict() == run.report(where=["clip_norm=1"]).to_dict()
    with pytest.raises(ClipsweepError, match="clip_nrm"):
        run.report(where="clip_nrm=1")


def test_answers_hold_the_numbers_behind_them(run: Run) -> None:
    assert [cell.trials for cell in run.report().found.cells] == [2, 2]
    assert len(run.fit().found) == len(run.fit().to_dict()["cells"]) == 2


def test_a_style_that_does_not_exist_is_an_error_of_clipsweep(run: Run) -> None:
    with pytest.raises(ClipsweepError, match="unknown format 'xml'"):
        run.report().text("xml")


def test_notebooks_get_a_table_and_terminals_text(run: Run) -> None:
    for answer in answers(run):
        shown = answer._repr_mimebundle_()
        assert shown["text/plain"] == str(answer) == answer.text()
        assert shown["text/html"] == answer._repr_html_()
        tags = {tag for tag, _ in Tags(shown["text/html"]).found}
        assert {"table", "th", "td"} <= tags <= {
            "div", "p", "strong", "table", "caption", "br", "thead", "tbody", "tr", "th", "td", "ul", "li",
        }  # fmt: skip
        assert all(not attrs or attrs == {"scope": "col"} for _, attrs in Tags(shown["text/html"]).found)
        assert re.fullmatch(r"<\w+ \w+ .+>", repr(answer))


def test_nothing_of_a_name_becomes_markup_or_reaches_a_terminal() -> None:
    column = Column(head=HOSTILE, cells=[HOSTILE, "1"])
    table = Table(title=HOSTILE, columns=[column], labels=["a", "b"])
    shown = html_fragment(HOSTILE, [table], [HOSTILE])
    assert "img" not in {tag for tag, _ in Tags(shown).found}
    assert not {"\u202e", "\x1b"} & set(shown)
    hostile = Answer(name=HOSTILE, found=(), _render=lambda style, **_: HOSTILE)
    assert not {"\u202e", "\x1b"} & set(str(hostile) + repr(hostile))


def test_a_long_table_shows_its_most_important_rows_and_how_many_it_leaves_out() -> None:
    names = [str(number) for number in range(100)]
    table = Table(title="t", columns=[Column(head="h", cells=names)], labels=names, order=list(range(99, -1, -1)))
    shown = html_fragment("run", [table], [])
    assert "<td>99</td>" in shown
    assert "<td>0</td>" not in shown
    assert "40 more rows" in shown


def test_a_page_is_written_and_shown_in_a_frame_without_rights(run: Run, tmp_path: Path) -> None:
    file = run.to_html(tmp_path / "page.html")
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    page = run.page(where="clip_norm=1")
    ((tag, attrs),) = Tags(page._repr_html_()).found
    assert (tag, attrs["sandbox"], attrs["srcdoc"]) == ("iframe", "allow-scripts", page.html)
    assert page.answer[0] in str(page)
    with pytest.raises(ClipsweepError, match="cannot be written"):
        page.to_html(tmp_path / "nowhere" / "page.html")


def test_a_run_says_how_its_trials_stand(run: Run, path: Path) -> None:
    assert str(run) == f"{path}: 4 trials: 4 done"
    assert "4 done" in run._repr_html_()
    assert isinstance(run, Tables)
    assert run.outcome is None


def test_runs_and_answers_can_be_pickled(run: Run) -> None:
    again = pickle.loads(pickle.dumps(run))
    assert (type(again), again.path) == (Run, run.path)
    for answer in [*answers(run), run.page()]:
        assert str(pickle.loads(pickle.dumps(answer))) == str(answer)


def test_a_loaded_spec_is_a_sweep_that_can_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SPEC, encoding="utf-8")
    spec = load_spec(file, ["train.steps=30"])
    assert isinstance(spec, Spec)
    assert isinstance(spec, Sweep)
    assert spec.train.steps == 30
    asked: dict[str, Any] = {}

    def ended(sweep: Sweep, **options: Any) -> Any:
        from sweeper.run import Outcome
        from sweeper.store.journal import Unmeasured
        from sweeper.store.run_dir import RunDir

        asked.update(options, sweep=sweep)
        run_dir = RunDir(options["out"])
        run_dir.create()
        run_dir.journal.touch()
        return Outcome(
            run_dir=options["out"], counts={"failed": 1}, interrupted=False, seconds=1.0, earlier_s=0.0,
            unmeasured=Unmeasured(total=0, errors={}), spent=None,
        )  # fmt: skip

    monkeypatch.setattr("sweeper.run.run_sweep", ended)
    run = spec.run(out=str(tmp_path / "there"), address="local")
    assert (asked["sweep"], asked["address"]) == (spec, "local")
    assert run.path == tmp_path / "there"
    assert run.outcome is not None
    assert run.outcome.exit_code == 1


def test_a_sweep_in_a_thread_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen: list[Any] = []

    def listen() -> None:
        with listen_for_interrupts(seen.append) as interrupts:
            seen.append(interrupts.requested())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [False]
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_reading_a_spec_from_python_loads_neither_ray_nor_torch_nor_pandas() -> None:
    code = (
        "import sys, sweeper; sweeper.load_spec, sweeper.Spec, sweeper.NotebookDisplay;"
        "print([name for name in ('ray', 'torch', 'pandas', 'pyarrow', 'IPython') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_run_of_the_top_is_the_one_that_answers() -> None:
    assert (sweeper.Run, sweeper.load_spec) == (Run, load_spec)
