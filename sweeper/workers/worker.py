"""What trainers and estimators share: threads, device, and how a problem is built."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sweeper.protocol.messages import WorkerFacts
from sweeper.store.run_dir import RunDir
from sweeper.workers.process_state import OwnState
from trainers.problem import Problem
from trainers.problems import build_problem, import_problem

__all__ = ["Worker", "is_users"]


def is_users(problem: Mapping[str, Any]) -> bool:
    """Whether a problem is code of the user's own.

    Args:
        problem: The resolved section.

    Returns:
        False for a registered one.
    """
    return ":" in problem["use"]


def _untold(what: str) -> None:
    """Nobody reads it."""


class Worker:
    """A worker of either kind.

    Args:
        run_dir: The run directory, on a file system that every node sees.
        threads: Threads of each numerical kernel.
        device: ``cpu`` or ``cuda``; Ray has already chosen which one is visible.
        search: Folders that contain the user's own modules.
        begin: Is told in words what begins, for whoever reads what this process prints.
    """

    def __init__(
        self,
        *,
        run_dir: str,
        threads: int,
        device: str,
        search: Sequence[str] = (),
        begin: Callable[[str], object] = _untold,
    ) -> None:
        self._run_dir = RunDir(Path(run_dir))
        self._threads = threads
        self._device = device
        self._search = tuple(search)
        self._begin = begin
        self._set_num_threads()

    def facts(self) -> WorkerFacts:
        """Where this worker runs and which hardware and software it computes with."""
        return WorkerFacts(
            host=socket.gethostname(),
            pid=os.getpid(),
            torch=str(
                torch.__version__
            ),  # a plain string: unpickling torch's own type would import torch in the driver
            threads=torch.get_num_threads(),
            device=torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
        )

    def _set_num_threads(self) -> None:
        """Set the thread count; OpenMP keeps it per calling thread, and a method may run in any thread."""
        torch.set_num_threads(self._threads)

    def _import(self, own: OwnState, problem: Mapping[str, Any]) -> None:
        """Import the module of a user's problem, if this process has not, and take down what that sets."""
        own.load(partial(import_problem, problem["use"], search=self._search))

    def _build(self, problem: Mapping[str, Any], seed: int) -> Problem:
        options = {key: value for key, value in problem.items() if key != "use"}
        return build_problem(problem["use"], options, seed=seed, device=self._device, search=self._search)
