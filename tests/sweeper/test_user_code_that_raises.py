"""Errors and exits of a problem's code in ``clipsweep check`` and ``null-test``: each is told once, with its line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper.apart import Died, apart
from sweeper.check import Finding, check_sweep
from sweeper.null_test import null_test_document
from sweeper.spec import loads_spec

PROBLEM = """
import argparse, os, signal, sys, time
import torch
from torch import nn
from trainers.problem import Problem


class Mute(Exception):
    def __str__(self):
        raise KeyError(1)


def act(how):
    if how == "error": raise ValueError("no such width")
    if how == "exit": sys.exit(0)
    if how == "exit with text": sys.exit("bad arguments")
    if how == "quit": raise SystemExit
    if how == "interrupt": raise KeyboardInterrupt("mine")
    if how == "generator exit": raise GeneratorExit
    if how == "mute": raise Mute
    if how == "bytes": raise OSError("caf\\udce9")
    if how == "long": raise ValueError("x" * 2_000_000)
    if how == "parse": argparse.ArgumentParser().parse_args()
    if how == "input": input("width: ")
    if how == "file": open("data.txt")
    if how == "chained": raise RuntimeError("no data") from ValueError("why")
    if how == "group": raise ExceptionGroup("two", [ValueError("a"), ValueError("b")])
    if how == "hard exit":
        print("the last word", flush=True)
        os._exit(0)
    if how == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang": time.sleep(60)
    if how == "grad off": torch.set_grad_enabled(False)
    if how == "patch": nn.functional.gelu = nn.functional.relu


def acting(*, how, where):
    def at(place):
        if where == place: act(how)

    def loss(model, batch, carry):
        at("loss")
        if how == "no tuple": return model(batch).mean()
        return model(batch).square().mean(), carry

    def batch(step):
        at("batch")
        return torch.ones(4, 3) * (step + 1)

    def probe(share):
        at("probe")
        return None if how == "no probe" else [torch.ones(4, 3)]

    def evaluate(model):
        at("evaluate")
        wrong = {"no dict": 0.5, "no number": {"valid_loss": [0.5]}, "no name": {3: 0.5},
                 "a column": {"train_loss": 0.5}, "a line": {"a\\nb": 0.5}}
        return wrong.get(how, {"valid_loss": 0.5})

    print("built", flush=True)
    at("factory")
    factor = (lambda step: None) if how == "no factor" else (lambda step: 1.0)
    return Problem(model=nn.Linear(3, 1), loss=loss, batch=batch, probe=probe, evaluate=evaluate,
                   learning_rate_factor=factor, steps_per_epoch=2, fingerprint="acting")
