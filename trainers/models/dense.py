"""Classifiers without convolutions: logistic regression and the multi-layer perceptron."""

from __future__ import annotations

import itertools

from torch import nn

from trainers.models.sizes import check_sizes

__all__ = ["logistic_regression", "mlp"]


def logistic_regression(*, channels: int, side: int, num_classes: int) -> nn.Module:
    """Multinomial logistic regression on the pixels: convex, and a baseline for everything that is not.

    Args:
        channels: Channels of the images.
        side: Rows and columns of the images.
        num_classes: Number of outputs.

    Returns:
        The model, initialised as torch does.

    Example:
        >>> sum(p.numel() for p in logistic_regression(channels=3, side=32, num_classes=10).parameters())
        30730
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, num_classes))


def mlp(*, layers: int = 2, hidden: int = 128, channels: int, side: int, num_classes: int) -> nn.Module:
    """A perceptron with rectified hidden layers.

    Args:
        layers: Number of hidden layers.
        hidden: Units of each.
        channels: Channels of the images.
        side: Rows and columns of the images.
        num_classes: Number of outputs.

    Returns:
        The model, initialised as torch does.

    Raises:
        TrainerError: A size is not positive.

    Example:
        >>> sum(p.numel() for p in mlp(channels=1, side=8, num_classes=10).parameters())
        26122
    """
    check_sizes("mlp", layers=layers, hidden=hidden)
    sizes = [channels * side * side, *[hidden] * layers]
    inner = [part for inputs, outputs in itertools.pairwise(sizes) for part in (nn.Linear(inputs, outputs), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *inner, nn.Linear(sizes[-1], num_classes))
