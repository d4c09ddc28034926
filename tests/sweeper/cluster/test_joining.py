"""Each reason why a cluster cannot be joined, in one line with the fix; without any Ray."""

from __future__ import annotations

import os
import platform
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.cluster import joining
from sweeper.cluster.joining import join
from sweeper.errors import ClusterError

FOUND = {
    "problem": None,
    "address": "192.0.2.1:6379",
    "ray": "2.60.0",
    "python": platform.python_version(),
    "own_ray": "2.60.0",
    "nodes": ["192.0.2.1", "192.0.2.2"],
    "here": True,
    "dashboard": None,
}
TOKEN = {"problem": "token", "address": "192.0.2.1:6379", "text": "InvalidAuthToken"}


@pytest.fixture(autouse=True)
def nobody_s_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No token of whoever runs the tests; a home of one's own."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def listener() -> Iterator[str]:
    """Somebody who listens and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def stand_in(monkeypatch: pytest.MonkeyPatch, *, bare: dict[str, Any], ours: dict[str, Any] | None = None) -> None:
    """A cluster that answers so without a token, and so with the user's."""
    monkeypatch.setattr(joining, "knock", lambda address, where: None)
    monkeypatch.setattr(joining, "ask", lambda address, where, *, with_token: ours if with_token else bare)


def test_where_nothing_listens_the_message_says_how_to_start_a_cluster():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterError, match=rf"'127.0.0.1:{port}': nothing can be reached there .*ray start --head"):
        join(f"127.0.0.1:{port}")


def test_a_name_that_nobody_has_is_named():
    with pytest.raises(ClusterError, match=r"no machine named 'nowhere.invalid' is known here"):
        join("nowhere.invalid:6379")


def test_a_machine_that_does_not_answer_is_given_up_within_the_bound(monkeypatch: pytest.MonkeyPatch):
    def silence(*arguments: Any, timeout: float) -> Any:
        raise TimeoutError(timeout)

    monkeypatch.setattr(socket, "create_connection", silence)
    with pytest.raises(ClusterError, match="no answer within 10 s; is the machine up, and port 6379 open"):
        join("192.0.2.77:6379")
    assert joining.LONGEST_S < 60


def test_something_else_that_listens_is_given_up_within_the_bound(listener: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(joining, "_PROBE_S", 4.0)
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"does not answer as the head of a Ray cluster .*6379 by default"):
        join(listener)
    assert time.monotonic() - started < 60


def test_a_machine_that_is_slow_to_ask_is_not_a_cluster_that_is_slow_to_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    # Python reads this before anything else.
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(5)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(joining, "_PROBE_S", 4.0)
    assert joining.ask("nowhere", "here", with_token=False)["problem"] == "bad_address"


