"""``on`` of a spec: real commands and a real server, once per event, with the user's consent."""

from __future__ import annotations

import json
import logging
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import ClipsweepError, SpecError
from sweeper.notify.hooks import Called, called_on, require_hooks_allowed
from sweeper.planning.plan import expand, measurement_id
from sweeper.protocol.consent import Consent
from sweeper.protocol.notices import _NAMES, FORMAT, RunEnded, RunStarted, TrialTold, document_of
from sweeper.run import run_sweep
from sweeper.spec import loads_spec
from sweeper.spec.sections.hooks import Hook, Hooks
from sweeper.store.run_dir import RunDir

DIVERGED = {"format": 1, "event": "trial_diverged", "at": "now", "run": "runs/x", "trial_id": "a"}
FAILED = {**DIVERGED, "event": "trial_failed"}
ENDED = {"format": 1, "event": "run_ended", "at": "now", "run": "runs/x", "finished": True, "did_nothing": False}

SPEC = """
problem: {use: deep_linear, layers: 2, width: 4, samples: 16, batch_size: 8}
update_rule: {learning_rate: 0.01}
train: {steps: 4}
measure: {every: 2, estimators: [{use: directional_smoothness}]}
"""
ON = """
on:
  diverged: {command: [./told.sh, "of it"], timeout_s: 60}
  failed: {command: [./told.sh]}
  done: {command: [./told.sh]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec's folder with a command that appends what it reads to ``told``."""
    script = tmp_path / "told.sh"
    script.write_text("#!/bin/sh\ncat >> told\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def told(folder: Path) -> list[str]:
    file = folder / "told"
    return [json.loads(line)["event"] for line in file.read_text().splitlines()] if file.exists() else []


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[Any]]]:
    """A server on this machine that remembers what is posted to it."""
    heard: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((self.path, dict(self.headers), json.loads(body)))
            answer(self)

        def log_message(self, *arguments: Any) -> None:
            return None

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", heard
        finally:
            listening.shutdown()
            thread.join()


def test_each_hook_is_called_for_its_own_events_and_done_at_the_end_of_what_was_done(folder: Path) -> None:
    hooks = loads_spec(SPEC + ON, folder=folder).hooks
    with called_on(hooks, folder) as (called, problems):
        for document in (DIVERGED, FAILED, ENDED):
            for hook in called:
                hook.hear(document)
        for nothing in ({"finished": False}, {"did_nothing": True}, {"event": "run_started"}, {"event": "trial_done"}):
            for hook in called:
                hook.hear({**ENDED, **nothing})
    assert problems == []
    assert sorted(told(folder)) == ["run_ended", "trial_diverged", "trial_failed"]


def test_a_post_has_the_event_as_json_and_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("SECRET", "secret")

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(204)
        request.end_headers()

    with server(answer) as (url, heard):
        hook = Called("diverged", Hook(post=f"{url}/hook?a=1", timeout_s=60), tmp_path)
        hook.hear(DIVERGED)
        assert hook.close() is None
    ((path, headers, body),) = heard
    assert (path, headers["Content-Type"], body) == ("/hook?a=1", "application/json", DIVERGED)
    assert "secret" not in str(heard)


def test_a_refusal_and_a_redirect_are_failures_noted_once_without_the_url(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "/elsewhere")
        request.end_headers()

    with server(answer) as (url, heard), caplog.at_level(logging.WARNING):
        hook = Called("diverged", Hook(post=f"{url}/secret-token", timeout_s=60), tmp_path)
        for _ in range(3):
            hook.hear(DIVERGED)
        assert hook.close() == "on.diverged: 3 calls failed; see the driver's log"
    assert [path for path, _, _ in heard] == ["/secret-token"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "on.diverged: 127.0.0.1 answered with a redirect (3xx), which is not followed; later failures are only counted"
    ]


def test_a_server_that_never_answers_is_given_up_in_time_and_holds_nobody_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hook = Called("failed", Hook(post=f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.5), tmp_path)
        hook.hear(FAILED)
        assert hook.close() == "on.failed: 1 call failed; see the driver's log"


def test_a_command_that_hangs_loses_events_and_leaves_nothing_running(tmp_path: Path) -> None:
    hook = Called("failed", Hook(command=("sleep", "600"), timeout_s=0.3), tmp_path)
    for _ in range(300):
        hook.hear(FAILED)
    problem = hook.close()
    assert problem is not None
    assert "left out, as calls take too long" in problem
    assert not hook._outlet._thread.is_alive()


# Consent


