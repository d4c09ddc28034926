"""A problem as a spec names it: a registered name, or a user's own factory by import path."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from trainers.errors import TrainerError
from trainers.options import call_factory, nearest
from trainers.problem import Batch, Problem
from trainers.problems.registry import PROBLEMS
from trainers.seeding import seeded
from trainers.trees import map_tensors

__all__ = ["build_problem", "import_problem"]


def build_problem(
    use: str, options: Mapping[str, Any], *, seed: int, device: str = "cpu", search: Sequence[str] = ()
) -> Problem:
    """The problem that a spec names.

    Initial weights and batch order are functions of ``seed``, so that equal seeds start equal in every cell of a sweep:
    the global generators of torch, NumPy and Python are seeded before the factory runs and restored afterwards.

    Args:
        use: A name in :data:`~trainers.problems.registry.PROBLEMS`, or ``package.module:factory``.
        options: Keyword arguments of the factory, which also gets ``seed`` and ``device`` if it takes them.
        seed: The trial's seed.
        device: Where the model goes, and with it batches and probe.
        search: Folders in front of ``sys.path`` while a user's module is imported.

    Returns:
        A new problem, its model on ``device``.

    Raises:
        TrainerError: There is no such problem, module or factory, the factory does not accept an option, or what it
            returns is not a :class:`~trainers.problem.Problem` whose model has values, and parameters to train.

    Example:
        >>> build_problem("deep_linear", {"layers": 3, "width": 2}, seed=0).steps_per_epoch
        1
    """
    factory = _find(use, search)
    with seeded(torch.device(device), seed), _in_front(search):
        problem = call_factory(factory, options, {"seed": seed, "device": device}, called=f"problem {use!r}")
    if not isinstance(problem, Problem):
        raise TrainerError(f"problem {use!r}: the factory must return a trainers.problem.Problem, not {problem!r:.80}")
    return _on_device(problem, torch.device(device))


def import_problem(use: str, *, search: Sequence[str] = ()) -> ModuleType:
    """Import the module of a user's own problem.

    What it draws from global generators meanwhile is the same in every process, whatever ran there before.

    Args:
        use: ``package.module:factory``.
        search: Folders in front of ``sys.path`` meanwhile.

    Returns:
        The module.

    Raises:
        TrainerError: There is no such module, or none that it imports.
    """
    module_name = use.partition(":")[0]
    _reach_beside_ours(search)
    with seeded(torch.device("cpu"), 0), _in_front(search):
        importlib.invalidate_caches()
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            # A module that the user's own module imports and that is missing is a different mistake.
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise TrainerError(
                    f"problem {use!r}: {module_name} imports {error.name!r}, which is missing"
                ) from error
            looked = ", ".join(search) or "sys.path"
            raise TrainerError(f"problem {use!r}: there is no module {error.name!r} in {looked}") from error


def _find(use: str, search: Sequence[str]) -> Callable[..., Any]:
    """The factory behind a name."""
    if use in PROBLEMS:
        return PROBLEMS[use]
    module_name, separator, attribute = use.partition(":")
    if not (separator and module_name and attribute):
        raise TrainerError(f"unknown problem {use!r}; {nearest(use, PROBLEMS)}; your own: package.module:factory")
    module = import_problem(use, search=search)
    factory: Any = module
    for name in attribute.split("."):
        if not hasattr(factory, name):
            public = [known for known in vars(module) if not known.startswith("_") and callable(getattr(module, known))]
            raise TrainerError(f"problem {use!r}: {module_name} has no {name!r}; {nearest(name, public)}")
        factory = getattr(factory, name)
    if not callable(factory):
        raise TrainerError(f"problem {use!r}: {attribute} is a {type(factory).__name__}, not a factory")
    return factory  # type: ignore[no-any-return]


_OURS = ("sweeper", "trainers", "estimators")

_BESIDE = "clipsweep_beside"
"""Where shipped code holds packages of the user's own by these names; ``sweeper.own_packages`` knows it too."""


def _reach_beside_ours(search: Sequence[str]) -> None:
    """Have ``trainers.mine`` of a user's own package ``trainers`` found beside our ``trainers.problem``.

    For good, since a problem may import more while it is trained.
    """
    places = [*map(Path, search), *(Path(place, _BESIDE) for place in (*search, *sys.path))]
    for name in _OURS:
        folders = [place / name for place in places if (place / name).is_dir()]
        if folders:
            # Imported before any of these folders' parents stands in front of ours.
            path = importlib.import_module(name).__path__
            known = {os.path.realpath(folder) for folder in path}
            path.extend(str(folder) for folder in folders if os.path.realpath(folder) not in known)


@contextmanager
def _in_front(search: Sequence[str]) -> Iterator[None]:
    """Put ``search`` in front of ``sys.path`` for a while, including while the factory runs, which may import more."""
    sys.path[:0] = search
    try:
        yield
    finally:
        # What the module itself has put there stays: it may import more while it is trained.
        for place in search:
            if place in sys.path:
                sys.path.remove(place)


def _on_device(problem: Problem, device: torch.device) -> Problem:
    """The problem with model, batches, probe and carry on the device."""

    def moved(tree: Batch) -> Batch:
        return map_tensors(lambda tensor: tensor.to(device), tree)

    named = (*problem.model.named_parameters(), *problem.model.named_buffers())
    if empty := [name for name, tensor in named if tensor.is_meta]:
        raise TrainerError(
            f"the model's {empty[0]!r} has no values, as it is on the meta device: build the model without "
            "torch.device('meta'), or give it values with model.to_empty(device='cpu') and an initialisation"
        )
    if not any(parameter.requires_grad for parameter in problem.model.parameters()):
        held = len(list(problem.model.parameters()))
        frozen = f"all {held} of its parameters are frozen (requires_grad=False)" if held else "it holds none at all"
        raise TrainerError(
            f"the model has no parameter to train: {frozen}; layers are found where they are attributes of an "
            "nn.Module, in nn.ModuleList or nn.ModuleDict, not in plain lists or dictionaries"
        )
    problem.model.to(device)
    if device.type == "cpu":
        return problem

    @wraps(problem.probe)
    def probe(fraction: float, *draw: int) -> Iterable[Batch]:
        return (moved(batch) for batch in problem.probe(fraction, *draw))

    return replace(
        problem,
        batch=lambda step: moved(problem.batch(step)),
        probe=probe,
        initial_carry=lambda: moved(problem.initial_carry()),
    )
