"""The noise of mini-batch gradients: tau of Assumption 5, and a gradient norm that noise does not inflate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from estimators.probe.probe import Probe
from estimators.probe.vectors import length

__all__ = ["GradientNoise", "gradient_noise_row", "measure_gradient_noise"]


@dataclass(frozen=True, kw_only=True)
class GradientNoise:
    """What K gradients of different batches at one point say about their noise.

    Attributes:
        squared_norm: ||grad f||^2 without the bias from noise: ||mean||^2 - (1 - K/N) variance / K, for K of the N
            batches of an epoch. For N = infinity that is the mean of <g_i, g_j> over all pairs i != j, and of
            <g_A, g_B> over all ways to split the batches into halves A and B. May be negative where noise drowns the
            gradient.
        split_half: <g_A, g_B> + variance / N of the split into even and odd batches; differs from ``squared_norm`` only
            by chance.
        variance: Trace of the covariance of one batch's gradient, unbiased.
        tau: The largest ||g_i - mean||. A lower bound on Assumption 5's tau, which no sample can determine.
        deviations: ||g_i - mean|| of every gradient, in their order.
        noise_scale: variance / squared_norm (McCandlish et al., 2018): the number of batches to average so that noise
            and gradient have the same size. None where squared_norm is not positive.
        num_batches: K.
    """

    squared_norm: float
    split_half: float
    variance: float
    tau: float
    deviations: tuple[float, ...]
    noise_scale: float | None
    num_batches: int


def measure_gradient_noise(
    gradients: Callable[[], Iterator[Tensor]], *, population: int | None = None
) -> GradientNoise:
    """The noise of batch gradients, in two passes and with the memory of three gradients.

    Batches are drawn without replacement, so that two of them are a little further apart than independent ones are: the
    mean of <g_i, g_j> is ||grad f||^2 - variance / N (Cochran, Sampling Techniques, section 2.6, has the finite
    population correction 1 - K/N of a mean's variance).

    Args:
        gradients: Starts a pass over the K >= 2 batch gradients, shape (n,) each, the same ones every time.
        population: N, how many batches there are, f being their mean; None for independent draws.

    Returns:
        The noise.

    Raises:
        ValueError: There are fewer than two gradients.

    Example:
        Gradients 3 and 5 of one parameter: the mean is 4, the variance 2, and 4^2 - 2 / 2 = 3 * 5.

        >>> import torch
        >>> noise = measure_gradient_noise(lambda: iter([torch.tensor([3.0]), torch.tensor([5.0])]))
        >>> noise.squared_norm, noise.variance, noise.tau
        (15.0, 2.0, 1.0)

        Where these are all the batches there are, their mean is the gradient:

        >>> both = measure_gradient_noise(lambda: iter([torch.tensor([3.0]), torch.tensor([5.0])]), population=2)
        >>> both.squared_norm
        16.0
    """
    halves: list[Tensor] = []
    squares = 0.0
    count = 0
    for gradient in gradients():
        wide = gradient.double()
        if count < 2:
            halves.append(wide.clone())
        else:
            halves[count % 2] += wide
        squares += float(wide @ wide)
        count += 1
    if count < 2:
        raise ValueError(f"noise needs at least 2 gradients, found {count}")
    total = halves[0] + halves[1]
    mean = total / count
    deviations = [length(gradient.double() - mean) for gradient in gradients()]
    variance = math.fsum(deviation * deviation for deviation in deviations) / (count - 1)
    correction = 0.0 if population is None else variance / max(population, count)
    squared_norm = (float(total @ total) - squares) / (count * (count - 1)) + correction
    return GradientNoise(
        squared_norm=squared_norm,
        split_half=float(halves[0] @ halves[1]) / ((count - count // 2) * (count // 2)) + correction,
        variance=variance,
        tau=max(deviations) if all(map(math.isfinite, deviations)) else math.nan,
        deviations=tuple(deviations),
        noise_scale=variance / squared_norm if squared_norm > 0 else None,
        num_batches=count,
    )


def gradient_noise_row(
    probe: Probe, iterates: Tensor, *, num_batches: int = 16, batches_per_step: int | None = None
) -> dict[str, Any]:
    """The noise of the gradients that training steps use, at x_k.

    The batches are those of ``num_batches`` training steps spread evenly over an epoch, of the size that training uses,
    with f's own policy: dropout off, an RNN's state at zero. So the noise is that of sampling only. Costs
    2 ``num_batches`` gradients of a training batch. Where a step is along the mean of several batches, they count as
    the one batch that they are together, which costs as many times more.

    Args:
        probe: f.
        iterates: x_k and x_{k+1}, shape (2, num_parameters); the second is not used.
        num_batches: K, at least 2; fewer where an epoch has fewer steps.
        batches_per_step: Of how many batches of the problem a training step takes the mean; None for one.

    Returns:
        ``loss`` = f(x_k) and ``grad_norm``, both on the probe; ``grad_norm_squared``, without bias, and ``split_half``;
        ``noise_variance``, ``tau``, ``deviations``, ``noise_scale`` (in batches; null where noise drowns the gradient),
        ``num_batches``.

    Raises:
        ValueError: There are fewer than two batches.
    """
    probe.settle(iterates[0])
    value, slope = probe.value_and_gradient(iterates[0])
    per_step = batches_per_step or 1
    batches, population = probe.training_gradients(num_batches, per_step=per_step), probe.num_training_batches
    noise = measure_gradient_noise(
        lambda: _means(batches.each(iterates[0]), per_step),
        population=None if population is None else population // per_step,
    )
    return {
        "loss": value,
        "grad_norm": length(slope),
        "grad_norm_squared": noise.squared_norm,
        "split_half": noise.split_half,
        "noise_variance": noise.variance,
        "tau": noise.tau,
        "deviations": list(noise.deviations),
        "noise_scale": noise.noise_scale,
        "num_batches": noise.num_batches,
    }


def _means(gradients: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """The means of every ``count`` consecutive gradients."""
    if count == 1:
        yield from gradients
        return
    for first in gradients:
        # A copy: each gradient overwrites the one before.
        total = first.to(torch.float64, copy=True)
        for gradient in islice(gradients, count - 1):
            total += gradient
        yield total / count
