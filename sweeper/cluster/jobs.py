"""A driver as a Ray job: submit it, see it start, tell why it did not."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sweeper.cluster.job_server import JobServer
from sweeper.errors import ClusterError
from sweeper.store.driver_files import JOB, driver_of, ending_of, refusal
from sweeper.store.run_dir import RunDir

__all__ = ["JobEnded", "Jobs", "entrypoint"]

_POLL_S = 0.5
_SAY_EVERY_S = 15.0
_YOUNG_S = 30.0
_STOP_WAIT_S = 120
"""How long ``ray job stop`` leaves a driver for its last checkpoints; Ray's own three seconds are too few."""

_UNDER_WAY = ("PENDING", "RUNNING")


_NOT_SHARED = (
    "error: %s: is not the same folder on %s, which runs this job, and where it was submitted; run directory, spec and "
    "code must lie on a file system that all nodes share\\n"
)
_NOT_INSTALLED = (
    "error: %s on %s, which runs this job, has no clipsweep; install it in the Python that runs Ray there\\n"
)


class JobEnded(ClusterError):
    """A job that ended before it drove the sweep; its text is what the job printed."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def entrypoint(job: str, arguments: Sequence[str], *, run_dir: RunDir, folder: Path, python: str) -> str:
    """The shell command of a driver's job.

    It sees first whether the node that runs it has the same files and programs, since Ray would not.

    Args:
        job: The job's id.
        arguments: Of ``clipsweep``.
        run_dir: The run; the submitter has left a mark in its staging folder, named by the job.
        folder: Where the command is to run.
        python: The submitter's interpreter, used where the node has it, too.

    Returns:
        A command for ``sh``.
    """
    path, mark = shlex.quote(str(run_dir.path)), shlex.quote(str(run_dir.staging / job))
    return "\n".join([
        # What a network file system has not heard of yet, it may after some seconds.
        f"for i in 1 2 3 4 5 6; do [ -e {mark} ] && break; ls {path} >/dev/null 2>&1; sleep 1; done",
        f"if ! [ -e {mark} ] || ! cd {shlex.quote(str(folder))}; then",
        f'  printf {shlex.quote(_NOT_SHARED)} {path} "$(hostname)" >&2; exit 3',
        "fi",
        f"python={shlex.quote(python)}",
        '[ -x "$python" ] || python=$(command -v python3 || command -v python)',
        'if ! "$python" -P -c "import sweeper"; then',
        f'  printf {shlex.quote(_NOT_INSTALLED)} "$python" "$(hostname)" >&2; exit 3',
        "fi",
        f"export {JOB}={job}",
        f'exec "$python" -P -m sweeper {shlex.join(arguments)}',
    ])


class Jobs:
    """The jobs of a cluster.

    Args:
        server: Its job server.

    Raises:
        ClusterError: It does not answer, or there is not enough of Ray here to ask it.
    """

    def __init__(self, server: JobServer) -> None:
        self._url = server.url
        self._client = _client(server)

    def submit(self, arguments: Sequence[str], *, run_dir: RunDir, folder: Path) -> str:
        """Have a cluster run a driver.

        Args:
            arguments: Of ``clipsweep``, as they are to be there.
            run_dir: The run directory, which every node must see.
            folder: The current folder of the driver.

        Returns:
            The job's id.

        Raises:
            RunDirectoryError: Somebody runs this sweep already, or the directory cannot be used.
            ClusterError: The job was not accepted.
        """
        run_dir.create()
        if driver_of(run_dir) is not None:
            raise refusal(run_dir)
        job = f"clipsweep-{run_dir.path.name}-{secrets.token_hex(3)}"
        (run_dir.staging / job).touch(mode=0o644)
        command = entrypoint(job, arguments, run_dir=run_dir, folder=folder, python=sys.executable)
        try:
            _submit_once_there(
                self._client,
                entrypoint=command,
                submission_id=job,
                runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S)} | _own_variables()},
                metadata={"clipsweep_run": str(run_dir.path)},
            )
        except (RuntimeError, OSError) as error:
            (run_dir.staging / job).unlink(missing_ok=True)
            first = str(error).strip().partition("\n")[0]
            raise ClusterError(f"{self._url}: the job was not accepted: {first}") from error
        return job

    def wait_until_driven(self, job: str, run_dir: RunDir, say: Callable[[str], object]) -> None:
        """Wait until a submitted driver holds the run directory, or has come and gone.

        Args:
            job: The job.
            run_dir: Its run.
            say: Called with the reason why it takes long.

        Raises:
            JobEnded: The job ended without driving.
            ClusterError: The job server is gone.
        """
        say_at = time.monotonic() + _SAY_EVERY_S
        while not _driven_by(run_dir, job):
            try:
                info = self._client.get_job_info(job)
                status = str(info.status.value)
                if status not in _UNDER_WAY and not _driven_by(run_dir, job):
                    text = _what_it_said(self._client.get_job_logs(job)) or info.message or status
                    code = info.driver_exit_code
                    raise JobEnded(f"{self._url}: job {job} ended before it began: {text}", code or 3)
            except (RuntimeError, OSError) as error:
                raise ClusterError(f"{self._url}: no word of job {job} any more: {error}") from error
            if time.monotonic() > say_at:
                say(f"waiting for job {job}: {info.message or status}")
                say_at = time.monotonic() + _SAY_EVERY_S
            time.sleep(_POLL_S)


def _submit_once_there(client: Any, **request: Any) -> None:
    """A head that has just been started takes jobs some seconds later than it answers."""
    until = time.monotonic() + _YOUNG_S
    while True:
        try:
            client.submit_job(**request)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(_POLL_S)
        else:
            return


def _driven_by(run_dir: RunDir, job: str) -> bool:
    driver, ending = driver_of(run_dir), ending_of(run_dir)
    return (driver or {}).get("job") == job or (ending is not None and ending.job == job)


def _client(server: JobServer) -> Any:
    # Before Ray is imported, as it reads this then; and RAY_ADDRESS would win over the address given.
    os.environ["RAY_API_SERVER_ADDRESS"] = server.url
    os.environ["RAY_AUTH_MODE"] = "token" if server.guarded else "disabled"
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise ClusterError(f"jobs need more of Ray: `pip install 'clipsweep[cluster]'` ({error})") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(server.url)
    except (RuntimeError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ClusterError(f"{server.url}: the job server does not answer: {first}") from error


def _own_variables() -> dict[str, str]:
    """What the user has told clipsweep by its environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("CLIPSWEEP_") and name != JOB}


def _what_it_said(log: str) -> str:
    """A job's output without Ray's own lines."""
    return "\n".join(line for line in log.splitlines() if not line.startswith("Running entrypoint for job")).strip()
