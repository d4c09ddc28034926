"""What can be minimised, by name or by import path."""

from trainers.problems.build import build_problem
from trainers.problems.registry import PROBLEMS

__all__ = ["PROBLEMS", "build_problem"]
