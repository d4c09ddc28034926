"""The learning rate over the steps, as a factor: pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

__all__ = ["SCHEDULES", "check_schedule", "factor_at"]


def _constant(step: int, total_steps: int, steps_per_epoch: int | Fraction) -> float:
    return 1.0


def _step_decay(
    step: int,
    total_steps: int,
    steps_per_epoch: int | Fraction,
    *,
    milestones: Sequence[int],
    factor: float = 0.1,
    unit: str = "steps",
) -> float:
    """Multiply by ``factor`` from each milestone on."""
    if unit not in {"steps", "epochs"}:
        raise ValueError(f"schedule 'step_decay': unit must be 'steps' or 'epochs', not {unit!r}")
    scale = steps_per_epoch if unit == "epochs" else 1
    return float(factor ** sum(step >= milestone * scale for milestone in milestones))


def _cosine(step: int, total_steps: int, steps_per_epoch: int | Fraction, *, final_fraction: float = 0.0) -> float:
    """Half a period of a cosine, from 1 at step 0 to ``final_fraction`` at ``total_steps``."""
    return _half_cosine(step / total_steps, 1.0, final_fraction)


def _linear(step: int, total_steps: int, steps_per_epoch: int | Fraction, *, final_fraction: float = 0.0) -> float:
    """A line from 1 at step 0 to ``final_fraction`` at ``total_steps``."""
    return 1 + (final_fraction - 1) * step / total_steps


def _inverse_sqrt(step: int, total_steps: int, steps_per_epoch: int | Fraction, *, timescale: int) -> float:
    """1 / sqrt(1 + step / timescale)."""
    return 1 / math.sqrt(1 + step / max(1, timescale))


def _stable_decay(
    step: int,
    total_steps: int,
    steps_per_epoch: int | Fraction,
    *,
    decay: float = 0.2,
    shape: str = "linear",
    final_fraction: float = 0.0,
) -> float:
    """1, and over the last share ``decay`` of the steps down to ``final_fraction``."""
    if shape not in _SHAPES:
        raise ValueError(f"schedule 'stable_decay': shape must be one of {', '.join(_SHAPES)}, not {shape!r}")
    left = total_steps * (1 - decay)
    through = (step - left) / (total_steps - left) if step > left else 0.0
    return final_fraction + (1 - final_fraction) * _SHAPES[shape](through)


_SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda through: 1 - through,
    "sqrt": lambda through: 1 - math.sqrt(through),
    "cosine": lambda through: _half_cosine(through, 1.0, 0.0),
}
"""How a rate comes down: from 1 at 0 to 0 at 1."""


def _one_cycle(
    step: int,
    total_steps: int,
    steps_per_epoch: int | Fraction,
    *,
    rise: float = 0.3,
    initial_fraction: float = 0.04,
    final_fraction: float = 4e-6,
) -> float:
    """Half a cosine up from ``initial_fraction`` over a share of the steps, then half a cosine down to the last."""
    peak, last = rise * total_steps - 1, total_steps - 1
    if step <= peak:
        return _half_cosine(step / peak, initial_fraction, 1.0) if peak > 0 else 1.0
    return _half_cosine((step - peak) / (last - peak), 1.0, final_fraction) if last > peak else 1.0


def _half_cosine(through: float, first: float, last: float) -> float:
    """Half a period of a cosine, from ``first`` at 0 to ``last`` at 1."""
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * through))


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "constant": _constant,
    "step_decay": _step_decay,
    "cosine": _cosine,
    "linear": _linear,
    "inverse_sqrt": _inverse_sqrt,
    "stable_decay": _stable_decay,
    "one_cycle": _one_cycle,
}
"""Name to function: ``(step, total_steps, steps_per_epoch, **options) -> factor``."""

_ABSOLUTE = frozenset({"constant", "step_decay"})
"""Schedules that a warm-up does not delay: their steps are counted from the trial's first one."""

_WARMS_UP = frozenset({"one_cycle"})
"""Those with a rise of their own."""


def factor_at(
    schedule: Mapping[str, Any] | Callable[[int, int], float],
    step: int,
    total_steps: int,
    *,
    steps_per_epoch: int | Fraction = 1,
) -> float:
    """What the learning rate is multiplied by at one step.

    With ``warmup`` W the factor is (step + 1) / W before step W, whatever the schedule, which then begins at step W as
    if that were the first of total_steps - W; milestones of ``step_decay`` stay where they are.

    Args:
        schedule: ``use``, one of :data:`SCHEDULES`, and its options; ``warmup`` for any of them: a number of steps, or
            a share of all steps if it is below 1. Or a function of step and total_steps, which is all there is to it.
        step: Counted from 0.
        total_steps: Number of steps of the whole trial.
        steps_per_epoch: Number of steps in one pass over the data, a fraction where epochs end within steps.

    Returns:
        The factor.

    Example:
        >>> linear = {"use": "linear", "warmup": 2}
        >>> [factor_at(linear, step, 6) for step in range(6)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if callable(schedule):
        return schedule(step, total_steps)
    options = dict(schedule)
    name, warmup = options.pop("use"), options.pop("warmup", 0)
    warm = max(1, round(warmup * total_steps)) if 0 < warmup < 1 else int(warmup)
    rise = min(1.0, (step + 1) / warm) if warm else 1.0
    if name in _ABSOLUTE:
        return rise * SCHEDULES[name](step, total_steps, steps_per_epoch, **options)
    if step < warm:
        return rise
    return SCHEDULES[name](step - warm, max(1, total_steps - warm), steps_per_epoch, **options)


def check_schedule(schedule: Mapping[str, Any] | Callable[[int, int], float]) -> None:
    """Make sure that a schedule is one.

    Args:
        schedule: As for :func:`factor_at`.

    Raises:
        ValueError: The schedule or an option is unknown, or a value is out of range.
    """
    if callable(schedule):
        return
    options = dict(schedule)
    name = options.pop("use", None)
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
    for option, value in options.items():
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ValueError(f"schedule {name!r}: {option} must be finite and not negative, but is {value!r}")
    warmup = options.pop("warmup", 0)
    if warmup >= 1 and warmup != int(warmup):
        raise ValueError(
            f"schedule {name!r}: warmup must be a whole number of steps, or a share below 1, not {warmup!r}"
        )
    if warmup and name in _WARMS_UP:
        raise ValueError(f"schedule {name!r} rises by itself, and takes no warmup")
    for share in {"decay", "rise"} & options.keys():
        if not 0 < options[share] <= 1:
            raise ValueError(f"schedule {name!r}: {share} is a share of the steps, in (0, 1], not {options[share]!r}")
    try:
        SCHEDULES[name](0, 1, 1, **options)
    except TypeError as error:
        raise ValueError(f"schedule {name!r} does not accept {options!r}: {error}") from error
