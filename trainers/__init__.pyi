from .problem import Problem as Problem
from .problems.build import build_problem as build_problem
from .training.loop import train as train
from .update.rule import UpdateRule as UpdateRule
