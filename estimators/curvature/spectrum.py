"""More of the Hessian's spectrum: its largest eigenvalues and its trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from estimators.curvature.spectral_norm import largest_eigenpairs, residual
from estimators.probe.hessian import ProbeHessian
from estimators.probe.probe import Probe
from estimators.probe.vectors import length

__all__ = ["Trace", "hessian_spectrum_row", "hutch_plus_plus"]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        value: The estimate, without bias.
        standard_error: Of the sampled part; 0 if nothing is left to sample.
    """

    value: float
    standard_error: float


def hutch_plus_plus(hessian: ProbeHessian, num_products: int, *, seed: int = 0) -> Trace:
    """The trace by Hutch++ (Meyer, Musco, Musco and Woodruff, 2021).

    A third of the products sketch the range of the large eigenvalues; there the trace is computed exactly,
    which takes another third. The rest, which is small, is sampled with the last third.

    Args:
        hessian: The operator.
        num_products: Products to spend, a multiple of 3; at three times num_parameters or more the trace is exact.
        seed: Seed of the random signs.

    Returns:
        The estimate.

    Raises:
        ValueError: ``num_products`` is not a positive multiple of 3.
    """
    if num_products < 3 or num_products % 3:
        raise ValueError(f"Hutch++ spends a positive multiple of 3 products, not {num_products!r}")
    size, count = hessian.num_parameters, min(num_products // 3, hessian.num_parameters)
    # On the CPU whatever the device, so that the signs are the same everywhere.
    generator = torch.Generator().manual_seed(seed)
    sketch, probes = (
        torch.randint(0, 2, (size, count), generator=generator, dtype=torch.int8) * 2 - 1 for _ in range(2)
    )
    if count == size:
        basis = torch.eye(size, dtype=torch.float64, device=hessian.device)
    else:
        columns = [hessian.product(column.to(hessian.device)).double() for column in sketch.T]
        basis, _ = torch.linalg.qr(torch.stack(columns, dim=1))
    within = sum(float(column @ hessian.product(column).double()) for column in basis.T)
    if count == size:
        return Trace(value=within, standard_error=0.0)
    samples = []
    for column in probes.T:
        outside = column.to(hessian.device).double()
        outside = outside - basis @ (basis.T @ outside)
        samples.append(float(outside @ hessian.product(outside).double()))
    mean = sum(samples) / count
    spread = (
        math.sqrt(sum((sample - mean) * (sample - mean) for sample in samples) / (count - 1)) if count > 1 else math.nan
    )
    return Trace(value=within + mean, standard_error=spread / math.sqrt(count))


def hessian_spectrum_row(
    probe: Probe, iterates: Tensor, *, count: int = 5, tolerance: float = 1e-2, trace_products: int = 30
) -> dict[str, Any]:
    """The eigenvalues largest in modulus, and the trace, of the Hessian at x_k.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters); the second is not used.
        count: How many eigenvalues; fewer where f has fewer parameters.
        tolerance: Relative accuracy of the eigenvalues.
        trace_products: Hessian-vector products that Hutch++ may spend, a multiple of 3. A third of them are held as
            float64 vectors.

    Returns:
        ``loss`` = f(x_k) and ``grad_norm``; ``eigenvalues``, largest in modulus first, only those that converged;
        ``residuals`` of each; ``trace``, ``trace_error`` (standard error), ``mean_eigenvalue`` = trace / n, and
        ``num_products``.

    Raises:
        ValueError: ``trace_products`` is not a positive multiple of 3.
    """
    probe.settle(iterates[0])
    value, slope = probe.value_and_gradient(iterates[0])
    hessian = probe.hessian(iterates[0])
    size = hessian.num_parameters
    values, vectors = largest_eigenpairs(hessian, min(count, size), tolerance=tolerance)
    residuals = [residual(hessian, float(one), vectors[:, index]) for index, one in enumerate(values)]
    trace = hutch_plus_plus(hessian, trace_products)
    return {
        "loss": value,
        "grad_norm": length(slope),
        "eigenvalues": [float(one) for one in values],
        "residuals": residuals,
        "trace": trace.value,
        "trace_error": trace.standard_error,
        "mean_eigenvalue": trace.value / size,
        "num_products": hessian.num_products,
    }
