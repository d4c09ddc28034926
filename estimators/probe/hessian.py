"""The Hessian of f as an operator: products with vectors, by double backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

from estimators.probe.arithmetic import full_float32
from estimators.probe.gradient import DETACHED, ProbeGradient

__all__ = ["ProbeHessian"]


class ProbeHessian:
    """Products of the Hessian of f at one point with vectors.

    H v is the gradient of <grad f(x), v>: exact up to rounding, with no step length to choose. Each costs about two
    to three gradients, and the memory of a gradient's own graph.

    Args:
        gradient: f; its buffers are shared, so the two must not be used by two threads at a time.
        point: x, shape (num_parameters,).

    Example:
        f(a, b) = (a b - 1)^2 / 2 has the Hessian [[b^2, 2ab - 1], [2ab - 1, a^2]]:

        >>> from torch import nn
        >>> model = nn.Module()
        >>> model.ab = nn.Parameter(torch.tensor([2.0, 3.0]))
        >>> loss = lambda model, batch, carry: ((model.ab.prod() - 1).square() / 2, carry)
        >>> hessian = ProbeHessian(ProbeGradient(model, loss, [None]), torch.tensor([2.0, 3.0]))
        >>> hessian.product(torch.tensor([1.0, 0.0]))
        tensor([ 9., 11.])
    """

    def __init__(self, gradient: ProbeGradient, point: Tensor) -> None:
        self._gradient = gradient
        self._point = point
        self._has_weight_norm = any(map(_is_weight_norm, gradient.modules()))
        self._is_recurrent = any(isinstance(module, nn.RNNBase) for module in gradient.modules())
        self.num_products = 0
        """Number of products so far, the measure of the work done."""

    @property
    def num_parameters(self) -> int:
        """Rows and columns of the Hessian."""
        return self._gradient.num_parameters

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self._gradient.device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which products are computed."""
        return self._gradient.dtype

    def product(self, vector: Tensor) -> Tensor:
        """H v.

        Args:
            vector: v, shape (num_parameters,); rounded to the arithmetic of f.

        Returns:
            The product, shape (num_parameters,), a fresh tensor.

        Raises:
            ValueError: The loss does not depend on the parameters.
        """
        self.num_products += 1
        try:
            return self._product(vector)
        except RuntimeError as error:
            # Called as a function, a recurrent layer is no module that could be seen.
            if self._is_recurrent or "cudnn_rnn" not in str(error):
                raise
            self._is_recurrent = True
        return self._product(vector)

    def _product(self, vector: Tensor) -> Tensor:
        parameters = self._gradient.parameters
        self._gradient.move_to(self._point)
        pieces = [
            piece.view_as(parameter)
            for piece, parameter in zip(
                torch.split(vector.to(self.dtype), [p.numel() for p in parameters]), parameters, strict=True
            )
        ]
        total = torch.zeros(self.num_parameters, dtype=self.dtype, device=self.device)
        with full_float32(), _native_kernels(weight_norm=self._has_weight_norm, recurrent=self._is_recurrent):
            for loss in self._gradient.losses():
                if not loss.requires_grad:
                    raise ValueError(DETACHED)
                slopes = torch.autograd.grad(
                    loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True
                )
                along = torch.stack([(slope * piece).sum() for slope, piece in zip(slopes, pieces, strict=True)]).sum()
                if not along.requires_grad:
                    continue  # f is linear in these parameters
                rows = torch.autograd.grad(along, parameters, allow_unused=True, materialize_grads=True)
                total += torch.cat([row.reshape(-1) for row in rows])
        return total / self._gradient.num_batches


@contextmanager
def _native_kernels(*, weight_norm: bool, recurrent: bool) -> Iterator[None]:
    """Only kernels with a right double backward: neither cuDNN's recurrent layers nor fused attention have one."""
    # Not cudnn.flags(): it reads the old TF32 flag, which is an error while the precision is set per kind of kernel.
    before = torch.backends.cudnn.enabled
    # On for others: convolutions without cuDNN take one sample after another.
    torch.backends.cudnn.enabled = before and not recurrent
    try:
        with sdpa_kernel(SDPBackend.MATH), ExitStack() as also:
            if weight_norm:
                also.enter_context(_PlainWeightNorm())
            yield
    finally:
        torch.backends.cudnn.enabled = before


class _PlainWeightNorm(TorchFunctionMode):
    """Weight norm by its formula: the second derivative of torch's own kernel is wrong in the directions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """What ``torch._weight_norm`` computes: v g / ||v||, the norm over all dimensions but one."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _is_weight_norm(module: nn.Module) -> bool:
    """Whether a module is the parametrization, or has the older hook."""
    if isinstance(module, parametrizations._WeightNorm):
        return True
    return any(type(hook).__name__ == "WeightNorm" for hook in module._forward_pre_hooks.values())