@pytest.mark.parametrize(
    ("hook", "named"),
    [
        ({"command": ("true", "x")}, "on.done runs true"),
        ({"command": ("/bin/sh", "-c", "true")}, "on.done runs /bin/sh"),
        ({"command": ("../folder/../outside.sh",)}, "on.done runs ../folder/../outside.sh"),
        ({"command": ("./link.sh",)}, "on.done runs ./link.sh"),
        ({"post": "https://user:password@example.org/token"}, "on.done posts to example.org;"),
    ],
)
def test_what_is_not_in_the_specs_folder_needs_consent(tmp_path: Path, hook: dict[str, Any], named: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.sh").symlink_to("/bin/sh")
    (tmp_path / "outside.sh").symlink_to("/bin/sh")
    hooks = Hooks(done=Hook(**hook))
    with pytest.raises(ClipsweepError, match="--allow-code") as raised:
        require_hooks_allowed(hooks, folder, allow_code=False)
    assert named in str(raised.value)
    assert "password" not in str(raised.value)
    require_hooks_allowed(hooks, folder, allow_code=True)


@pytest.mark.parametrize("program", ["./nope.sh", "no-such-program"])
def test_a_program_that_is_not_there_is_told_before_the_sweep_and_not_hours_later(tmp_path: Path, program: str) -> None:
    with pytest.raises(ClipsweepError, match=rf"on\.failed: no program {program} can be run"):
        require_hooks_allowed(Hooks(failed=Hook(command=(program,))), tmp_path, allow_code=True)


def test_a_port_that_there_is_not_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a port is a number up to 65535"):
        loads_spec(SPEC + "on: {done: {post: 'http://host:99999/x'}}\n", folder=tmp_path)


def test_a_command_of_the_specs_folder_needs_none(folder: Path) -> None:
    hooks = loads_spec(SPEC + ON, folder=folder).hooks
    assert hooks is not None
    require_hooks_allowed(hooks, folder, allow_code=False)
    require_hooks_allowed(Hooks(done=Hook(command=(str(folder / "told.sh"),))), folder, allow_code=False)


def test_without_consent_a_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    sweep = loads_spec(SPEC + "on: {done: {command: [notify-send]}}", folder=tmp_path)
    with pytest.raises(ClipsweepError, match=r"on\.done runs notify-send"):
        run_sweep(sweep, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# Specs and runs


def test_hooks_change_no_id_and_may_be_changed_in_a_resumed_run(
    folder: Path, inline_run: Callable[..., Any], new_listener: Callable[[], Any]
) -> None:
    without, with_hooks = loads_spec(SPEC, folder=folder), loads_spec(SPEC + ON, folder=folder)
    before, after = expand(without), expand(with_hooks)
    assert [trial.trial_id for trial in before.trials] == [trial.trial_id for trial in after.trials]
    assert measurement_id(without.measure, before.code) == measurement_id(with_hooks.measure, after.code)
    assert "on" not in without.resolved()
    assert with_hooks.resolved()["on"]["diverged"]["command"] == ["./told.sh", "of it"]
    done = inline_run(SPEC)()
    documents: list[Any] = []

    class Hears:
        def hear(self, document: Any) -> None:
            documents.append(document)

    sweep = loads_spec(SPEC + ON, folder=folder)
    consent = Consent(new_measurement=True, drift=True)
    outcome = run_sweep(sweep, out=done.run_dir.path, listener=new_listener(), consent=consent, hears=[Hears()])
    assert outcome.seconds is None
    assert [document["event"] for document in documents] == ["run_started", "run_ended"]
    assert (documents[0]["to_train"], documents[1]["did_nothing"], documents[1]["exit_code"]) == (0, True, 0)
    assert told(folder) == [], "an earlier driver was done, and its hooks were called then"


def test_a_run_that_is_refused_ends_with_its_exit_code_for_those_who_hear(
    tmp_path: Path, inline_run: Callable[..., Any], new_listener: Callable[[], Any]
) -> None:
    done = inline_run(SPEC)()
    documents: list[Any] = []

    class Hears:
        def hear(self, document: Any) -> None:
            documents.append(document)

    changed = loads_spec(SPEC.replace("every: 2", "every: 1"), folder=tmp_path)
    with pytest.raises(ClipsweepError, match="measure"):
        run_sweep(changed, out=done.run_dir.path, listener=new_listener(), consent=Consent(drift=True), hears=[Hears()])
    assert [(document["event"], document["exit_code"], document["finished"]) for document in documents] == [
        ("run_ended", 2, False)
    ]
    assert RunDir(done.run_dir.path).ended.exists()


def test_documents_are_flat_and_have_what_all_of_them_share() -> None:
    started = RunStarted(name="a", driver_epoch=1, trials=2, to_train=1)
    for notice in (started, RunEnded(exit_code=0, text="1 done", counts={"done": 1})):
        document = document_of(notice, run="runs/a", at="now")
        assert list(document)[:4] == ["format", "event", "at", "run"]
        assert document.keys() - {"format", "event", "at", "run"} == vars(notice).keys()


def test_the_manual_has_every_event_with_every_key() -> None:
    page = (
        (Path(__file__).parents[3] / "docs" / "json.md").read_text(encoding="utf-8").partition("## Events of a run")[2]
    )
    rows = dict(re.findall(r"^\| (\w+) \| (.*?) \|", page, flags=re.MULTILINE))
    assert rows.keys() - {"event"} == set(_NAMES.values())
    shared = {field.name for field in fields(TrialTold)}
    assert all(f"`{name}`" in page for name in shared)
    for kind, name in _NAMES.items():
        for field in fields(kind):
            if not (issubclass(kind, TrialTold) and field.name in shared):
                assert f"`{field.name}`" in rows[name], (name, field.name)
    assert f"`format` ({FORMAT};" in page
