"""A run's page, served live on the loopback: ``clipsweep watch``. It reads the run directory, and never writes.

Each page is made in a process of its own, which ends with it: what a page takes of memory goes back, and the server
holds the page alone. It makes a new one only when something was committed and somebody looks; and, while the run goes
on, when four times as long has passed as the last one took.
"""

from __future__ import annotations

import hmac
import http.server
import multiprocessing
import secrets
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from sweeper.errors import ClipsweepError, error_line, error_text
from sweeper.formats import json_text
from sweeper.labels import printable
from sweeper.monitor.status import in_words, run_status
from sweeper.store.driver_files import driver_of
from sweeper.store.run_dir import RunDir

__all__ = ["Pages", "Server", "make_page"]

_BUILD = 'data-build=""'
"""What in a page is replaced by its number."""

_REST = 4
"""How many times as long as a page took is waited before the next: looking takes a fifth of a core."""

_STATE_S = 2.0
"""How old the state of a run may be."""

_FIRST_S = 600.0
"""How long somebody waits for the first page."""


def make_page(run: Path) -> str:
    """A run's page for a server.

    Args:
        run: The run directory.

    Returns:
        HTML that asks the address ``state`` beside it for what is new; of a run that has no table yet, a page that
        says so.

    Raises:
        ClipsweepError: A table cannot be read.
    """
    from sweeper.report.page.contents import build_page, empty_page
    from sweeper.report.page.html import render_page
    from sweeper.tables.run import Run

    if not RunDir(run).table("trials").exists():
        return render_page(
            empty_page([run], "No trial has results yet: the tables follow the first ones."), live="state"
        )
    page = build_page(Run(run), [run])
    return render_page(page, live="state")