"""

SPEC = """
problem: {{use: 'acting_problem:acting', how: '{how}', where: {where}}}
update_rule: {{learning_rate: 0.1}}
train: {{steps: 2}}
measure: {{every: 1}}
"""


def checked(folder: Path, hows: list[str], wheres: list[str]) -> dict[tuple[str, str], list[Finding]]:
    """What is found of the problem with each pair of options, in one process."""
    (folder / "acting_problem.py").write_text(PROBLEM)
    grid = f"sweep: {{grid: {{problem.how: {json.dumps(hows)}, problem.where: {json.dumps(wheres)}}}}}\n"
    findings: dict[tuple[str, str], list[Finding]] = {}
    for found in check_sweep(loads_spec(SPEC.format(how="error", where="factory") + grid, folder=folder)):
        how, where = re.findall(r"how=(.*), where=(.*)\)", found.problem)[0]
        findings.setdefault((how, where), []).append(found.finding)
    assert list(findings) == [(how, where) for how in hows for where in wheres]
    return findings


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(PROBLEM.splitlines(), start=1) if text in line)


BROKEN_BY = {
    "factory": ("a worker can import and build it from what is shipped", 10),
    "batch": ("batch(step) is a pure function of the step", 4),
    "loss": ("loss and gradient are finite at the initial weights", 4),
    "probe": ("the probe is frozen, and its batches all have the same size", 2),
    "evaluate": ("evaluating gives numbers and changes nothing", 0),
}
"""The promise that an error at each place breaks, and how many others cannot be tested then."""


@pytest.mark.parametrize(("how", "text"), [("error", "ValueError: no such width"), ("exit", "SystemExit: 0")])
def test_one_error_is_one_broken_promise_with_its_line_and_the_others_say_why_they_are_not_tested(
    tmp_path: Path, how: str, text: str
) -> None:
    number = line_of(f'how == "{how}"')
    for (_, where), findings in checked(tmp_path, [how], list(BROKEN_BY)).items():
        promise, num_untested = BROKEN_BY[where]
        assert len(findings) == 11
        (broken,) = (finding for finding in findings if finding.status == "broken")
        assert (broken.promise, broken.broken) == (promise, text)
        assert broken.line is not None
        assert broken.line.file == str(tmp_path / "acting_problem.py"), "where it is, not where it was copied to"
        assert (broken.line.number, broken.line.function) == (number, "act")
        assert broken.line.code.startswith(f'if how == "{how}": ')
        untested = [finding.untested for finding in findings if finding.status == "untested"]
        again = f"acting_problem.py:{number} raises {text.partition(':')[0]}"
        assert untested == ["it cannot be built" if where == "factory" else again] * num_untested
        assert sum(finding.holds for finding in findings) == 10 - num_untested


RAISED = {
    "exit with text": ("SystemExit: bad arguments", "raise an error in place of exiting"),
    "quit": ("SystemExit", "raise an error in place of exiting"),
    "interrupt": ("KeyboardInterrupt: mine", "raise an error in its place"),
    "generator exit": ("GeneratorExit", "raise an error in its place"),
    "mute": ("Mute: <no text: its __str__ raised KeyError>", ""),
    "bytes": ("OSError: caf\\xe9", ""),
    "long": ("ValueError: xxx", ""),
    "parse": ("SystemExit: 2", "parse arguments only under `if __name__ == '__main__':`"),
    "input": ("EOFError: EOF when reading a line", "a worker has no terminal"),
    "file": ("FileNotFoundError: [Errno 2] No such file or directory: 'data.txt'", "by absolute path"),
    "chained": ("RuntimeError: no data", ""),
    "group": ("ExceptionGroup: two (2 sub-exceptions)", ""),
}


def test_whatever_is_raised_is_a_broken_promise_with_its_text_and_what_to_do(tmp_path: Path) -> None:
    for (how, _), findings in checked(tmp_path, list(RAISED), ["factory"]).items():
        text, fix = RAISED[how]
        first = findings[0]
        assert [finding.status for finding in findings] == ["broken"] + ["untested"] * 10
        assert first.broken.startswith(text)
        assert len(first.broken) < 600
        assert fix in first.fix
        assert bool(first.fix) == bool(fix)
        assert first.line is not None
        assert first.line.number == line_of(f'how == "{how}"')


ENDED = {
    ("hard exit", "factory"): (0, "the process ended with exit code 0; it printed last: the last word"),
    ("hard exit", "evaluate"): (8, "the process ended with exit code 0; it printed last: the last word"),
    ("crash", "factory"): (0, "the process was ended by SIGSEGV; it printed last: built"),
    ("crash", "evaluate"): (8, "the process was ended by SIGSEGV; it printed last: built"),
    ("nothing", "factory"): (11, ""),
    ("nothing", "evaluate"): (11, ""),
}


def test_a_process_that_ends_amid_a_promise_is_told_with_what_it_printed_and_the_next_problem_is_tested(
    tmp_path: Path,
) -> None:
    for options, findings in checked(tmp_path, ["hard exit", "crash", "nothing"], ["factory", "evaluate"]).items():
        at, ended = ENDED[options]
        statuses = [finding.status for finding in findings]
        assert statuses == (["ok"] * at + ["broken"] + ["untested"] * 10)[:11]
        if ended:
            assert findings[at].broken == ended
            assert {finding.untested for finding in findings[at + 1 :]} <= {"the process has ended"}


def test_what_one_promise_or_problem_sets_for_the_process_does_not_break_the_next(tmp_path: Path) -> None:
    found = checked(tmp_path, ["grad off", "patch", "nothing"], ["evaluate", "factory"])
    for findings in found.values():
        assert findings[-1].promise.startswith("a snapshot can be measured")
    assert all(finding.holds for finding in found["grad off", "evaluate"]), "as its trials would, up to the evaluation"
    (broken, *_) = (finding for finding in found["grad off", "factory"] if finding.status == "broken")
    assert "does not depend on the model's parameters" in broken.broken
    for how in ("patch", "nothing"):
        assert all(finding.holds for finding in found[how, "factory"])
    told = "but it leaves behind what cannot be put back for other trials (torch.nn.functional.gelu): do that where "
    assert found["patch", "factory"][0].note.startswith(told)
    assert not found["nothing", "factory"][0].note


WRONG = {
    "no tuple": (
        "def loss",
        "loss (acting_problem.py:{}) must return the mean loss and the carry, not a tensor of shape (): end it with "
        "`return loss, carry`",
    ),
    "no dict": ("def evaluate", "evaluate (acting_problem.py:{}) must return a dict of metrics by name, not float 0.5"),
    "no number": (
        "def evaluate",
        "evaluate (acting_problem.py:{}) must give a number for the metric 'valid_loss', not a list of 1",
    ),
    "a column": (
        "def evaluate",
        "evaluate (acting_problem.py:{}) must name its metrics differently: the metric 'train_loss' is called like the "
        "column train_loss that every trial has: rename it, for example own_train_loss",
    ),
    "a line": (
        "def evaluate",
        "evaluate (acting_problem.py:{}) must name its metrics differently: the metric 'a\\nb' has characters that "
        "cannot be printed in its name",
    ),
    "no name": ("def evaluate", "evaluate (acting_problem.py:{}) must name its metrics by texts, not int 3"),
    "no probe": (
        "def probe",
        "probe (acting_problem.py:{}) must return the batches, for example in a list, not None",
    ),
    "no factor": ("factor =", "learning_rate_factor (acting_problem.py:{}) must return a number, not None"),
}


def test_what_returns_the_wrong_thing_is_named_with_its_line(tmp_path: Path) -> None:
    for (how, _), findings in checked(tmp_path, list(WRONG), ["nowhere"]).items():
        (broken,) = (finding for finding in findings if finding.status == "broken")
        defined, text = WRONG[how]
        assert broken.broken == text.format(line_of(defined))


# The null test


def test_exits_fail_the_null_test_with_text_and_line(tmp_path: Path) -> None:
    (tmp_path / "acting_problem.py").write_text(PROBLEM)
    text = {
        "exit": "SystemExit: 0",
        "interrupt": "KeyboardInterrupt: mine",
        "mute": "Mute: <no text",
        "parse": "SystemExit: 2",
        "hard exit": "the process ended with exit code 0; it printed last: the last word",
        "nothing": "the same weights twice differ by 0",
    }
    grid = f"sweep: {{grid: {{problem.where: [factory, loss], problem.how: {json.dumps(list(text))}}}}}\n"
    document = null_test_document(loads_spec(SPEC.format(how="error", where="loss") + grid, folder=tmp_path))
    assert not document["passed"]
    for row, how in zip(document["problems"], [*text, *text], strict=True):
        assert text[how] in row["verdict"]
        if row["verdict"].startswith("raised"):
            number = line_of(f'how == "{how}"')
            assert f"({tmp_path / 'acting_problem.py'}:{number}, in act)" in row["verdict"]
        assert row["passed"] == (how == "nothing")
        assert (row["again"] is None) == (how != "nothing")


# The command line


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "sweeper", *arguments], cwd=folder, stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.parametrize("name", ["check", "null-test"])
def test_what_user_code_prints_is_kept_out_of_the_json_and_an_exit_is_never_exit_code_0(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "acting_problem.py").write_text(PROBLEM)
    (tmp_path / "spec.yaml").write_text(SPEC.format(how="exit", where="factory"))
    process = command(tmp_path, name, "spec.yaml", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "SystemExit: 0" in json.dumps(json.loads(out))
    assert err.startswith("| built\n")
    assert "Traceback" not in err


def test_the_screen_names_file_and_line_as_the_user_types_them(tmp_path: Path) -> None:
    (tmp_path / "acting_problem.py").write_text(PROBLEM)
    (tmp_path / "spec.yaml").write_text(SPEC.format(how="error", where="loss"))
    process = command(tmp_path, "check", "spec.yaml")
    out, err = process.communicate(timeout=120)
    number = line_of('how == "error"')
    assert (
        "  BROKEN  loss and gradient are finite at the initial weights\n"
        "          found: ValueError: no such width\n"
        f'          line:  acting_problem.py:{number}, in act: if how == "error": raise ValueError("no such width")\n'
        "  -       the same weights and batch give the same loss and gradient: "
        f"not tested, acting_problem.py:{number} raises ValueError\n"
    ) in out
    assert err.endswith("1 of 11 promises broken, 4 not tested\n")


def test_ctrl_c_ends_a_check_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    told = f"\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    (tmp_path / "acting_problem.py").write_text(PROBLEM + told)
    (tmp_path / "spec.yaml").write_text(SPEC.format(how="hang", where="factory"))
    process = command(tmp_path, "check", "spec.yaml")
    for _ in range(600):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    pid = int((tmp_path / "pid").read_text())
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 5
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# The process of its own


def test_a_mistake_of_ours_in_the_other_process_is_raised_in_this_one_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)^in another process:\nTraceback.*TypeError: .*'problem'"):
        list(apart("sweeper.workers.examiner:null_test_problem", [{}]))


def test_how_a_process_died_is_told_in_words() -> None:
    assert Died(how="the process ended with exit code 3", printed="").words == "the process ended with exit code 3"
    died = Died(how="the process was ended by SIGKILL", printed="one\ntwo\n")
    assert died.words == "the process was ended by SIGKILL; it printed last: two"


TALKING = """
import time, warnings
import torch
from torch import nn
from trainers.problem import Problem

