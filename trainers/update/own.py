"""A schedule or a transform of the user's own, by import path: a factory called with options, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.errors import TrainerError
from trainers.imports import find_factory, in_front
from trainers.options import call_factory
from trainers.seeding import seeded
from trainers.update.transforms import Direction

__all__ = ["OwnSchedule", "OwnTransform", "own_schedule", "own_transform"]

OwnSchedule = Callable[[int, int], float]
"""(step, total_steps) -> what the learning rate is multiplied by at this step: pure, finite, not negative."""

OwnTransform = Callable[[Direction], Tensor]
"""Changes a direction in place, and returns the factor by which its norm changed: 1 exactly for no change."""


def own_schedule(section: Mapping[str, Any], *, search: Sequence[str] = ()) -> OwnSchedule:
    """A schedule of the user's own.

    Args:
        section: ``use``, ``package.module:factory``, and the options of the factory.
        search: Folders in front of ``sys.path`` while the module is imported and the factory runs.

    Returns:
        What the factory returns, each of whose factors is tested when it is asked for.

    Raises:
        TrainerError: There is no such factory, it does not take the options, or it returns no function.
    """
    function = _made(section, search, kind="schedule", wanted="(step, total_steps) -> factor")
    use = section["use"]

    def factor(step: int, total_steps: int) -> float:
        found = function(step, total_steps)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
            raise TrainerError(
                f"schedule {use!r}: the factor of step {step} of {total_steps} is {found!r:.80}, but must be a number, "
                "finite and not negative"
            )
        return float(found)

    return factor


def own_transform(section: Mapping[str, Any], *, search: Sequence[str] = ()) -> OwnTransform:
    """A transform of the user's own.

    Args:
        section: As for :func:`own_schedule`.
        search: As there.

    Returns:
        What the factory returns; that its scale is one number is tested at every call.

    Raises:
        TrainerError: There is no such factory, it does not take the options, or it returns no function.
    """
    function = _made(section, search, kind="transform", wanted="(direction) -> scale")
    use = section["use"]

    def transform(direction: Direction) -> Tensor:
        scale = function(direction)
        if isinstance(scale, int | float) and not isinstance(scale, bool):
            scale = torch.as_tensor(float(scale), dtype=direction.norm.dtype, device=direction.norm.device)
        if not (isinstance(scale, Tensor) and scale.ndim == 0 and scale.is_floating_point()):
            raise TrainerError(
                f"transform {use!r}: must return the factor by which the norm changed, a number or a scalar tensor, "
                f"not {scale!r:.80}"
            )
        return scale.to(direction.norm.device)

    return transform


def _made(section: Mapping[str, Any], search: Sequence[str], *, kind: str, wanted: str) -> Callable[..., Any]:
    """What the factory returns, the generators that it may draw from seeded."""
    use = section["use"]
    factory = find_factory(use, search=search, kind=kind)
    options = {key: value for key, value in section.items() if key != "use"}
    with seeded(torch.device("cpu"), 0), in_front(search):
        function = call_factory(factory, options, {}, called=f"{kind} {use!r}")
    if not callable(function):
        raise TrainerError(f"{kind} {use!r}: the factory must return a function {wanted}, not {function!r:.80}")
    return function  # type: ignore[no-any-return]
