"""One training step after another, without reading back from the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.errors import CheckpointError
from trainers.problem import Problem
from trainers.seeding import seed_generators
from trainers.training.checkpoint import TrainingState
from trainers.trees import map_tensors
from trainers.update.flat import FlatParameters
from trainers.update.norms import distance
from trainers.update.rule import UpdateRule
from trainers.update.updater import Updater

__all__ = ["TRAINING", "Stepper"]

# Evaluation must not draw the same random numbers as the step at the same index.
TRAINING, _EVALUATION = 0, 1


class Stepper:
    """Takes a problem's model from x_k to x_{k+1}.

    Args:
        problem: Its model is trained in place.
        rule: The update rule.
        total_steps: Number of steps of the whole trial, which the learning-rate schedule needs.
        seed: The trial's seed.
        keep_preconditioner: Whether what a step was divided by is kept with its iterates.

    Attributes:
        iterates: x_k and x_{k+1} of the last step that was asked to keep them, shape (2, n), on the CPU: float64 for a
            model in float64, otherwise float32, which holds every number of narrower types. With
            ``keep_preconditioner``, and a rule that has one, shape (3, n): the last row is its diagonal.
    """

    def __init__(
        self, problem: Problem, rule: UpdateRule, *, total_steps: int, seed: int, keep_preconditioner: bool = False
    ) -> None:
        self._problem = problem
        self._rule = rule
        self._total_steps = total_steps
        self._seed = seed
        self._keep_preconditioner = keep_preconditioner
        self._flat = FlatParameters(problem.model)
        self._vector = self._flat.vector
        self._device = self._vector.device
        self._updater = Updater(rule, self._flat)
        self._before = torch.empty_like(self._vector, requires_grad=False)
        self._carry: Any = None
        self.iterates: np.ndarray[Any, Any] | None = None
        problem.model.train()

    def take(self, step: int, *, keep_iterates: bool = False) -> tuple[float, Tensor]:
        """Take step k.

        Args:
            step: k.
            keep_iterates: Copy x_k and x_{k+1} to :attr:`iterates`.

        Returns:
            The learning rate, and on the device the tensor (loss, gradient norm before the transform, scale of the
            transform, norm of the update, threshold on the norm), shape (5,); the threshold is infinite for none.
        """
        problem, flat, vector = self._problem, self._flat, self._vector
        seed_generators(self._device, self._seed, step, TRAINING)
        if step % problem.steps_per_epoch == 0:
            self._carry = self._to_device(problem.initial_carry())
        loss, carry = problem.loss(problem.model, self._to_device(problem.batch(step)), self._carry)
        # Even where the problem forgot to: a step's graph must not reach into the previous one.
        self._carry = map_tensors(Tensor.detach, carry)
        flat.differentiate(loss)
        with torch.no_grad():
            self._before.copy_(vector)
            learning_rate = self._rule.learning_rate_at(
                step, self._total_steps, steps_per_epoch=problem.steps_per_epoch
            ) * problem.learning_rate_factor(step)
            grad_norm, scale, threshold = self._updater.step(step, learning_rate)
            if keep_iterates:
                # Fresh memory: the receiver serialises it later, when training has moved on.
                kind = np.float64 if vector.dtype == torch.float64 else np.float32
                divided_by = self._updater.preconditioner if self._keep_preconditioner else None
                self.iterates = np.empty((2 if divided_by is None else 3, vector.numel()), dtype=kind)
                torch.from_numpy(self.iterates[0]).copy_(self._before)
                torch.from_numpy(self.iterates[1]).copy_(vector)
                if divided_by is not None:
                    torch.from_numpy(self.iterates[2]).copy_(divided_by)
            update_norm = distance(vector, self._before)
            # Together they have the widest type among them: thresholds are float64.
            scalars = torch.stack((loss.detach(), grad_norm, scale, update_norm, threshold))
        return learning_rate, scalars

    def evaluate(self, step: int) -> dict[str, float]:
        """The problem's metrics at x_k, or at the average of iterates that the rule keeps, in evaluation mode.

        Args:
            step: k.

        Returns:
            The metrics by name; training is unaffected, except that they may start an average.
        """
        found = self._evaluated(step, self._problem.evaluate)
        self._updater.evaluated(step, found)
        return found

    def test(self, step: int) -> dict[str, float]:
        """The metrics of the problem's test data, at the same weights as those of :meth:`evaluate`.

        Args:
            step: k.

        Returns:
            The metrics by name; none where the problem has no test data.
        """
        return {} if self._problem.test is None else self._evaluated(step, self._problem.test)

    def _evaluated(self, step: int, metrics: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        model = self._problem.model
        seed_generators(self._device, self._seed, step, _EVALUATION)
        model.eval()
        with torch.no_grad():
            averaged = self._updater.averaged
            if averaged is not None:
                self._before.copy_(self._vector)
                self._vector.copy_(averaged)
            found = metrics(model)
            if averaged is not None:
                self._vector.copy_(self._before)
        model.train()
        return found

    def state(self, step: int, *, num_clipped: int, last_finite_loss: float | None) -> TrainingState:
        """A copy of everything that step k and later ones depend on."""
        return TrainingState(
            step=step,
            layout=tuple(self._flat.layout),
            parameters=_copy(self._vector),
            buffers={name: _copy(buffer) for name, buffer in self._problem.model.named_buffers()},
            optimizer=map_tensors(_copy, self._updater.state()),
            carry=map_tensors(_copy, self._carry),
            num_clipped=num_clipped,
            last_finite_loss=last_finite_loss,
        )

    def restore(self, state: TrainingState) -> None:
        """Restore a state.

        Args:
            state: Of the same problem and update rule.

        Raises:
            CheckpointError: It is of another model.
        """
        buffers = dict(self._problem.model.named_buffers())
        if list(state.layout) != self._flat.layout or state.buffers.keys() != buffers.keys():
            raise CheckpointError("the checkpoint is of another model: parameters or buffers differ in name or shape")
        with torch.no_grad():
            self._vector.copy_(state.parameters)
            for name, buffer in buffers.items():
                buffer.copy_(state.buffers[name])
        self._updater.restore(state.optimizer)
        self._carry = map_tensors(lambda tensor: tensor.to(self._device, copy=True), state.carry)

    def _to_device(self, tree: Any) -> Any:
        return map_tensors(lambda tensor: tensor.to(self._device, non_blocking=True), tree)


def _copy(tensor: Tensor) -> Tensor:
    """A copy in CPU memory."""
    return tensor.detach().to("cpu", copy=True)
