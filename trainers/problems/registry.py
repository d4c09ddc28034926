"""The problems that come with clipsweep, by name."""

from __future__ import annotations

from collections.abc import Callable

from trainers.problem import Problem
from trainers.problems.deep_linear import deep_linear
from trainers.problems.image_classification import image_classification
from trainers.problems.language_modeling import language_modeling

__all__ = ["PROBLEMS"]

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "language_modeling": language_modeling,
    "image_classification": image_classification,
    "deep_linear": deep_linear,
}
