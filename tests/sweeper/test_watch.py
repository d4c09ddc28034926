"""A run's page, live: served to who has the token, made anew when something is new, and never written to the run."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import ClipsweepError, RunDirectoryError
from sweeper.watch import Pages, Server

SPEC = """
problem: {use: deep_linear, layers: 2, width: 3, samples: 8}
train: {steps: 6, evaluate_every: 2}
measure: {every: 2, data_fraction: 1, estimators: [{use: directional_smoothness, delta: 0.5}]}
sweep: {grid: {update_rule.learning_rate: [0.01, 0.02]}, seeds: 2}
"""


@pytest.fixture(scope="module")
def run(module_inline_run: Callable[[str], Any]) -> Path:
    return Path(module_inline_run(SPEC).run_dir.path)


def numbered(run: Path) -> str:
    """In place of a page: how long its table of trials is."""
    return f'<body data-build="">{(run / "trials.parquet").stat().st_size}'


def fails(run: Path) -> str:
    os._exit(9)


@pytest.fixture
def served(run: Path) -> Iterator[Server]:
    with Pages(run, make=numbered) as pages, Server(pages) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def status_of(url: str, method: str = "GET", **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_who_has_the_token_sees_the_page_and_nobody_else(served: Server) -> None:
    assert served.server_address[0] == "127.0.0.1"
    assert status_of(served.url) == 200
    assert status_of(f"{served.url}state") == 200
    wrong = served.url.replace(served.token, served.token[:-1] + "!")
    for url in (wrong, f"http://127.0.0.1:{served.server_port}/", f"{served.url}../../etc/passwd", f"{served.url}x"):
        assert status_of(url) == 404
    with urllib.request.urlopen(served.url.removesuffix("/"), timeout=60) as answer:
        assert answer.url == served.url, "its address with a slash, which the page asks for what is new by"
    assert status_of(served.url, Host="evil.example") == 404, "a name that was made to lead here"
    assert status_of(served.url, method="POST") == 501, "there is nothing to change"


def test_nothing_of_the_run_is_written(run: Path, served: Server) -> None:
    def tree() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(run.rglob("*"))}

    before = tree()
    assert status_of(served.url) == 200
    assert status_of(f"{served.url}state") == 200
    assert tree() == before


def test_a_new_page_is_made_only_when_something_was_committed(run: Path, tmp_path: Path) -> None:
    """The clock is turned by hand: a page that is wanted too early, or of which nothing is new, is not made."""
    now, driven = [0.0], [True]
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("journal.jsonl", "trials.parquet"):
        (copy / name).write_bytes((run / name).read_bytes())
    with Pages(copy, make=numbered, clock=lambda: now[0]) as pages:
        pages._is_driven = lambda: driven[0]  # type: ignore[method-assign]
        first = pages.page()
        assert b'data-build="1"' in first
        now[0] = 1000.0
        assert pages.page() == first
        assert pages._future is None, "nothing is new, so nothing is made"
        (copy / "trials.parquet").touch()
        pages.page()
        settled(pages)
        assert pages.state()["build"] == 1, "a page that says the same is the same"
        for longer, build in (("a", 2), ("b", 3)):
            with (copy / "trials.parquet").open("a") as table:
                table.write(longer)
            pages.page()
            assert pages._future is None, "the run goes on, and it is too early for another"
            now[0], driven[0] = (now[0] + 1000.0, True) if longer == "a" else (now[0], False)
            pages.page()
            settled(pages)
            assert pages.state()["build"] == build
        assert pages.page() != first


def settled(pages: Pages) -> None:
    assert pages._future is not None
    pages._future.exception(timeout=60)


def test_a_process_that_dies_is_told_and_the_last_page_stays(run: Path) -> None:
    now = [0.0]
    with Pages(run, make=fails, clock=lambda: now[0]) as pages:
        with pytest.raises(ClipsweepError, match="ended with exit code 9"):
            pages.page()
        assert "not refreshed" in pages.state()["state"]
        assert pages._future is None, "it is not tried again at once"
        now[0], pages._maker.make = 1000.0, numbered
        assert b'data-build="1"' in pages.page()
        assert "not refreshed" not in pages.state()["state"]


def test_the_state_is_that_of_the_status_command(served: Server) -> None:
    with urllib.request.urlopen(f"{served.url}state", timeout=60) as answer:
        assert "4 done; finished" in json.load(answer)["state"]


def test_what_is_no_run_and_a_port_that_is_taken_are_told(run: Path, tmp_path: Path, served: Server) -> None:
    with pytest.raises(RunDirectoryError, match="no such directory"):
        Pages(tmp_path / "nowhere")
    with pytest.raises(ClipsweepError, match=f"--port {served.server_port}: .*in use"):
        Server(served.pages, port=served.server_port)


def test_ctrl_c_stops_it_and_its_processes(run: Path) -> None:
    words = [sys.executable, "-c", "from sweeper.cli import main; main()", "watch", str(run)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_takes_interrupts
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert b"<!doctype html>" in urllib.request.urlopen(url, timeout=120).read()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "stopped; the run goes on as before" in said
    assert "Traceback" not in said


def _takes_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_reader_that_goes_away_in_the_middle_is_no_trouble(served: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port)
    connection.request("GET", f"/{served.token}/")
    connection.close()
    time.sleep(0.1)
    assert status_of(served.url) == 200
