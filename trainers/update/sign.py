"""Optimisers that step by signs, which torch.optim does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Lion", "SignSGD"]


class _BySign(torch.optim.Optimizer):
    """Steps of -lr (sign + weight_decay x): every coordinate moves by lr, whatever the gradient's size.

    Args:
        params: The parameters, or groups of them.
        lr: eta.
        weight_decay: Decoupled, as in AdamW.
        foreach: For the signature of torch's own; tensors are stepped one by one.
        options: What a subclass keeps of its own.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **options})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step by the gradients of the parameters.

        Args:
            closure: For the signature of torch's own; it must be None.

        Raises:
            ValueError: There is a closure.
        """
        if closure is not None:
            raise ValueError(f"{type(self).__name__} takes no closure: compute the gradients before the step")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                direction = self._direction(parameter.grad, state["exp_avg"], group).sign_()
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])

    def _direction(self, gradient: Tensor, average: Tensor, group: dict[str, Any]) -> Tensor:
        """What the sign is taken of, a fresh tensor; brings the average up to date."""
        raise NotImplementedError


class Lion(_BySign):
    """Lion of Chen et al. (2023), "Symbolic discovery of optimization algorithms", Algorithm 2.

    x <- x - lr (sign(beta1 m + (1 - beta1) g) + weight_decay x), then m <- beta2 m + (1 - beta2) g.

    Args:
        params: The parameters, or groups of them.
        lr: eta.
        betas: beta1 and beta2.
        weight_decay: Decoupled.
        foreach: For the signature of torch's own.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> lion = Lion([x], lr=0.1)
        >>> x.grad = torch.tensor([-1e-6, 1e6])
        >>> lion.step()
        >>> x.tolist() == [1.100000023841858, 0.8999999761581421]
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, weight_decay=weight_decay, betas=betas)

    def _direction(self, gradient: Tensor, average: Tensor, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        direction = average.lerp(gradient, 1 - beta1)
        average.lerp_(gradient, 1 - beta2)
        return direction


class SignSGD(_BySign):
    """signSGD of Bernstein et al. (2018), "signSGD: compressed optimisation for non-convex problems".

    m <- momentum m + (1 - momentum) g, then x <- x - lr (sign(m) + weight_decay x); with momentum it is called Signum.

    Args:
        params: The parameters, or groups of them.
        lr: eta.
        momentum: Decay rate of the average of gradients; 0 for signSGD.
        weight_decay: Decoupled.
        foreach: For the signature of torch's own.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, weight_decay=weight_decay, momentum=momentum)

    def _direction(self, gradient: Tensor, average: Tensor, group: dict[str, Any]) -> Tensor:
        average.lerp_(gradient, 1 - group["momentum"])
        return average.clone()
