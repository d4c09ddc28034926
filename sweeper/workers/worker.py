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
from sweeper.workers.device import Device
from sweeper.workers.process_state import OwnState
from trainers.imports import import_own
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.update.own import own_schedule, own_transform
from trainers.update.rule import UpdateRule

__all__ = ["Worker", "import_all", "is_users", "own_code_of", "update_rule_of"]


def is_users(problem: Mapping[str, Any]) -> bool:
    """Whether a problem is code of the user's own.

    Args:
        problem: The resolved section.

    Returns:
        False for a registered one.
    """
    return ":" in problem["use"]


def own_code_of(problem: Mapping[str, Any], update_rule: Mapping[str, Any]) -> dict[str, str]:
    """The user's own code that a trial is trained with.

    Args:
        problem: The resolved section.
        update_rule: The resolved section.

    Returns:
        Import path to what it is: ``problem``, ``schedule`` or ``transform``; empty where everything is registered.
    """
    parts = {"problem": problem, "schedule": update_rule.get("schedule"), "transform": update_rule.get("transform")}
    return {part["use"]: kind for kind, part in parts.items() if part is not None and is_users(part)}


def import_all(own: OwnState, uses: Mapping[str, str], search: Sequence[str]) -> None:
    """Import modules of the user's own, those that this process has not, and take down what that sets.

    Args:
        own: The state of the trial.
        uses: Import path to what it is, as :func:`own_code_of` says.
        search: Folders that contain the modules.
    """
    for use, kind in uses.items():
        own.load(partial(import_own, use, search=search, kind=kind))


def update_rule_of(section: Mapping[str, Any], search: Sequence[str] = ()) -> UpdateRule:
    """The update rule of a resolved section of a spec.

    Args:
        section: The section.
        search: Folders that contain the user's own modules.

    Returns:
        The rule.

    Raises:
        TrainerError: There is no such schedule or transform of the user's own.
    """
    options: dict[str, Any] = {**section, "betas": tuple(section["betas"])}
    options["no_decay"] = None if section.get("no_decay") is None else tuple(section["no_decay"])
    if (rest := section.get("rest")) is not None:
        options["rest"] = {**rest, "betas": tuple(rest["betas"])}
    del options["from_theory"]  # only for analytic functions
    transform = options.pop("transform", None)
    options["own_transform"] = None if transform is None else own_transform(transform, search=search)
    if is_users(section["schedule"]):
        options["schedule"] = own_schedule(section["schedule"], search=search)
    return UpdateRule(**options)


def _untold(what: str) -> None:
    """Nobody reads it."""


class Worker:
    """A worker of either kind.

    Args:
        run_dir: The run directory, on a file system that every node sees.
        threads: Threads of each numerical kernel.
        device: ``cpu`` or ``cuda``; Ray has already chosen which one is visible.
        gpus: The share of a GPU that it has.
        search: Folders that contain the user's own modules.
        begin: Is told in words what begins, for whoever reads what this process prints.
        hardware: The device as this process prepares it; None for the real one.
    """

    def __init__(
        self,
        *,
        run_dir: str,
        threads: int,
        device: str,
        gpus: float = 1.0,
        search: Sequence[str] = (),
        begin: Callable[[str], object] = _untold,
        hardware: Device | None = None,
    ) -> None:
        # First: once CUDA has started, it is too late.
        self._hardware = hardware or Device(name=device, share=gpus)
        self._hardware.prepare()
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
            device=self._hardware.facts.get("device", self._device),
            hardware=self._hardware.facts,
        )

    def _set_num_threads(self) -> None:
        """Set the thread count; OpenMP keeps it per calling thread, and a method may run in any thread."""
        torch.set_num_threads(self._threads)

    def _build(self, problem: Mapping[str, Any], seed: int) -> Problem:
        options = {key: value for key, value in problem.items() if key != "use"}
        return build_problem(problem["use"], options, seed=seed, device=self._device, search=self._search)
