"""The spectral norm of the Hessian: the smoothness of Definition 1 at a point, in every direction at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from estimators.probe.probe import Probe
from estimators.probe.vectors import length

__all__ = ["Eigenpairs", "Operator", "hessian_spectral_norm_row", "largest_eigenpairs", "residual", "top_eigenpair"]

_DENSE = 64
"""Up to this many parameters the whole Hessian is computed: Lanczos needs about 20 products anyway."""

_GLANCE = 0.03
"""Relative accuracy at which it is told whether an eigenvalue was left out."""

Eigenpairs = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Eigenvalues, shape (k,), largest in modulus first, and eigenvectors, shape (n, k)."""


class Operator(Protocol):
    """A symmetric matrix by its products."""

    @property
    def num_parameters(self) -> int:
        """Rows and columns."""

    @property
    def device(self) -> torch.device:
        """Where products are computed."""

    def product(self, vector: Tensor, /) -> Tensor:
        """The product with a vector, shape (num_parameters,) both."""


def largest_eigenpairs(
    hessian: Operator, count: int, *, tolerance: float = 1e-3, max_restarts: int = 50, seed: int = 0
) -> Eigenpairs:
    """The eigenvalues that are largest in modulus, negative ones among them, by SciPy's implicitly restarted Lanczos.

    Where several are wanted, a larger one is looked for orthogonally to those found, until there is none: of equal or
    nearly equal eigenvalues Lanczos may leave out some.

    Args:
        hessian: The operator; products are taken in its arithmetic, vectors kept in float64.
        count: How many, at most num_parameters.
        tolerance: Relative accuracy of the eigenvalues.
        max_restarts: Restarts of Lanczos, of about 20 products or more each, before giving up.
        seed: Of the starting vector, so that the same Hessian gives the same digits.

    Returns:
        The pairs that converged: fewer than ``count``, or none, if Lanczos gave up.

    Raises:
        ValueError: ``count`` is not positive, or larger than the Hessian.
    """
    size = hessian.num_parameters
    if not 1 <= count <= size:
        raise ValueError(f"a Hessian of size {size} has between 1 and {size} eigenvalues, not {count!r}")
    product = _on_arrays(hessian)
    if size <= max(_DENSE, count + 1):
        values, vectors = _dense(product, size)
    else:
        draw = np.random.default_rng(seed)
        values, vectors = _lanczos(product, draw.standard_normal(size), count, tolerance, max_restarts)
        if 1 < count == len(values):
            values, vectors = _completed(product, values, vectors, draw, tolerance, max_restarts)
    order = np.argsort(-np.abs(values), kind="stable")[:count]
    return values[order], vectors[:, order]


def top_eigenpair(
    hessian: Operator, *, tolerance: float = 1e-3, max_restarts: int = 50, seed: int = 0
) -> tuple[float, NDArray[np.float64]] | None:
    """The algebraically largest eigenvalue, the one that a step can be too long for, and its eigenvector.

    Args:
        hessian: The operator.
        tolerance: As for :func:`largest_eigenpairs`; so are the others.
        max_restarts: See there.
        seed: See there.

    Returns:
        The eigenvalue and the eigenvector, shape (n,); None if Lanczos gave up.
    """
    product, size = _on_arrays(hessian), hessian.num_parameters
    if size <= _DENSE:
        values, vectors = _dense(product, size)
    else:
        start = np.random.default_rng(seed).standard_normal(size)
        values, vectors = _lanczos(product, start, 1, tolerance, max_restarts, which="LA")
    return (float(values[-1]), vectors[:, -1]) if len(values) else None


_Product = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _on_arrays(hessian: Operator) -> _Product:
    """The product of arrays."""

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        along = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(hessian.device)
        return hessian.product(along).double().cpu().numpy()

    return product


def _dense(product: _Product, size: int) -> Eigenpairs:
    """All pairs of a small matrix, the smallest first."""
    whole = np.stack([product(row) for row in np.eye(size)])
    values, vectors = np.linalg.eigh((whole + whole.T) / 2)
    return values, vectors


