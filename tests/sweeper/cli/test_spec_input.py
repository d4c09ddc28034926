"""A spec on standard input is what a file in the current folder would be."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli import spec_input
from sweeper.run import Outcome
from sweeper.store.journal import Unmeasured

Ask = Callable[..., Any]

SPEC = "problem: {use: deep_linear}\nupdate_rule: {learning_rate: 0.1}\ntrain: {steps: 5}\n"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """``pipe(text)``: what the next command finds on its standard input."""
    spec_input._text_of_stdin.cache_clear()

    def piped(text: str | bytes) -> None:
        spec_input._text_of_stdin.cache_clear()
        data = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    return piped


@pytest.mark.parametrize("command", ["validate", "plan", "check", "null-test", "run"])
def test_errors_name_the_place_in_standard_input(ask: Ask, pipe: Callable[..., None], command: str) -> None:
    pipe(SPEC.replace("learning_rate", "learning_rat"))
    shown = ask(command, "-")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("<stdin>:2:15: update_rule.learning_rat: unknown key\n    2 | update_rule")


def test_a_spec_on_standard_input_is_read_like_a_file_of_the_current_folder(
    ask: Ask, pipe: Callable[..., None], shown_folder: Path
) -> None:
    text = (shown_folder / "shown.yaml").read_text()
    pipe(text)
    piped = ask("plan", "-", "--json").document
    assert piped == ask("plan", "shown.yaml", "--json").document
    assert piped["done"] > 0, "it finds the run of the file, since its name is the same"
    (shown_folder / "below").mkdir(exist_ok=True)
    (shown_folder / "below" / "base.yaml").write_text(SPEC)
    pipe("overlay: below/base.yaml\ntrain: {steps: 7}\n")
    document = ask("plan", "-", "--set", "update_rule.learning_rate=0.5", "--json").document
    assert (document["steps"], Path(document["run"]).name) == (7, "sweep")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "<stdin>: is empty; `clipsweep init` writes a spec to start from"),
        (b"a: 1\nb: \xff", "<stdin>:2: is not UTF-8 text (byte 0xff)"),
        (b"#" * 1_000_001, "<stdin>: is larger than a megabyte, too large for a spec"),
    ],
    ids=["empty", "bytes", "large"],
)
def test_what_is_no_text_is_told(ask: Ask, pipe: Callable[..., None], data: bytes, said: str) -> None:
    pipe(data)
    shown = ask("validate", "-")
    assert (shown.code, shown.err) == (2, f"{said}\n")


def test_a_closed_standard_input_is_told(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    spec_input._text_of_stdin.cache_clear()
    monkeypatch.setattr("sys.stdin", None)
    shown = ask("validate", "-")
    assert (shown.code, shown.err) == (2, "<stdin>: is closed; give a file, or pipe a spec into the command\n")


def test_a_job_cannot_read_standard_input(ask: Ask, pipe: Callable[..., None]) -> None:
    for more in (["--detach"], ["--address", "http://head:8265"]):
        pipe(SPEC)
        shown = ask("run", "-", *more)
        assert shown.code == 2
        assert "cannot read this standard input: write the spec to a file" in shown.err


def test_a_run_keeps_the_text_and_says_how_to_continue(
    ask: Ask, pipe: Callable[..., None], shown_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    outcome = Outcome(
        run_dir=shown_folder / "runs" / "sweep",
        counts={"paused": 1},
        interrupted=True,
        seconds=3.0,
        earlier_s=0.0,
        spent=None,
        unmeasured=Unmeasured(total=0, errors={}),
    )

    def run(sweep: Any, **options: Any) -> Outcome:
        given.append(sweep)
        return outcome

    monkeypatch.setattr("sweeper.run.run_sweep", run)
    pipe(SPEC)
    shown = ask("run", "-", "--set", "train.steps=6")
    assert "run `clipsweep run - --set train.steps=6 < runs/sweep/spec.yaml` again to continue" in shown.err
    assert given[0].text == SPEC
    assert given[0].folder == shown_folder
    monkeypatch.setattr("sweeper.report.answers.extended_grid", lambda *anything: ["train.steps=9"])
    outcome = replace(outcome, interrupted=False, counts={"done": 1})
    pipe(SPEC)
    ask("run", "-", "--extend-edges", "1")
    assert [sweep.train.steps for sweep in given[1:]] == [5, 9], "standard input is read once"
