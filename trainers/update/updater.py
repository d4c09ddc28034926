"""From a gradient to the next iterate: transform, momentum, optimiser and average, with their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.trees import map_tensors
from trainers.update.averaging import IterateAverage
from trainers.update.decay import Decay
from trainers.update.flat import FlatParameters
from trainers.update.muon import MuonWithAdamW
from trainers.update.norms import norm
from trainers.update.preconditioner import preconditioner_of
from trainers.update.rule import DECOUPLED, UpdateRule, eager
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
        self._one = torch.ones((), dtype=self._vector.dtype, device=self._vector.device)

    @property
    def averaged(self) -> Tensor | None:
        """The mean of iterates at which metrics are evaluated, shape (n,); None where it is the iterate itself."""
        if self._average is not None:
            return self._average.vector
        average: Tensor | None = self._optimizer.state[self._vector].get("ax")
        return average

    @property
    def preconditioner(self) -> Tensor | None:
        """The diagonal that the last step was divided by, shape (n,); None for optimisers that have none."""
        return preconditioner_of(self._optimizer, self._vector)

    def step(
        self, step: int, learning_rate: float, *, transformed: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Go from x_k to x_{k+1} by the gradient in the buffer, which is overwritten.

        Args:
            step: k.
            learning_rate: The rate of this step.
            transformed: What :meth:`~trainers.update.accumulation.Accumulation.finish` says where the gradient in the
                buffer is one of micro-batches that were transformed one by one; it is not transformed again.

        Returns:
            The gradient's norm before anything was done to it, and the factor of the transform: scalars on the device.
        """
        grad_norm, scale = self._transform() if transformed is None else transformed
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
        if self._average is not None:
            self._average.update(step, self._vector)
        return grad_norm, scale

    def _transform(self) -> tuple[Tensor, Tensor]:
        """Transform the gradient, or the momentum that takes its place; its norm before, and the factor."""
        rule, gradient = self._rule, self._flat.gradient
        grad_norm = length = norm(gradient)
        if rule.transform_of == "momentum":
            self._accumulate()
            length = norm(gradient)
        views, parameters = self._flat.views, self._flat.parameters
        scale = rule.transform(Direction(vector=gradient, norm=length, views=views, parameters=parameters))
        return grad_norm, self._one if scale is None else scale

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
        return tree

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned, on any device; copied."""
        tree = map_tensors(lambda tensor: tensor.detach().clone(), dict(state))
        device = self._vector.device
        momentum, average = tree.pop("momentum", None), tree.pop("average", None)
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
