"""Whether a problem's batches are a function of the step, tried where a trial begins."""

from __future__ import annotations

import torch

from trainers.errors import TrainerError
from trainers.problem import Batch, Problem
from trainers.seeding import seed_generators
from trainers.training.stepper import TRAINING
from trainers.trees import first_difference, holds_nothing, map_tensors

__all__ = ["require_pure_batches"]


def require_pure_batches(problem: Problem, *, batch: int, batches: int, seed: int, device: torch.device) -> None:
    """Require that the batch of a step is the same again after that of the next one.

    Resuming, repeating and comparing trials rests on that. Costs three batches, so it is done once an attempt. Torch's
    global generators are seeded before each batch as they are in training: what is drawn from them repeats.

    Args:
        problem: The problem.
        batch: The first batch of the attempt: that of its first step.
        batches: Number of batches of the trial; nothing is tried where none is left.
        seed: The trial's seed.
        device: Where the model is.

    Raises:
        TrainerError: The batches differ, or one is empty.
    """

    def drawn(k: int) -> Batch:
        seed_generators(device, seed, k, TRAINING)
        return problem.batch(k)

    if batch >= batches:
        return
    # A copy: the next call may fill the same memory.
    first = map_tensors(torch.Tensor.clone, drawn(batch))
    between = ""
    if batch + 1 < batches:
        drawn(batch + 1)
        between = f", after batch({batch + 1})"
    if holds_nothing(first):
        raise TrainerError(
            f"batch({batch}) holds no example, so its mean loss is not a number: steps go on beyond the first epoch, "
            "take the rows from step % steps_per_epoch"
        )
    if difference := first_difference(first, drawn(batch)):
        raise TrainerError(
            f"batch({batch}) is different when it is called again{between}: {difference}. A trial could be neither "
            "resumed nor repeated: batch must be a function of the step alone, so draw from "
            "torch.Generator().manual_seed(a number made of seed and step) and keep no iterator; "
            "`clipsweep check` tests it"
        )
