"""Where a cluster takes jobs, and why it may not; without any Ray."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweeper.cluster import job_server
from sweeper.cluster.job_server import find_job_server, takes_jobs_only
from sweeper.errors import ClusterError

VERSION = {"version": "4", "ray_version": "2.60.0"}


@pytest.fixture(autouse=True)
def nobody_s_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server that says ``document`` to whoever shows ``token``, to all where that is None."""
    servers = []

    def start(document: Any, token: str | None = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                allowed = token is None or self.headers.get("Authorization") == f"Bearer {token}"
                body = json.dumps(document if self.path == "/api/version" else {}).encode()
                self.send_response(200 if allowed else 401)
                self.end_headers()
                self.wfile.write(body if allowed else b"no")

            def log_message(self, *_: Any) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_open_server_on_the_loopback_takes_jobs(serve: Callable[..., str]):
    url = serve(VERSION)
    found = find_job_server(url + "/")
    assert (found.url, found.guarded, found.notes) == (url, False, ())


def test_a_guarded_server_is_asked_with_the_users_token(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    url = serve(VERSION, token="right")
    with pytest.raises(ClusterError, match="the cluster asks for a token and there is none here"):
        find_job_server(url)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(ClusterError, match="the cluster refuses the token of RAY_AUTH_TOKEN"):
        find_job_server(url)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    assert find_job_server(url).guarded


def test_a_token_in_a_file_is_shown_too(serve: Callable[..., str], tmp_path: Path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("right\n")
    assert find_job_server(serve(VERSION, token="right")).guarded


@pytest.mark.parametrize("document", [[], {}, {"version": "4"}, "ray_version"])
def test_another_server_is_told_from_rays(serve: Callable[..., str], document: Any):
    with pytest.raises(ClusterError, match=r"is not a Ray job server; .*port 8265 .*ray\[default\]"):
        find_job_server(serve(document))


def test_something_that_speaks_no_http_is_no_job_server():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            connection.close()
            connection, _ = server.accept()
            connection.sendall(b"\x00\x00\x18\x04\r\n\r\n")
            connection.close()

        threading.Thread(target=babble, daemon=True).start()
        with pytest.raises(ClusterError, match="is not a Ray job server"):
            find_job_server(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_an_open_server_that_others_reach_is_refused_unless_it_is_accepted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_server, "knock", lambda address, where: None)
    monkeypatch.setattr(job_server, "_get", lambda url, token: (200, VERSION))
    with pytest.raises(ClusterError, match=r"anybody who reaches http://192.0.2.1:8265 can run code.*--insecure"):
        find_job_server("http://192.0.2.1:8265")
    (note,) = find_job_server("http://192.0.2.1:8265", insecure=True).notes
    assert note.startswith("insecure: anybody who reaches")


def test_a_server_that_is_out_of_reach_behind_ray_client_says_which_port_to_forward(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_server, "knock", lambda address, where: None)
    monkeypatch.setattr(job_server, "listens", lambda address, *, timeout_s: address != "192.0.2.7:8265")
    monkeypatch.setattr(job_server, "ask", lambda *_, with_token: {"problem": None, "dashboard": "192.0.2.7:8265"})
    with pytest.raises(
        ClusterError, match=r"192.0.2.7:8265, which cannot be reached .*`--address http://localhost:8265`"
    ):
        find_job_server("ray://192.0.2.7:10001")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"problem": "silent", "text": "timeout"}, r"port is 10001 by default, or there is no token here"),
        ({"problem": "mismatch", "text": "2.9 is not 2.60"}, r"2.9 is not 2.60; Ray Client needs the same versions"),
        ({"problem": "token", "text": ""}, "the cluster asks for a token"),
        ({"problem": None, "dashboard": None}, r"ray\[default\]"),
    ],
)
def test_what_ray_client_may_say(found: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_server, "knock", lambda address, where: None)
    monkeypatch.setattr(job_server, "ask", lambda *_, with_token: found)
    with pytest.raises(ClusterError, match=said):
        find_job_server("ray://192.0.2.7:10001")


def test_auto_takes_ray_address_for_what_it_is(monkeypatch: pytest.MonkeyPatch):
    assert not takes_jobs_only("auto")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert takes_jobs_only("auto")
    assert not takes_jobs_only("local")
    with pytest.raises(ClusterError, match=r"'auto' \(RAY_ADDRESS=http://127.0.0.1:1\): nothing can be reached"):
        find_job_server("auto")