class Pages:
    """The latest page of a run, and what the run is doing.

    Args:
        run: The run directory.
        make: Makes a page, in another process.
        clock: Seconds.

    Raises:
        RunDirectoryError: There is no run.
    """

    def __init__(
        self,
        run: Path,
        *,
        make: Callable[[Path], str] = make_page,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = RunDir(run).require()
        self._maker, self._clock = _Maker(make), clock
        self._lock = threading.Lock()
        self._future: Future[str] | None = None
        self._bare = ""
        self._page = b""
        self._number = 0
        self._trouble = ""
        self._seen: Any = None
        self._began = self._not_before = 0.0
        self._state, self._state_at = "", float("-inf")

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        self._maker.end()

    def page(self) -> bytes:
        """The latest page; the first time, when it is made.

        Returns:
            HTML, UTF-8.

        Raises:
            ClipsweepError: The first page cannot be made.
        """
        with self._lock:
            self._look()
            future = self._future
        if not self._page and future is not None:
            future.exception(timeout=_FIRST_S)
            with self._lock:
                self._take()
        if not self._page:
            raise ClipsweepError(self._trouble or "the page is not made yet")
        return self._page

    def state(self) -> dict[str, Any]:
        """What the run is doing.

        Returns:
            ``state`` in words and the number of the latest ``build`` of the page.
        """
        with self._lock:
            self._look()
            if self._clock() >= self._state_at:
                began = self._clock()
                self._state = self._words()
                self._state_at = self._clock() + max(_STATE_S, _REST * (self._clock() - began))
            trouble = f"; not refreshed: {self._trouble}" if self._trouble else ""
            return {"state": f"{self._state}{trouble}", "build": self._number}

    def _words(self) -> str:
        try:
            now = run_status(self._run_dir.path)
        except ClipsweepError as error:
            return printable(error_text(error))
        except OSError as error:
            return error_line(error)
        counts = ", ".join(f"{count} {word}" for word, count in now["counts"].items())
        return printable("; ".join(part for part in (counts, in_words(now)) if part))

    def _look(self) -> None:
        """Take the page that is made, and begin the next if something is new."""
        self._take()
        if self._future is not None:
            return
        found = self._traces()
        # Of a run that has ended the last page is made at once.
        if found == self._seen or (self._clock() < self._not_before and (self._trouble or self._is_driven())):
            return
        self._seen, self._began = found, self._clock()
        self._future = self._maker.begin(self._run_dir.path)

    def _traces(self) -> Any:
        """What tells that there is something new to show: when the tables were written, and how the driver ended."""
        found: list[tuple[int, int] | None] = []
        for path in (self._run_dir.table("trials"), self._run_dir.table("metrics"), self._run_dir.ended):
            try:
                facts = path.stat()
                found.append((facts.st_mtime_ns, facts.st_size))
            except OSError:
                found.append(None)
        return found

    def _is_driven(self) -> bool:
        return driver_of(self._run_dir) is not None

    def _take(self) -> None:
        if self._future is None or not self._future.done():
            return
        future, self._future = self._future, None
        self._not_before = self._clock() + max(_STATE_S, _REST * (self._clock() - self._began))
        try:
            bare = future.result()
        except ClipsweepError as error:
            self._trouble, self._seen = error_text(error), None
            return
        self._trouble = ""
        if bare != self._bare:
            self._bare, self._number = bare, self._number + 1
            self._page = bare.replace(_BUILD, f'data-build="{self._number}"', 1).encode()


class _Maker:
    """Makes pages, each in a process that ends with it."""

    def __init__(self, make: Callable[[Path], str]) -> None:
        self.make = make
        self._fresh = multiprocessing.get_context("spawn")
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._process: BaseProcess | None = None

    def begin(self, run: Path) -> Future[str]:
        """A page that is on its way."""
        return self._threads.submit(self._made, run)

    def end(self) -> None:
        """Give up what is on its way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.terminate()

    def _made(self, run: Path) -> str:
        ours, theirs = self._fresh.Pipe(duplex=False)
        with ours:
            self._process = self._fresh.Process(target=_send, args=(theirs, self.make, run), daemon=True)
            self._process.start()
            theirs.close()
            try:
                page, trouble = ours.recv()
            except EOFError:
                # Killed, for example by a system that had no memory left.
                self._process.join()
                code = self._process.exitcode
                raise ClipsweepError(f"the process that makes the page ended with exit code {code}") from None
            self._process.join()
        if trouble:
            raise ClipsweepError(trouble)
        return str(page)


def _send(pipe: Connection, make: Callable[[Path], str], run: Path) -> None:
    """In the process: a page, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    try:
        found = make(run), ""
    except Exception as error:
        found = "", error_text(error) if isinstance(error, ClipsweepError) else error_line(error)
    pipe.send(found)


class Server(http.server.ThreadingHTTPServer):
    """Serves pages on the loopback to those who know the token.

    Args:
        pages: What to serve.
        port: Port; 0 for a free one.

    Raises:
        ClipsweepError: The port is taken, or may not be used.
    """

    daemon_threads = True

    def __init__(self, pages: Pages, *, port: int = 0) -> None:
        self.pages = pages
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ClipsweepError(f"--port {port}: {error.strerror}; without it a free port is used") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away in the middle of a page is no trouble."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    timeout = 30
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "clipsweep", ""

    def do_GET(self) -> None:
        # A page of somebody else may have its name resolved to this machine, but cannot call itself by this one.
        host = (self.headers.get("Host") or "").partition(":")[0]
        token, slash, name = self.path.removeprefix("/").partition("?")[0].partition("/")
        is_ours = hmac.compare_digest(token.encode(), self.server.token.encode())
        if host not in {"127.0.0.1", "localhost"} or not is_ours or name not in {"", "state"}:
            self._answer(404, b"not found\n", "text/plain")
        elif not slash:
            # Without it the page would ask the wrong address for what is new.
            self._answer(308, b"", "text/plain", Location=f"/{token}/")
        elif name == "state":
            self._answer(200, json_text(self.server.pages.state()).encode(), "application/json")
        else:
            try:
                self._answer(200, self.server.pages.page(), "text/html; charset=utf-8")
            except (ClipsweepError, TimeoutError) as error:
                self._answer(503, f"{printable(error_line(error))}\n".encode(), "text/plain; charset=utf-8")

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, kind: str, **more: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            *more.items(),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for every question."""
