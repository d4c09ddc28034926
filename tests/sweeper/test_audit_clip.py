"""A step of the user's own, audited in processes of its own: whatever it does there, it is told, and nothing stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sweeper.audit_clip import audit_step
from sweeper.errors import ClipsweepError
from trainers.clip_audit.answers import Answer

STEPS = """
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.utils import clip_grad_norm_

number = 3

def prepare_nothing(model, make_optimizer):
    return model

def prepare_flat(model, make_optimizer):
    model.encoder = torch.nn.Linear(1, 1)
    return model, make_optimizer(model.parameters())

def plain(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    norm = clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return norm

def printing(model, optimizer, micro_batches):
    print("hello", flush=True)
    sys.exit("bad arguments")

def dying(model, optimizer, micro_batches):
    os._exit(3)

def hanging(model, optimizer, micro_batches):
    time.sleep(600)

def asking(model, optimizer, micro_batches):
    input("rate: ")

def waiting(model, optimizer, micro_batches):
    norm = plain(model, optimizer, micro_batches)
    if dist.get_rank() == 0 and norm > 1:
        dist.barrier()

def apart(model, optimizer, micro_batches):
    plain(model.module, optimizer, micro_batches)

def forking(model, optimizer, micro_batches):
    os.fork()
    plain(model, optimizer, micro_batches)

def two(model, optimizer):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_steps.py").write_text(STEPS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answers(folder: Path, name: str, *, ranks: int = 1, timeout_s: float = 30) -> list[Answer]:
    found = audit_step(f"my_steps:{name}", folder=folder, ranks=(ranks,), timeout_s=timeout_s)
    return [one.answer for one in found]


@pytest.mark.parametrize(
    ("step", "prepare", "text"),
    [
        ("my_steps", None, "'my_steps': write module:function, for example train:train_step"),
        ("my_steps:", None, "write module:function"),
        ("nowhere:step", None, "no module 'nowhere'"),
        ("nowhere.py:step", None, "nowhere.py: no such file"),
        ("my_steps:plane", None, "has no 'plane'; did you mean 'plain'?"),
        ("my_steps:number", None, "number is int 3, not a function"),
        ("my_steps:two", None, r"two\(model, optimizer\) cannot be called as two\(model, optimizer, micro_batches\)"),
        ("my_steps:plain", "prepared", "my_steps has no 'prepared', which --prepare names"),
        ("my_steps:plain", "prepare_nothing", r"prepare must return \(model, optimizer\), not LinearLoss"),
        ("my_steps.py:plain", "prepare_flat", "after prepare the model no longer has 'encoder.weight'"),
    ],
)
def test_what_cannot_be_audited_is_refused_with_what_would_be_accepted(
    folder: Path, step: str, prepare: str | None, text: str
) -> None:
    with pytest.raises(ClipsweepError, match=text):
        list(audit_step(step, folder=folder, ranks=(1,), prepare=prepare))


def test_a_module_that_raises_when_it_is_imported_is_told_with_its_line(folder: Path) -> None:
    (folder / "my_broken.py").write_text("def step(model, optimizer, micro_batches): ...\n\nimport no_such_library\n")
    line = re.escape(f"({folder / 'my_broken.py'}:3, in <module>: import no_such_library)")
    with pytest.raises(ClipsweepError, match=f"No module named 'no_such_library' {line}"):
        list(audit_step("my_broken:step", folder=folder, ranks=(1,)))


@pytest.mark.parametrize(
    ("name", "key", "text", "line"),
    [
        ("printing", "raises", "SystemExit: bad arguments", 'sys.exit("bad arguments")'),
        ("asking", "raises", "EOFError", 'input("rate: ")'),
        ("dying", "dies", "the process ended with exit code 3", None),
        ("hanging", "hangs", "the step had not come back after 2 s", "time.sleep(600)"),
    ],
)
def test_however_a_step_ends_it_is_one_finding_with_its_line(
    folder: Path, name: str, key: str, text: str, line: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    (answer,) = answers(folder, name, timeout_s=2)
    assert (answer.question, answer.verdict, answer.key) == ("runs", "finding", key)
    assert text in answer.found
    assert (None if answer.spot is None else answer.spot.code) == line
    if name == "printing":
        shown = capfd.readouterr()
        assert shown.out == ""
        assert "| hello" in shown.err


def test_a_rank_that_waits_for_one_that_has_gone_on_is_a_finding_with_its_line_and_the_size(folder: Path) -> None:
    *_, answer = answers(folder, "waiting", ranks=2, timeout_s=3)
    assert (answer.verdict, answer.key) == ("finding", "hangs")
    assert "rank 0 had not come back after 3 s, at gradients of norm 1e1" in answer.found
    assert answer.spot is not None
    assert answer.spot.code == "dist.barrier()"


def test_ranks_that_are_not_averaged_are_told_apart(folder: Path) -> None:
    found = {answer.question: answer for answer in answers(folder, "apart", ranks=2)}
    assert (found["accumulation"].verdict, found["accumulation"].key) == ("finding", "not averaged")
    assert "--ranks 1 if your training runs in one process" in found["accumulation"].fix
    assert (found["ranks agree"].verdict, found["ranks agree"].key) == ("finding", "differ")


def test_on_two_ranks_the_module_is_imported_when_ranks_have_met(folder: Path) -> None:
    met = "assert dist.get_world_size() == int(os.environ['WORLD_SIZE']) == 2"
    early = f"import os\nimport torch.distributed as dist\n{met}\n"
    (folder / "my_early.py").write_text(early + "def step(model, optimizer, micro_batches):\n    raise KeyError(1)\n")
    (answer,) = (one.answer for one in audit_step("my_early:step", folder=folder, ranks=(2,)))
    assert answer.found == "it raises: KeyError: 1 on every rank"


def test_a_step_that_forks_is_answered_once_by_the_process_that_was_asked(folder: Path) -> None:
    found = {answer.question: answer for answer in answers(folder, "forking")}
    assert len(found) == 12
    assert [answer for answer in found.values() if answer.verdict in {"finding", "cannot tell"}] == []


def test_a_module_that_switches_gradients_off_is_told_at_the_line_that_needs_them(folder: Path) -> None:
    (folder / "my_steps.py").write_text(STEPS + "\ntorch.set_grad_enabled(False)\n")
    (answer,) = answers(folder, "plain")
    assert (answer.question, answer.key) == ("runs", "raises")
    assert answer.spot is not None
    assert answer.spot.code.endswith(".backward()")


def ranks_of(pid: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(pid).children() if "serve_rank" in " ".join(one.cmdline())]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_audit_that_is_ended_leaves_no_rank_behind(folder: Path, how: signal.Signals) -> None:
    words = [sys.executable, "-m", "sweeper", "audit-clip", "my_steps:hanging", "--ranks", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as audit:
        until = time.monotonic() + 60
        while len(left := ranks_of(audit.pid)) < 2:
            assert time.monotonic() < until, "the ranks have not been started"
            time.sleep(0.1)
        time.sleep(1)
        audit.send_signal(how)
        _, said = audit.communicate(timeout=30)
    if how == signal.SIGINT:
        assert audit.returncode == 130
        assert said.endswith("interrupted; the step's processes are ended, and nothing was changed\n")
    _, alive = psutil.wait_procs(left, timeout=20)
    assert alive == []
