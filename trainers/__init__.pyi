from .problem import Problem as Problem
from .problems.build import build_problem as build_problem
from .training.loop import Segment as Segment
from .training.loop import TrainSettings as TrainSettings
from .training.loop import train as train
from .training.snapshot import Snapshot as Snapshot
from .training.snapshot import SnapshotSchedule as SnapshotSchedule
from .update.rule import UpdateRule as UpdateRule
