"""The problems that clipsweep brings along, by name."""

from __future__ import annotations

from collections.abc import Callable

from trainers.problem import Problem
from trainers.problems.deep_linear import deep_linear

__all__ = ["PROBLEMS"]

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "deep_linear": deep_linear,
}
