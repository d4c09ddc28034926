"""Intervals from one trajectory, whose points depend on their neighbours: circular block bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["autocorrelation_time", "block_bootstrap", "block_length"]


def autocorrelation_time(series: ArrayLike) -> float:
    r"""Integrated autocorrelation time: half the number of successive points that are worth one independent point.

        tau_int = 1/2 + sum_{t=1}^{W} rho(t),   W the first with W >= 5 tau_int(W)

    (Sokal's self-consistent window.) The mean of n points has the variance of n / (2 tau_int) independent ones.

    Args:
        series: In the order of the trajectory, shape (n,).

    Returns:
        tau_int, at least 1/2 and at most n/2; 1/2 for independent points and for a constant.

    Example:
        >>> autocorrelation_time([1.0, 1.0, 1.0])
        0.5
    """
    values = np.asarray(series, dtype=np.float64)
    n = values.size
    centred = values - values.mean() if n else values
    # The mean of equal values may differ from them in the last digit.
    if n < 3 or np.abs(centred).max() <= 1e-12 * np.abs(values).max():
        return 0.5
    # Scaled to unit size, so that squares neither underflow nor overflow.
    centred = centred / np.abs(centred).max()
    size = 2 ** math.ceil(math.log2(2 * n))
    spectrum = np.fft.rfft(centred, size)
    correlation = np.fft.irfft(spectrum * np.conj(spectrum), size)[:n]
    correlation /= correlation[0]
    times = 0.5 + np.cumsum(correlation[1:])
    windows = np.arange(1, n)
    enough = windows >= 5 * times
    at = int(np.argmax(enough)) if enough.any() else n - 2
    return float(min(max(times[at], 0.5), n / 2))


def block_length(count: int, tau_int: float) -> int:
    """Length of the blocks: max(sqrt(n), 2 tau_int), at most n.

    Args:
        count: n.
        tau_int: Integrated autocorrelation time.

    Returns:
        At least 1.

    Example:
        >>> block_length(100, 0.5), block_length(100, 20.0), block_length(4, 50.0)
        (10, 40, 4)
    """
    return max(1, min(count, math.ceil(max(math.sqrt(count), 2 * tau_int))))


def block_bootstrap(
    statistic: Callable[[NDArray[np.intp]], ArrayLike], count: int, *, block: int, resamples: int = 400, seed: int = 0
) -> NDArray[np.float64]:
    """A statistic on resamples made of whole blocks of neighbours (Politis and Romano, 1992).

    Args:
        statistic: From indices, shape (n,), to one or more numbers.
        count: n.
        block: Length of the blocks; a block that reaches the end continues at the beginning.
        resamples: How many.
        seed: Equal seeds give equal resamples.

    Returns:
        Shape (resamples, numbers of the statistic).

    Example:
        >>> block_bootstrap(lambda indices: indices.size, 10, block=3, resamples=2).ravel().tolist()
        [10.0, 10.0]
    """
    generator = np.random.default_rng(seed)
    num_blocks = -(-count // block)
    results = []
    for _ in range(resamples):
        starts = generator.integers(0, count, num_blocks)
        indices = (starts[:, None] + np.arange(block)).ravel()[:count] % count
        results.append(np.atleast_1d(np.asarray(statistic(indices), dtype=np.float64)))
    return np.array(results)
