"""The workers, plain classes: one trains, one measures. ``pools`` runs them as Ray actors, tests call them directly."""

from sweeper.actors.estimator import EstimatorWorker, build_probe
from sweeper.actors.trainer import TrainerWorker

__all__ = ["EstimatorWorker", "TrainerWorker", "build_probe"]
