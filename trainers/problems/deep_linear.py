"""Deep linear regression: small, quick, and nonconvex all the same."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainers.data.order import epoch_order, epochs_on, probe_subset
from trainers.errors import TrainerError
from trainers.problem import Batch, Carry, Problem
from trainers.seeding import generator_for

__all__ = ["DeepLinear", "deep_linear"]

# The data's own seed: trials with different seeds fit the same data.
_DATA_SEED = 20200430


class DeepLinear(nn.Module):
    """The product W_l ... W_1 X of square matrices, initialised with independent normal entries of variance 1 / width.

    Args:
        layers: l.
        width: Rows and columns of every matrix.
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(width, width) / width**0.5 for _ in range(layers)])

    def forward(self, inputs: Tensor) -> Tensor:
        """Row by row W_l ... W_1 x, shape (samples, width), for inputs of the same shape."""
        for weight in self.weights:
            inputs = inputs @ weight.T
        return inputs


def deep_linear(
    *,
    layers: int = 2,
    width: int = 8,
    samples: int = 64,
    noise: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Problem:
    r"""Fit a random linear map by a product of matrices.

    Zhang et al. (2020), Section 2.3, here as a mean over the n samples:

        L(W) = 1/n ||Y - W_l ... W_1 X||^2,   Y = A X + noise

    Its smoothness grows with the weights, and so with the gradient. X and A have independent normal entries, A scaled
    by 1 / sqrt(width); 64 further samples serve as validation data.

    Args:
        layers: l.
        width: Dimension of inputs and outputs.
        samples: n.
        noise: Standard deviation of the noise in Y.
        batch_size: Samples per step, drawn without replacement in every epoch; None for all of them.
        seed: Of the order of batches.
        device: Where the data live.

    Returns:
        The problem, with the metric ``valid_loss``.

    Raises:
        TrainerError: A size is not positive, or a batch larger than the data.
    """
    for name, size in {"layers": layers, "width": width, "samples": samples}.items():
        if size < 1:
            raise TrainerError(f"deep_linear: {name} must be at least 1, not {size!r}")
    if batch_size is not None and not 1 <= batch_size <= samples:
        raise TrainerError(f"deep_linear: batch_size must lie in 1..{samples} (samples), not {batch_size!r}")
    fingerprint = f"deep-linear-1:width={width}:samples={samples}:noise={noise!r}"
    inputs, targets = (part.to(device) for part in _data(width, samples + 64, noise))
    valid = (inputs[samples:], targets[samples:])
    inputs, targets = inputs[:samples], targets[:samples]
    steps_per_epoch = 1 if batch_size is None else samples // batch_size
    order_of = epochs_on(torch.device(device), lambda epoch: epoch_order(samples, seed, epoch))

    def batch(step: int) -> Batch:
        if batch_size is None:
            return inputs, targets
        epoch, index = divmod(step, steps_per_epoch)
        chosen = order_of(epoch)[index * batch_size : (index + 1) * batch_size]
        return inputs[chosen], targets[chosen]

    def probe(fraction: float, draw: int = 0) -> Iterable[Batch]:
        # In one piece: the loss of a sample does not depend on the others of its batch, so f has no batch size.
        chosen = probe_subset(samples, fraction, fingerprint=fingerprint, draw=draw).to(device)
        return [(inputs[chosen], targets[chosen])]

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"valid_loss": _loss(model, valid, None)[0].item()}

    return Problem(
        model=DeepLinear(layers, width),
        loss=_loss,
        batch=batch,
        probe=probe,
        probe_share=lambda fraction: len(probe_subset(samples, fraction, fingerprint=fingerprint)) / samples,
        evaluate=evaluate,
        metrics={"valid_loss": "min"},
        steps_per_epoch=steps_per_epoch,
        fingerprint=fingerprint,
    )


def _loss(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
    """Squared distance, summed over outputs and averaged over samples."""
    inputs, targets = batch
    return (model(inputs) - targets).square().sum() / len(inputs), carry


def _data(width: int, count: int, noise: float) -> tuple[Tensor, Tensor]:
    """Inputs and targets, shape (count, width) each."""
    generator = generator_for(_DATA_SEED)
    target_map = torch.randn(width, width, generator=generator) / width**0.5
    inputs = torch.randn(count, width, generator=generator)
    return inputs, inputs @ target_map.T + noise * torch.randn(count, width, generator=generator)
