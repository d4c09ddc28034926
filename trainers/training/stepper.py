"""One training step after another, without reading back from the device."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.errors import CheckpointError, TrainerError
from trainers.problem import Problem
from trainers.seeding import seed_generators
from trainers.training.arithmetic import autocast_of, require_arithmetic, training_in
from trainers.training.checkpoint import TrainingState
from trainers.training.graphed import Differentiate, GraphedDifferentiate, Recorder
from trainers.training.hand_off import HandOff
from trainers.trees import map_tensors
from trainers.update.accumulation import Accumulation
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
        batches_per_step: Number n of micro-batches in a step, which is along the mean of the gradients of the problem's
            batches k n to k n + n - 1, all at x_k. A carry passes through them in order.
        arithmetic: How steps compute float32, see :mod:`~trainers.training.arithmetic`. Metrics are always in full
            float32, so that they compare.
        recorder: Records forward and backward pass as CUDA graphs, see :mod:`~trainers.training.graphed`; None to
            launch their kernels one by one.

    Raises:
        TrainerError: The rule transforms every micro-batch's gradient, and there is one in a step; or there is no such
            arithmetic.
    """

    def __init__(
        self,
        problem: Problem,
        rule: UpdateRule,
        *,
        total_steps: int,
        seed: int,
        keep_preconditioner: bool = False,
        batches_per_step: int = 1,
        arithmetic: str = "ieee",
        recorder: Recorder | None = None,
    ) -> None:
        require_arithmetic(arithmetic)
        if rule.clip_each_micro_batch and batches_per_step == 1:
            raise TrainerError("clip_each_micro_batch needs steps of several micro-batches: accumulate above 1")
        self._problem = problem
        self._rule = rule
        self._total_steps = total_steps
        self._seed = seed
        self._keep_preconditioner = keep_preconditioner
        self._flat = FlatParameters(problem.model)
        self._vector = self._flat.vector
        self._device = self._vector.device
        self._arithmetic = arithmetic
        self._updater = Updater(rule, self._flat)
        self._batches_per_step = batches_per_step
        self._steps_per_epoch = Fraction(problem.steps_per_epoch, batches_per_step)
        self._accumulation = Accumulation(rule, self._flat, batches_per_step) if batches_per_step > 1 else None
        self._before = torch.empty_like(self._vector, requires_grad=False)
        self._carry: Any = None
        self._differentiated: Differentiate = self._pass
        if recorder is not None:
            self._differentiated = GraphedDifferentiate(self._pass, recorder, forget=self._flat.forget)
        self._hand_off = HandOff(self._device)
        problem.model.train()

    @property
    def iterates(self) -> np.ndarray[Any, Any] | None:
        """The iterates of the last step that was asked to keep them, on the CPU; waits until they are there.

        x_k and x_{k+1}, shape (2, n): float64 for a model in float64, otherwise float32, which holds every number of
        narrower types. With ``keep_preconditioner``, and a rule that has one, shape (3, n): the last row is its
        diagonal.
        """
        return self._hand_off.finish()

    def take(self, step: int, *, keep_iterates: bool = False) -> tuple[float, Tensor]:
        """Take step k.

        Args:
            step: k.
            keep_iterates: Copy x_k and x_{k+1} to :attr:`iterates`.

        Returns:
            The learning rate, and on the device the tensor (loss, gradient norm before the transform, scale of the
            transform, norm of the update, threshold on the norm), shape (5,); the threshold is infinite for none.
        """
        with training_in(self._arithmetic, self._device):
            return self._take(step, keep_iterates=keep_iterates)

    def _take(self, step: int, *, keep_iterates: bool) -> tuple[float, Tensor]:
        # Its vectors are about to change.
        self._hand_off.finish()
        vector, transformed = self._vector, None
        if self._accumulation is None:
            loss = self._differentiate(step)
            factor = self._problem.learning_rate_factor(step)
        else:
            loss, factor, transformed = self._accumulate(step, self._accumulation)
        with torch.no_grad():
            self._before.copy_(vector)
            learning_rate = factor * self._rule.learning_rate_at(
                step, self._total_steps, steps_per_epoch=self._steps_per_epoch
            )
            grad_norm, scale, threshold = self._updater.step(step, learning_rate, transformed=transformed)
            if keep_iterates:
                self._keep(self._before)
            update_norm = distance(vector, self._before)
            # Together they have the widest type among them: thresholds are float64.
            scalars = torch.stack((loss, grad_norm, scale, update_norm, threshold))
        return learning_rate, scalars

    def _keep(self, before: Tensor) -> None:
        """Copy x_k, which is given, and x_{k+1} to :attr:`iterates`."""
        divided_by = self._updater.preconditioner if self._keep_preconditioner else None
        kept = [before, self._vector.detach()]
        self._hand_off.begin(kept if divided_by is None else [*kept, divided_by])

    def _differentiate(self, batch: int) -> Tensor:
        """Put the gradient of a batch of the problem into the buffer; returns the loss."""
        problem = self._problem
        # By the batch, not by the step: no two micro-batches draw the same numbers.
        seed_generators(self._device, self._seed, batch, TRAINING)
        if batch % problem.steps_per_epoch == 0:
            self._carry = self._to_device(problem.initial_carry())
        loss, self._carry = self._differentiated(self._to_device(problem.batch(batch)), self._carry)
        return loss

    def _pass(self, inputs: Any, carry: Any) -> tuple[Tensor, Any]:
        """Forward and backward: what a CUDA graph may hold."""
        problem = self._problem
        with autocast_of(self._arithmetic, self._device):
            loss, after = problem.loss(problem.model, inputs, carry)
        # Even where the problem forgot to: a step's graph must not reach into the previous one.
        after = map_tensors(Tensor.detach, after)
        self._flat.differentiate(loss)
        return loss.detach(), after

    def _accumulate(self, step: int, accumulation: Accumulation) -> tuple[Tensor, float, tuple[Tensor, Tensor] | None]:
        """Put the mean of a step's gradients into the buffer.

        Returns:
            The mean of the losses, of the factors of the learning rate, and what the accumulation says.
        """
        count = self._batches_per_step
        losses, factors = [], []
        for batch in range(step * count, (step + 1) * count):
            losses.append(self._differentiate(batch))
            factors.append(self._problem.learning_rate_factor(batch))
            with torch.no_grad():
                accumulation.add()
        with torch.no_grad():
            return torch.stack(losses).mean(), sum(factors) / count, accumulation.finish()

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
        with training_in("ieee", self._device), torch.no_grad():
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
