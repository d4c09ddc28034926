"""What exactly f is: which statistics batch-norm uses, and how everything random or stateful is handled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm", "ProbePolicy", "Statistics", "freeze_stochastic_layers", "load_statistics", "probe_statistics"]

BatchNorm = Literal["batch", "frozen"]

Statistics = tuple[tuple[Tensor, Tensor], ...]
"""Mean and variance of each batch-norm layer, in the order of ``model.modules()``."""


@dataclass(frozen=True, kw_only=True)
class ProbePolicy:
    """The choices that make f a deterministic function of the parameters.

    Two of them have alternatives; the others have only one value for which f is deterministic and its gradient
    exact, and are named so that every row states them.

    Attributes:
        batch_norm: ``batch``: each probe batch normalises by its own statistics, as training does. ``frozen``: by the
            statistics of the whole probe at x_k, held fixed along the update, as evaluation would.
        regulariser: ``out``: the loss without penalties; ``in``: the training loss.
        dropout: ``off``.
        rnn_state: ``zero``: every probe batch starts from the problem's initial state.
        sequences: ``random``: the probe is a seeded random subset of the training data, not its beginning.

    Example:
        >>> ProbePolicy().words
        'batch_norm=batch regulariser=out dropout=off rnn_state=zero sequences=random'
    """

    batch_norm: BatchNorm = "batch"
    regulariser: Literal["out", "in"] = "out"
    dropout: Literal["off"] = "off"
    rnn_state: Literal["zero"] = "zero"
    sequences: Literal["random"] = "random"

    @property
    def words(self) -> str:
        """The policy in one line, as in every row."""
        return " ".join(f"{name}={value}" for name, value in vars(self).items())


def freeze_stochastic_layers(model: nn.Module, *, batch_norm: BatchNorm = "batch") -> nn.Module:
    """The model in the mode in which f is defined; changed in place and returned.

    Dropout is off. Recurrent layers stay in training mode with their dropout at zero, since cuDNN does not
    differentiate them in any other. Embeddings have dense gradients, since sparse ones have no second derivative.

    Args:
        model: The model.
        batch_norm: ``batch``: normalise by the batch at hand, never by running averages, which depend on the path that
            training took, not on the parameters. ``frozen``: by what :func:`load_statistics` sets.

    Returns:
        ``model`` itself.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if batch_norm == "batch":
                module.track_running_stats = False
                module.running_mean = None
                module.running_var = None
        elif isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.training = True
        elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
    return model


def probe_statistics(model: nn.Module, forward: Callable[[], object]) -> Statistics:
    """Mean and variance at the input of every batch-norm layer, averaged over the batches of one pass.

    Args:
        model: The model, as :func:`freeze_stochastic_layers` left it with ``frozen``.
        forward: Runs the model over all batches.

    Returns:
        The statistics; those of the model itself are unchanged.
    """
    layers = list(_batch_norms(model))
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.track_running_stats = True
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over the batches
        layer.train()
    with torch.no_grad():
        forward()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
    found = [(layer.running_mean, layer.running_var) for layer in layers]
    return tuple(
        (mean.clone(), variance.clone()) for mean, variance in found if mean is not None and variance is not None
    )


def load_statistics(model: nn.Module, statistics: Statistics) -> None:
    """Let every batch-norm layer normalise by these, in the arithmetic of the model."""
    for layer, (mean, variance) in zip(_batch_norms(model), statistics, strict=True):
        assert layer.running_mean is not None, "made by freeze_stochastic_layers with batch_norm='frozen'"
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


def _batch_norms(model: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    return (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