@pytest.mark.parametrize(
    ("address", "silent", "problem", "tries"),
    [("ray://head:10001", 1, None, 2), ("ray://head:10001", 9, "silent", 2), ("head:6379", 9, "silent", 1)],
)
def test_a_process_that_ray_starts_for_a_client_and_that_never_answers_is_asked_for_twice(
    address: str, silent: int, problem: str | None, tries: int, monkeypatch: pytest.MonkeyPatch
):
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        code = -signal.SIGALRM if len(asked) <= silent else 0
        return subprocess.CompletedProcess(command, code, '{"problem": null}\n', "")

    monkeypatch.setattr(subprocess, "run", run)
    assert joining.ask(address, "here", with_token=False)["problem"] == problem
    assert len(asked) == tries


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:0", "host:65536", ":6379", "host:port"])
def test_what_is_no_address_is_said_to_be_none(address: str):
    with pytest.raises(ClusterError, match="is neither local, auto nor host:port"):
        join(address)


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
def test_where_only_jobs_are_taken_no_driver_joins(address: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(
        ClusterError, match=r"takes jobs at .*`clipsweep run` starts its driver inside.*`--address auto`"
    ):
        join(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=rf"RAY_ADDRESS={address}\): a cluster takes jobs at this address"):
        join("auto")


def test_auto_without_a_ray_or_with_several_names_what_to_do(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, bare={"problem": "none_here", "text": ""})
    with pytest.raises(ClusterError, match=r"'auto': no Ray runs on this machine; .*ray start --head.*--address local"):
        join("auto")
    stand_in(monkeypatch, bare={"problem": "several_here", "text": "192.0.2.1:6379, 192.0.2.1:6380"})
    with pytest.raises(ClusterError, match=r"several Rays run .*name one with --address: 192.0.2.1:6379, 192"):
        join("auto")


def test_a_missing_and_a_wrong_token_are_told_apart_and_never_printed(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, bare=TOKEN, ours=TOKEN)
    with pytest.raises(ClusterError, match=r"asks for a token and there is none here; .*RAY_AUTH_TOKEN_PATH"):
        join("head:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not-the-right-one")
    with pytest.raises(ClusterError, match=r"refuses the token of RAY_AUTH_TOKEN; .*0600") as refused:
        join("head:6379")
    assert "not-the-right-one" not in str(refused.value)


def test_a_token_file_that_cannot_be_used_is_named_before_ray_aborts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    stand_in(monkeypatch, bare=TOKEN, ours=FOUND)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ClusterError, match=r"token \(RAY_AUTH_TOKEN_PATH\) cannot be read: No such file"):
        join("head:6379")
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ClusterError, match=r"token \(RAY_AUTH_TOKEN_PATH\) is empty"):
        join("head:6379")


def test_a_token_that_others_can_read_is_used_and_said_to_be_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    stand_in(monkeypatch, bare=TOKEN, ours=FOUND)
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("secret")
    file.chmod(0o644)
    joined = join("head:6379")
    assert joined.guarded
    assert joined.notes == (f"{file}: others can read the cluster's token; `chmod 600 {file}`",)
    file.chmod(0o600)
    assert join("head:6379").notes == ()


def test_a_cluster_open_to_its_network_is_refused_unless_it_is_accepted(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, bare=FOUND)
    with pytest.raises(
        ClusterError, match=r"does not ask for a token, so anybody who reaches 192.0.2.1:6379 .*--insecure-cl"
    ):
        join("head:6379")
    joined = join("head:6379", insecure=True)
    assert not joined.guarded
    assert joined.notes[0].startswith("insecure: ")


def test_a_cluster_that_only_this_machine_reaches_needs_no_token(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, bare={**FOUND, "nodes": ["127.0.0.1", "127.0.0.1"]})
    assert join("127.0.0.1:6379").notes == ()


@pytest.mark.parametrize(
    ("differs", "fix"),
    [
        ({"ray": "2.59.1"}, r"Ray 2.59.1 on Python .*must be the same; `pip install ray==2.59.1` here"),
        ({"python": "3.10.2"}, r"on Python 3.10.2, .*use an environment of Python 3.10.2 here"),
    ],
)
def test_another_ray_or_python_is_named_with_both_versions(
    differs: dict[str, Any], fix: str, monkeypatch: pytest.MonkeyPatch
):
    stand_in(monkeypatch, bare={**FOUND, **differs})
    with pytest.raises(ClusterError, match=fix):
        join("head:6379", insecure=True)


def test_a_machine_that_is_no_node_is_told_so_but_may_submit(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, bare={**FOUND, "here": False})
    with pytest.raises(ClusterError, match=r"no node of that cluster \(192.0.2.1, 192.0.2.2\) runs on this machine"):
        join("head:6379", insecure=True)
    assert not join("head:6379", insecure=True, from_outside=True).here


def test_a_program_that_has_ray_already_gets_a_token_file_for_its_owner_alone(tmp_path: Path):
    code = "import sys, types; sys.modules['ray'] = types.ModuleType('ray')\n"
    code += "from sweeper.cluster.ray_environment import prepare; prepare('local'); prepare('local')"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    file = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_text()) == 64
