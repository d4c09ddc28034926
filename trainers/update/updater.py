"""From a gradient to the next iterate: transform, momentum, optimiser and average, with their state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.trees import map_tensors
from trainers.update.averaging import IterateAverage
from trainers.update.clip_groups import ClipGroups
from trainers.update.decay import Decay
from trainers.update.flat import FlatParameters
from trainers.update.muon import MuonWithAdamW
from trainers.update.norms import norm
from trainers.update.preconditioner import preconditioner_of
from trainers.update.rule import DECOUPLED, UpdateRule, eager
from trainers.update.thresholds import build_threshold, threshold_scale
from trainers.update.transforms import Direction

__all__ = ["Updater"]


class Updater:
    """Applies an update rule to a flat vector of parameters.

    Args:
        rule: The rule.
        flat: Parameters and gradients.

    Raises:
        TrainerError: The rule does not fit the parameters: for example, a pattern names none of them.
    """

    def __init__(self, rule: UpdateRule, flat: FlatParameters) -> None:
        self._rule = rule
        self._flat = flat
        self._vector = flat.vector
        self._optimizer: torch.optim.Optimizer
        self._decay = None
        if rule.optimizer == "muon":
            self._optimizer = eager(MuonWithAdamW)(flat, rule)
        else:
            self._optimizer = rule.build_optimizer(self._vector)
        if rule.has_decay_groups and rule.optimizer != "muon":
            self._decay = Decay(flat, weight_decay=rule.weight_decay, decay_on=rule.decay_on, no_decay=rule.no_decay)
        self._momentum: Tensor | None = None
        self._average = IterateAverage(rule.average) if rule.average is not None else None
        self._threshold = None if rule.clip_threshold is None else build_threshold(rule.clip_threshold)
        names = [name for name, _ in flat.layout]
        self._groups = None if rule.clip_groups is None else ClipGroups(rule.clip_groups, names)
        fixed = math.inf if rule.clip_norm is None else rule.clip_norm
        self._fixed_threshold = torch.tensor(fixed, dtype=torch.float64, device=self._vector.device)
        self._one = torch.ones((), dtype=self._vector.dtype, device=self._vector.device)

    @property
    def averaged(self) -> Tensor | None:
        """The mean of iterates at which metrics are evaluated, shape (n,); None where it is the iterate itself."""
        if self._average is not None:
            return self._average.vector
        average: Tensor | None = self._optimizer.state[self._vector].get("ax")
        return average

    @property
    def optimizer_state(self) -> dict[str, Any]:
        """What the optimiser keeps of the one flat parameter; the optimiser's own."""
        state: dict[str, Any] = self._optimizer.state[self._vector]
        return state

    @property
    def preconditioner(self) -> Tensor | None:
        """The diagonal that the last step was divided by, shape (n,); None for optimisers that have none."""
        return preconditioner_of(self._optimizer, self._vector)

    def step(
        self, step: int, learning_rate: float, *, transformed: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go from x_k to x_{k+1} by the gradient in the buffer, which is overwritten.

        Args:
            step: k.
            learning_rate: The rate of this step.
            transformed: What :meth:`~trainers.update.accumulation.Accumulation.finish` says where the gradient in the
                buffer is one of micro-batches that were transformed one by one; it is not transformed again.

        Returns:
            The gradient's norm before anything was done to it, the factor of the transform, 0 for a step that was
            skipped, and the threshold on the norm, infinite where there is none: scalars on the device.
        """
        rule, gradient = self._rule, self._flat.gradient
        threshold = self._fixed_threshold
        if transformed is None:
            grad_norm = length = norm(gradient)
            if rule.transform_of == "momentum":
                self._accumulate()
                length = norm(gradient)
            views, parameters = self._flat.views, self._flat.parameters
            direction = Direction(vector=gradient, norm=length, views=views, parameters=parameters)
            scale, threshold = self._transform(step, direction)
        else:
            grad_norm, scale = transformed
        # To leave everything as it is, the decision is waited for.
        if rule.when_exceeded == "skip" and scale.item() < 1:
            scale = torch.zeros_like(scale)
        else:
            self._descend(learning_rate)
        if self._average is not None:
            self._average.update(step, self._vector)
        return grad_norm, scale, threshold

    def _transform(self, step: int, direction: Direction) -> tuple[Tensor, Tensor]:
        """Transform a direction in place: the factor by which its norm changed, and the threshold on the norm."""
        if self._threshold is not None or self._rule.when_exceeded == "skip":
            threshold = self._fixed_threshold
            if self._threshold is not None:
                threshold = self._threshold.at(step, direction.norm)
            scale = threshold_scale(direction.norm, threshold)
            direction.vector.mul_(scale)
            return scale, threshold
        factor = self._rule.transform(direction) if self._groups is None else self._groups(direction)
        return self._one if factor is None else factor, self._fixed_threshold

    def _descend(self, learning_rate: float) -> None:
        """Take the optimiser's step by the transformed gradient."""
        if self._decay is not None and self._rule.transform_of == "gradient":
            if self._rule.optimizer in DECOUPLED:
                self._decay.shrink(learning_rate)
            else:
                self._decay.add()
        self._optimizer.param_groups[0]["lr"] = learning_rate
        if "eta" in (state := self._optimizer.state[self._vector]):
            # torch's ASGD works out its rate a step ahead, from the learning rate of the step before.
            state["eta"] = torch.tensor(learning_rate, dtype=torch.float64)
        self._optimizer.step()
        # torch's ASGD makes decisions by these, and would wait for a GPU for them.
        for name in ("mu", "step"):
            if "eta" in state and state[name].device.type != "cpu":
                state[name] = state[name].cpu()

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of x_k, before step k."""
        if self._average is not None:
            self._average.evaluated(step, metrics)

    def state(self) -> dict[str, Any]:
        """What later steps depend on besides the parameters: a tree of tensors, not copied."""
        tree = dict(self._optimizer.state[self._vector])
        if self._momentum is not None:
            tree["momentum"] = self._momentum
        if self._average is not None:
            tree["average"] = self._average.state()
        if self._threshold is not None:
            tree["threshold"] = self._threshold.state()
        return tree

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned, on any device; copied."""
        tree = map_tensors(lambda tensor: tensor.detach().clone(), dict(state))
        device = self._vector.device
        momentum, average = tree.pop("momentum", None), tree.pop("average", None)
        threshold = tree.pop("threshold", None)
        if self._threshold is not None and threshold is not None:
            self._threshold.restore(map_tensors(lambda tensor: tensor.to(device), threshold))
        self._momentum = momentum if momentum is None else momentum.to(device)
        if self._average is not None and average is not None:
            self._average.restore(map_tensors(lambda tensor: tensor.to(device), average))
        # The optimiser decides which of its tensors go to the device and which stay on the CPU.
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": {0: tree} if tree else {}, "param_groups": groups})

    def _accumulate(self) -> None:
        """Replace the gradient by the direction of torch's SGD with momentum, using the same operations."""
        rule, gradient = self._rule, self._flat.gradient
        if self._decay is not None:
            self._decay.add()
        elif rule.weight_decay:
            gradient.add_(self._vector, alpha=rule.weight_decay)
        if self._momentum is None:
            self._momentum = gradient.clone()
        else:
            self._momentum.mul_(rule.momentum).add_(gradient, alpha=1 - rule.dampening)
        if rule.nesterov:
            gradient.add_(self._momentum, alpha=rule.momentum)
        else:
            gradient.copy_(self._momentum)
