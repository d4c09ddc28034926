"""The top eigenvalue of the preconditioned Hessian, beside the rate at which its optimiser becomes unstable."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators.curvature.spectral_norm import residual, top_eigenpair
from estimators.probe.hessian import ProbeHessian
from estimators.probe.probe import Probe
from estimators.probe.vectors import length

__all__ = ["PreconditionedHessian", "preconditioned_sharpness_row"]


class PreconditionedHessian:
    """P^{-1/2} H P^{-1/2} for a diagonal P, as an operator: symmetric, with the eigenvalues of P^{-1} H.

    Args:
        hessian: H.
        diagonal: The diagonal of P, positive, shape (num_parameters,).

    Example:
        f(a, b) = (a b - 1)^2 / 2 has at (1, 1) the Hessian [[1, 1], [1, 1]]:

        >>> from torch import nn
        >>> from estimators import ProbeGradient
        >>> model = nn.Module()
        >>> model.ab = nn.Parameter(torch.ones(2))
        >>> loss = lambda model, batch, carry: ((model.ab.prod() - 1).square() / 2, carry)
        >>> hessian = ProbeHessian(ProbeGradient(model, loss, [None]), torch.ones(2))
        >>> PreconditionedHessian(hessian, torch.tensor([4.0, 16.0])).product(torch.tensor([1.0, 0.0]))
        tensor([0.2500, 0.1250])
    """

    def __init__(self, hessian: ProbeHessian, diagonal: Tensor) -> None:
        self._hessian = hessian
        self._scale = diagonal.to(hessian.device).double().rsqrt()

    @property
    def num_parameters(self) -> int:
        """Rows and columns."""
        return self._hessian.num_parameters

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self._hessian.device

    @property
    def num_products(self) -> int:
        """Products of the Hessian so far."""
        return self._hessian.num_products

    def product(self, vector: Tensor) -> Tensor:
        """P^{-1/2} H P^{-1/2} v.

        Args:
            vector: v, shape (num_parameters,).

        Returns:
            The product, shape (num_parameters,), in the type of v.
        """
        # Scaled in float64: entries of P may differ by ten orders of magnitude.
        scaled = vector.double() * self._scale
        size = length(scaled)
        if not 0 < size < math.inf:
            return torch.zeros_like(vector)
        # Of length 1, so that nothing overflows in the arithmetic of f.
        along = self._hessian.product(scaled / size).double()
        return (along * self._scale * size).to(vector.dtype)


def preconditioned_sharpness_row(
    probe: Probe,
    iterates: Tensor,
    *,
    tolerance: float = 1e-3,
    max_restarts: int = 50,
    preconditioner: Tensor | None = None,
    learning_rate: float | None = None,
    stability_threshold: float | None = None,
) -> dict[str, Any]:
    r"""The largest eigenvalue of P^{-1} H(x_k), which decides whether a preconditioned step is stable.

    An adaptive optimiser steps by -eta P^{-1} m, m being the gradient or an average of gradients. On the quadratic
    model of f, with P held fixed, it diverges along the top eigenvector of P^{-1} H once

        eta lambda_max(P^{-1} H) > c,

    c being 2 for m = grad f, and (2 + 2 beta) / (1 - beta) for an average with decay rate beta, as Adam's. Cohen et al.
    (2022), "Adaptive gradient methods at the edge of stability", arXiv 2207.14484, find that full-batch Adam and
    RMSprop hover there. P of step k is the one that the step was taken with, Adam's corrections of bias included. The
    regularisers that f leaves out, weight decay among them, are not in H; a clipped step is shorter than eta says.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters); the second is not used.
        tolerance: Relative accuracy of the eigenvalue.
        max_restarts: Restarts of Lanczos before giving up.
        preconditioner: The diagonal of P, positive, shape (num_parameters,); None for the identity, as of SGD.
        learning_rate: eta of the step; None where it is not known.
        stability_threshold: c of the optimiser; None where a step is no multiple of eta.

    Returns:
        ``loss`` = f(x_k), ``grad_norm``, ``learning_rate``; ``preconditioned_sharpness`` = lambda_max, the largest one,
        which may be negative, null where Lanczos did not converge; ``stability_threshold`` = c and ``stability_ratio``
        = eta lambda_max / c, above 1 where the step is unstable; ``residual`` = ||P^{-1/2} H P^{-1/2} v - lambda v||,
        by a separate product; ``num_products``.

    Raises:
        ValueError: P has another size than f, or an entry that is not positive and finite.
    """
    probe.settle(iterates[0])
    value, slope = probe.value_and_gradient(iterates[0])
    diagonal = torch.ones_like(slope) if preconditioner is None else preconditioner
    if diagonal.shape != slope.shape:
        raise ValueError(f"the preconditioner has the shape {tuple(diagonal.shape)}, but f {slope.numel()} parameters")
    if not bool(((diagonal > 0) & torch.isfinite(diagonal)).all()):
        raise ValueError("the preconditioner has entries that are not positive and finite")
    operator = PreconditionedHessian(probe.hessian(iterates[0]), diagonal)
    row: dict[str, Any] = {
        "loss": value,
        "grad_norm": length(slope),
        "learning_rate": learning_rate,
        "preconditioned_sharpness": None,
        "stability_threshold": stability_threshold,
        "stability_ratio": None,
        "residual": None,
    }
    found = top_eigenpair(operator, tolerance=tolerance, max_restarts=max_restarts)
    if found is not None:
        top, vector = found
        row["preconditioned_sharpness"] = top
        row["residual"] = residual(operator, top, np.ascontiguousarray(vector))
        if learning_rate is not None and stability_threshold is not None:
            row["stability_ratio"] = learning_rate * top / stability_threshold
    return row | {"num_products": operator.num_products}
