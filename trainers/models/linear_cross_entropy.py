"""The output layer of a language model and its loss in one, with the logits of only a few tokens in memory."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear_cross_entropy"]

_CHUNK, _CHUNK_ON_GPU = 256, 4096
"""Tokens at a time: few enough that their logits stay in a CPU's cache, enough that matrix products are fast."""


def linear_cross_entropy(features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    r"""Mean cross-entropy of ``softmax(features @ weight.T + bias)``, in nats.

    The same as ``F.cross_entropy(F.linear(features, weight, bias), targets)`` up to rounding. It works on a chunk of
    rows at a time, and where a gradient is wanted, computes it at once, (softmax - onehot) / N: logits are
    exponentiated once instead of twice, and are never all in memory. Unlike the chunks of ``F.linear_cross_entropy``
    (PyTorch 2.13), it can be differentiated twice, which Hessian-vector products need; the second derivative is not
    chunked. Under autocast, which cannot see into such a computation, it is those two operations.

    Args:
        features: Inputs of the layer, shape (N, width).
        weight: Shape (num_tokens, width).
        bias: Shape (num_tokens,).
        targets: The right tokens, int64, shape (N,).

    Returns:
        A scalar.

    Example:
        Two tokens, equally likely:

        >>> zeros = torch.zeros(3, 1), torch.zeros(2, 1), torch.zeros(2)
        >>> round(linear_cross_entropy(*zeros, torch.tensor([0, 1, 1])).item(), 4)
        0.6931
    """
    kind = features.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return F.cross_entropy(F.linear(features, weight, bias), targets)
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (features, weight, bias))
    loss: Tensor = _LinearCrossEntropy.apply(features, weight, bias, targets, wanted)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the first gradient during the forward pass."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, wanted: bool) -> Tensor:
        count = len(features)
        total = torch.zeros((), dtype=torch.float64, device=features.device)
        # Chunks of nearly equal size: a last chunk of a few rows would waste its matrix product.
        num_chunks = max(1, -(-count // (_CHUNK if features.device.type == "cpu" else _CHUNK_ON_GPU)))
        if wanted:
            to_features, to_weight, to_bias = (
                torch.empty_like(features),
                torch.zeros_like(weight),
                torch.zeros_like(bias),
            )
            pieces = to_features.tensor_split(num_chunks)
        for index, (rows, right) in enumerate(
            zip(features.tensor_split(num_chunks), targets.tensor_split(num_chunks), strict=True)
        ):
            logits = torch.addmm(bias, rows, weight.t())
            largest = logits.amax(1, keepdim=True)
            chosen = logits.gather(1, right[:, None])
            powers = logits.sub_(largest).exp_()
            sums = powers.sum(1, keepdim=True)
            total += (sums.log() + largest - chosen).sum(dtype=torch.float64)
            if wanted:
                slope = powers.mul_((sums * count).reciprocal_())
                slope.scatter_add_(1, right[:, None], slope.new_full((1, 1), -1 / count).expand(len(right), 1))
                torch.mm(slope, weight, out=pieces[index])
                to_weight.addmm_(slope.t(), rows)
                to_bias.add_(slope.sum(0))
        if wanted:
            ctx.save_for_backward(features, weight, bias, targets, to_features, to_weight, to_bias)
        return (total / count).to(features.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, targets, *gradients = ctx.saved_tensors
        (factor,) = outer
        if torch.is_grad_enabled():
            # May be differentiated again, so it uses operations that autograd knows.
            slope = F.linear(features, weight, bias).softmax(1) - F.one_hot(targets, len(weight)).to(weight.dtype)
            slope = slope * (factor / len(features))
            return slope @ weight, slope.t() @ features, slope.sum(0), None, None
        if factor.device.type != "cpu" or factor.item() != 1:
            gradients = [gradient * factor for gradient in gradients]
        return (*gradients, None, None)