def talking(*, how):
    if how == "hangs":
        print("connecting", end="", flush=True)
        time.sleep(60)
    if how == "talks":
        print("loading\\nloaded", end="", flush=True)
        warnings.warn("this is old")
    inputs = torch.linspace(-1, 1, 16).view(8, 2)
    return Problem(model=nn.Linear(2, 1), loss=lambda model, batch, carry: (model(batch).square().mean(), carry),
                   batch=lambda step: inputs, probe=lambda share: [inputs], steps_per_epoch=4, fingerprint="talks")
"""


def talking(folder: Path, how: str) -> None:
    (folder / "talking_problem.py").write_text(TALKING)
    (folder / "talking.yaml").write_text(
        f"problem: {{use: 'talking_problem:talking', how: {how}}}\nupdate_rule: {{learning_rate: 0.1}}\n"
        "train: {steps: 1}\n"
    )


@pytest.mark.parametrize("command", ["check", "null-test"])
def test_what_user_code_prints_stands_on_lines_of_its_own_and_names_the_users_files(
    command: str, tmp_path: Path
) -> None:
    talking(tmp_path, "talks")
    ended = subprocess.run(
        [sys.executable, "-m", "sweeper", command, "talking.yaml"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("|")]
    assert lines[:2] == ["| loading", f"| loaded{tmp_path}/talking_problem.py:13: UserWarning: this is old"]
    assert lines[2] == '|   warnings.warn("this is old")'
    assert "clipsweep-code" not in ended.stderr + ended.stdout
    assert [line for line in ended.stderr.splitlines() if line not in lines] == ["all 9 promises hold"] * (
        command == "check"
    )


@pytest.mark.parametrize("command", ["check", "null-test"])
def test_code_that_hangs_is_told_of_and_ended_at_once(command: str, tmp_path: Path) -> None:
    talking(tmp_path, "hangs")
    program = (
        "import sweeper.apart as apart\napart._PATIENCE_S = 1.5\napart._SILENCE_S = 0.2\n"
        "from sweeper.cli.app import main\nmain()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, command, "talking.yaml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("talking_problem:talking (how=hangs): still ") or (
        process.stderr.readline().startswith("talking_problem:talking (how=hangs): still ")
    )
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    said = process.stderr.read()
    assert process.wait() == 130
    assert time.monotonic() - started < 5
    assert said.splitlines()[-1] == "interrupted; the problem's process is ended, and nothing was changed"
    process.stderr.close()


def test_what_is_waited_for_is_told_ever_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talking(tmp_path, "hangs")
    monkeypatch.setattr("sweeper.apart._PATIENCE_S", 0.5)
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if "after 4 s" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(check_sweep(loads_spec((tmp_path / "talking.yaml").read_text(), folder=tmp_path), say=say))
    assert len(told) <= 8, "at 0.5, 1, 2 and 4 s, and before that while torch was imported"
    assert told[-1].endswith("that a worker can import and build it from what is shipped; Ctrl-C ends it")