def _lanczos(
    product: _Product,
    start: NDArray[np.float64],
    count: int,
    tolerance: float,
    max_restarts: int,
    which: str = "LM",
) -> Eigenpairs:
    """The pairs that converged, in no order; by default those that are largest in modulus."""
    operator = LinearOperator((len(start), len(start)), matvec=product, dtype=np.float64)
    try:
        values, vectors = eigsh(operator, k=count, which=which, tol=tolerance, v0=start, maxiter=max_restarts)
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    return values, vectors


def _completed(
    product: _Product,
    values: NDArray[np.float64],
    vectors: NDArray[np.float64],
    draw: np.random.Generator,
    tolerance: float,
    max_restarts: int,
) -> Eigenpairs:
    """The same pairs and those that Lanczos left out, until nothing orthogonal to them has a larger eigenvalue.

    From one start Lanczos sees one direction of an eigenspace, and others only by rounding: of equal eigenvalues, or of
    a tight cluster, it may leave out some and go on with smaller ones, whose residuals are as small.

    Returns:
        As many as were given, or more, the new ones last.
    """
    count = len(values)
    while len(values) < 2 * count:

        def outside(vector: NDArray[np.float64], known: NDArray[np.float64] = vectors) -> NDArray[np.float64]:
            flat = vector.reshape(-1)
            along = product(flat - known @ (known.T @ flat))
            return along - known @ (known.T @ along)

        start = draw.standard_normal(len(vectors))
        start -= vectors @ (vectors.T @ start)
        smallest = np.sort(np.abs(values))[-count] * (1 + tolerance)
        # Whether there is one is known long before its value is.
        value, vector = _lanczos(outside, start, 1, max(tolerance, _GLANCE), max_restarts)
        if len(value) and abs(value[0]) > smallest and tolerance < _GLANCE:
            value, vector = _lanczos(outside, vector[:, 0], 1, tolerance, max_restarts)
        if not len(value) or abs(value[0]) <= smallest:
            break
        values, vectors = np.append(values, value), np.hstack([vectors, vector])
    return values, vectors


def residual(hessian: Operator, value: float, vector: NDArray[np.float64]) -> float:
    """||H v - lambda v|| for a unit vector: the Hessian has an eigenvalue within this distance of lambda.

    Args:
        hessian: The operator.
        value: lambda.
        vector: v, shape (n,), of norm 1.

    Returns:
        The residual, in units of the eigenvalue.
    """
    along = torch.from_numpy(np.ascontiguousarray(vector)).to(hessian.device)
    return length(hessian.product(along).double() - value * along)


def hessian_spectral_norm_row(
    probe: Probe, iterates: Tensor, *, tolerance: float = 1e-3, max_restarts: int = 50
) -> dict[str, Any]:
    """||H(x_k)||_2, the largest eigenvalue in modulus.

    Costs ``num_products`` Hessian-vector products, about 20 to 60, of two to three gradients each.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters); the second is not used.
        tolerance: Relative accuracy of the eigenvalue.
        max_restarts: Restarts of Lanczos before giving up.

    Returns:
        ``loss`` = f(x_k) and ``grad_norm``; ``spectral_norm`` = |lambda| and ``eigenvalue`` = lambda with its sign,
        null where Lanczos did not converge; ``residual`` = ||H v - lambda v||, by a separate product;
        ``num_products``.
    """
    probe.settle(iterates[0])
    value, slope = probe.value_and_gradient(iterates[0])
    hessian = probe.hessian(iterates[0])
    row: dict[str, Any] = {
        "loss": value,
        "grad_norm": length(slope),
        "spectral_norm": None,
        "eigenvalue": None,
        "residual": None,
    }
    values, vectors = largest_eigenpairs(hessian, 1, tolerance=tolerance, max_restarts=max_restarts)
    if len(values):
        row["eigenvalue"] = float(values[0])
        row["spectral_norm"] = abs(float(values[0]))
        row["residual"] = residual(hessian, float(values[0]), vectors[:, 0])
    return row | {"num_products": hessian.num_products}
