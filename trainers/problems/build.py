"""A problem as a spec names it: a registered name, or a user's own factory by import path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any

import torch

from trainers.errors import TrainerError
from trainers.imports import find_factory, in_front
from trainers.options import call_factory, nearest
from trainers.problem import Batch, Problem
from trainers.problems.registry import PROBLEMS
from trainers.seeding import seeded
from trainers.trees import map_tensors

__all__ = ["build_problem"]


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
        device: Where the model goes, and with it batches and probe; ``meta`` for shapes without values.
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
    with seeded(torch.device(device), seed), in_front(search):
        problem = call_factory(factory, options, {"seed": seed, "device": device}, called=f"problem {use!r}")
    if not isinstance(problem, Problem):
        raise TrainerError(f"problem {use!r}: the factory must return a trainers.problem.Problem, not {problem!r:.80}")
    return _on_device(problem, torch.device(device))


def _find(use: str, search: Sequence[str]) -> Callable[..., Any]:
    """The factory behind a name."""
    if use in PROBLEMS:
        return PROBLEMS[use]
    module_name, separator, attribute = use.partition(":")
    if not (separator and module_name and attribute):
        raise TrainerError(f"unknown problem {use!r}; {nearest(use, PROBLEMS)}; your own: package.module:factory")
    return find_factory(use, search=search)


def _on_device(problem: Problem, device: torch.device) -> Problem:
    """The problem with model, batches, probe and carry on the device."""

    def moved(tree: Batch) -> Batch:
        return map_tensors(lambda tensor: tensor.to(device), tree)

    named = (*problem.model.named_parameters(), *problem.model.named_buffers())
    if device.type != "meta" and (empty := [name for name, tensor in named if tensor.is_meta]):
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
