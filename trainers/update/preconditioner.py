"""What an adaptive optimiser divides a direction by, and the rates at which optimisers become unstable."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.update.rule import UpdateRule

__all__ = ["PRECONDITIONED", "preconditioner_of", "stability_threshold"]

PRECONDITIONED = frozenset({"adam", "adamw", "rmsprop", "adagrad"})
"""Optimisers that divide each coordinate by a number of its own."""


def preconditioner_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> Tensor | None:
    """The diagonal of P, where the last step was -eta P^{-1} m for a gradient or an average m of gradients.

    As Cohen et al. (2022), arXiv 2207.14484, have it: for Adam (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps), which
    takes both corrections of bias out of m; for RMSprop and AdaGrad sqrt(v) + eps.

    Args:
        optimizer: One that has taken a step.
        parameter: Its parameter, shape (n,).

    Returns:
        A fresh tensor of shape (n,), on the device; None for optimisers that have none.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> adagrad = torch.optim.Adagrad([x], lr=0.5, eps=0.0)
        >>> x.grad = torch.tensor([3.0, 4.0])
        >>> adagrad.step()
        >>> preconditioner_of(adagrad, x)
        tensor([3., 4.])
    """
    group, state = optimizer.param_groups[0], optimizer.state[parameter]
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        (beta1, beta2), steps = group["betas"], float(state["step"])
        scale = torch.as_tensor(state["exp_avg_sq"] / (1 - beta2**steps)).sqrt()
        return scale.add_(group["eps"]).mul_(1 - beta1**steps)
    if isinstance(optimizer, torch.optim.RMSprop):
        return torch.as_tensor(state["square_avg"]).sqrt().add_(group["eps"])
    if isinstance(optimizer, torch.optim.Adagrad):
        return torch.as_tensor(state["sum"]).sqrt().add_(group["eps"])
    return None


def stability_threshold(rule: UpdateRule) -> float | None:
    r"""The c above which eta lambda_max(P^{-1} H) makes a rule's steps diverge on a quadratic, P held fixed.

    One coordinate follows a linear recurrence, a root of which reaches -1 at

    - 2 for steps along the gradient;
    - (2 + 2 mu) / (1 - tau) for momentum mu with dampening tau, (2 + 2 mu) / (1 + 2 mu) for Nesterov's;
    - (2 + 2 beta1) / (1 - beta1) for Adam, whose momentum is an average.

    Clipping is left out: it makes steps shorter than eta says.

    Args:
        rule: The rule.

    Returns:
        c; None where the length of a step is no multiple of a gradient's: with ``normalize``, ``lion``, ``signsgd`` and
        ``muon``.

    Example:
        >>> stability_threshold(UpdateRule(learning_rate=0.1, momentum=0.9))
        3.8
        >>> round(stability_threshold(UpdateRule(optimizer="adam", learning_rate=0.1)), 9)
        38.0
    """
    if rule.normalize is not None or rule.optimizer in {"lion", "signsgd", "muon"}:
        return None
    if rule.optimizer in {"adam", "adamw"}:
        return (2 + 2 * rule.betas[0]) / (1 - rule.betas[0])
    if rule.nesterov:
        return (2 + 2 * rule.momentum) / (1 + 2 * rule.momentum)
    # With dampening 1 the momentum stays what the first gradient made it.
    return (2 + 2 * rule.momentum) / (1 - rule.dampening) if rule.dampening < 1 else None
