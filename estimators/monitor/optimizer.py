"""What a monitor needs to know of an optimiser: whether it fits, its settings, its gradients."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "gradient_norm",
    "options_of",
    "parameters_of",
    "rate_of",
    "require_fit",
    "settings_of",
    "was_skipped",
]


def require_fit(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser whose step is not a step of this model, or not one step.

    Args:
        model: The model.
        optimizer: The optimiser.

    Raises:
        ValueError: It is; the text says why and what to do.
    """
    given: object = optimizer
    if not isinstance(given, torch.optim.Optimizer):
        kind = type(given).__name__
        several = isinstance(given, list | tuple)
        fix = "make one monitor for each" if several else "hand over the torch.optim.Optimizer within it"
        raise ValueError(f"optimizer is a {kind}: a monitor follows the steps of one torch.optim.Optimizer; {fix}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS takes several steps within one call of step(), so there is no x_k and x_{k+1} to measure between; "
            "save state dicts around its iterations and measure them with estimators.measure_pairs"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"the model ({type(model).__name__}) has no parameter that requires a gradient")
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    strange = [p for p in parameters_of(optimizer) if id(p) not in own]
    if strange:
        raise ValueError(
            f"{len(strange)} of the optimiser's {len(parameters_of(optimizer))} parameters, the first of shape "
            f"{tuple(strange[0].shape)}, are not parameters of the model: hand over the module that holds all of them, "
            "and make the optimiser after the model was moved or wrapped"
        )


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters that an optimiser trains, group by group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def options_of(optimizer: torch.optim.Optimizer) -> list[str]:
    """Options that take a step away from the gradient, in use in any parameter group, as a spec calls them."""
    names = ("momentum", "dampening", "nesterov", "weight_decay")
    return [name for name in names if any(group.get(name) for group in optimizer.param_groups)]


_HOW = frozenset({"lr", "params", "foreach", "fused", "capturable", "differentiable"})
"""Options of torch's optimisers that are told elsewhere, or change no step."""


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Numbers and flags that all parameter groups share and that are not the defaults of the optimiser's class."""
    defaults = {name: one.default for name, one in inspect.signature(type(optimizer)).parameters.items()}
    found: dict[str, Any] = {}
    for name, default in defaults.items():
        held = [group.get(name) for group in optimizer.param_groups]
        value = list(held[0]) if isinstance(held[0], tuple) else held[0]
        is_plain = all(isinstance(one, int | float) for one in (value if isinstance(value, list) else [value]))
        if name not in _HOW and is_plain and held[0] != default and all(one == held[0] for one in held):
            found[name] = value
    return found


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimiser has taken no step, since a gradient scaler found infinities."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and bool(found.item())


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor | None:
    """The norm of the gradients that parameters hold, without waiting for the device.

    Args:
        parameters: The parameters; those without a gradient count as 0.

    Returns:
        The norm, shape (); None where none has a gradient.

    Example:
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> gradient_norm([weight, torch.zeros(1, requires_grad=True)])
        tensor(5.)
    """
    gradients = [parameter.grad.detach() for parameter in parameters if parameter.grad is not None]
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    if not dense:
        return None
    with torch.no_grad():
        return torch.nn.utils.get_total_norm(dense)


def rate_of(optimizer: torch.optim.Optimizer, *, initial: bool = False) -> float | None:
    """The learning rate of an optimiser; None where its parameter groups have different ones.

    Args:
        optimizer: The optimiser.
        initial: Before any schedule, as schedulers keep it, in place of the current one.

    Returns:
        The rate.

    Example:
        >>> rate_of(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))
        0.5
    """
    rates = {
        float(group.get("initial_lr", group["lr"]) if initial else group["lr"]) for group in optimizer.param_groups
    }
    return rates.pop() if len(rates) == 1 else None
