"""Exceptions with odd texts, from the user's code to journal, log, report and terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sweeper.errors import clean_text, error_line, error_text, error_traceback
from sweeper.monitor.status import run_status, trial_log
from sweeper.tables.run import Run

PROBLEM = """
import torch
from torch import nn
from trainers.problem import Problem

class Unspeakable(Exception):
    def __str__(self):
        return self.args[7]

RAISED = {
    "bytes": lambda: FileNotFoundError("no text in caf\\udce9.txt"),
    "mute": lambda: Unspeakable("secret"),
    "long": lambda: ValueError("x" * 2_000_000),
    "lines": lambda: ValueError("first\\n" * 100_000),
}

def odd(*, how, where="loss"):
    def loss(model, batch, carry):
        if where == "loss" or (where == "probe" and batch.sum() == 8):
            raise RAISED[how]()
        return model(batch).square().mean(), carry

    return Problem(
        model=nn.Linear(3, 1), loss=loss, batch=lambda step: torch.ones(4, 3),
        probe=lambda fraction: [torch.full((4, 2), 1.0)], steps_per_epoch=1, fingerprint="odd",
    )
"""

SPEC = """
problem: {use: 'odd_errors:odd', how: bytes, where: WHERE}
update_rule: {learning_rate: 0.1}
train: {steps: 2}
measure: {every: 1}
sweep: {grid: {problem.how: [bytes, mute, long, lines]}}
"""

LINES = {
    "bytes": "FileNotFoundError: no text in caf\\xe9.txt",
    "mute": "Unspeakable: <no text: its __str__ raised IndexError>",
    "long": "ValueError: xxx",
    "lines": "ValueError: first",
}


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("\udcff\ud800"),
        Unspeakable(),
        ValueError("x" * 2_000_000),
        ValueError("x\n" * 1_000_000),
        ExceptionGroup("many", [ValueError("\udcff" * 1000) for _ in range(1000)]),
    ],
)
def test_a_text_of_any_exception_can_be_encoded_and_is_not_endless(error: Exception) -> None:
    for text in (error_line(error), error_text(error), error_traceback(error)):
        assert text.encode()
        assert len(text) < 70_000
    assert len(error_line(error)) < 600
    assert "\n" not in error_line(error)


def test_undecodable_bytes_are_written_out() -> None:
    assert clean_text("caf\udce9") == "caf\\xe9"
    assert clean_text("half a pair \ud800") == "half a pair \\ud800"
    assert clean_text("Schrödinger 猫") == "Schrödinger 猫"


def test_a_cut_text_says_how_long_it_was() -> None:
    assert error_line(ValueError("x" * 1000)).endswith("xxx... (1012 characters)")
    assert error_text(ValueError("x" * 2_000_000)).endswith("xxx... (2000000 characters)")


def test_a_traceback_of_a_deep_recursion_keeps_its_beginning_and_its_end() -> None:
    def deeper(n: int) -> int:
        return deeper(n - 1) if n else even_deeper(200)

    def even_deeper(n: int) -> int:
        if not n:
            raise ValueError("at the bottom " + "x" * 100_000)
        return deeper_still(n)

    def deeper_still(n: int) -> int:
        return even_deeper(n - 1)

    with pytest.raises(ValueError, match="at the bottom") as raised:
        deeper(50)
    text = error_traceback(raised.value)
    assert text.startswith("Traceback (most recent call last):")
    assert "ValueError: at the bottom" in text
    assert len(text) < 66_000


def test_odd_texts_of_a_trial_s_code_fail_the_trial_alone(
    tmp_path: Path, inline_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "odd_errors.py").write_text(PROBLEM)
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    run = inline_run(SPEC.replace("WHERE", "loss"))(max_attempts=1)
    path = run.run_dir.path
    trials = Run(path).trials.set_index("problem.how")
    assert list(trials["status"]) == ["failed"] * 4
    for how, line in LINES.items():
        assert trials["error"][how].startswith(line)
        assert len(trials["error"][how]) < 600
        log = "\n".join(trial_log(path, trials["trial_id"][how]))
        assert line.partition("xxx")[0].partition(": ")[0] in log
        assert "odd_errors.py" in log, "the traceback is there"
        assert len(log) < 150_000
    assert all(line.isprintable() for line in run.listener.lines)
    assert max(map(len, run.listener.lines)) < 1000
    assert (path / "journal.jsonl").stat().st_size < 30_000
    assert json.dumps(run_status(path), ensure_ascii=False).encode()


def test_odd_texts_of_a_measured_loss_leave_their_measurements_empty(
    tmp_path: Path, inline_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "odd_errors.py").write_text(PROBLEM)
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    run = Run(inline_run(SPEC.replace("WHERE", "probe"))(max_attempts=1).run_dir.path)
    assert list(run.trials["status"]) == ["done"] * 4
    errors = run.measurements().merge(run.trials[["trial_id", "problem.how"]]).groupby("problem.how")["error"].first()
    for how, line in LINES.items():
        assert errors[how].startswith(line)
        assert len(errors[how]) < 600


IMPURE = """
import torch
from torch import nn
from trainers.problem import Problem

def shuffled(*, own):
    generator = torch.Generator().manual_seed(0) if own else None
    return Problem(
        model=nn.Linear(3, 1), loss=lambda model, batch, carry: (model(batch[0]).square().mean(), carry),
        batch=lambda step: (torch.randn(4, 3, generator=generator), torch.ones(4)),
        probe=lambda fraction: [(torch.ones(4, 3),)], steps_per_epoch=1, fingerprint="shuffled",
    )
"""


def test_a_trial_whose_batches_are_no_function_of_the_step_fails_at_once_and_says_how_to_mend_it(
    tmp_path: Path, inline_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is drawn from torch's global generator is one, since training seeds it before every step."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "shuffled_batches.py").write_text(IMPURE)
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    text = (
        "problem: {use: 'shuffled_batches:shuffled', own: true}\nupdate_rule: {learning_rate: 0.1}\n"
        "train: {steps: 20}\nsweep: {grid: {problem.own: [true, false]}}\n"
    )
    run = Run(inline_run(text)(max_attempts=1).run_dir.path)
    trials = run.trials.set_index("problem.own")
    assert trials["status"].to_dict() == {True: "failed", False: "done"}
    assert set(run.metrics["trial_id"]) == {trials["trial_id"][False]}, "not a step was trained"
    error = trials["error"][True]
    assert error.startswith("TrainerError: batch(0) is different when it is called again, after batch(1): part [0] by")
    assert "torch.Generator().manual_seed(a number made of seed and step)" in error


def test_an_internal_error_with_an_odd_text_still_ends_with_a_message(tmp_path: Path) -> None:
    code = (
        "import sweeper.cli.app as app, sys\n"
        "class Mute(Exception):\n"
        "    def __str__(self): raise KeyError(1)\n"
        "def broken(): raise Mute('a') from ValueError('caf\\udce9')\n"
        "app.app = broken\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 3
    first, second, *more = done.stderr.decode().splitlines()
    assert first == "internal error: Mute: <no text: its __str__ raised KeyError>"
    assert not more
    log = Path(second.removeprefix("the traceback is in ").partition(";")[0])
    assert "caf\\xe9" in log.read_text(encoding="utf-8")
    log.unlink()
