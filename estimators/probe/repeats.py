"""Whether f has the same value each time: a loss that draws or remembers is no function of the parameters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from estimators.probe.arithmetic import full_float32
from estimators.probe.gradient import ProbeGradient

__all__ = ["DRAWS", "RandomLossError", "require_repeats"]

_log = logging.getLogger(__name__)

DRAWS = (
    "draw no random numbers in loss and forward, and keep nothing from one call to the next; where training needs "
    "that, give the problem a measured_loss without it"
)
"""What to do about a loss that is no function of the parameters."""

_ON_DEVICES = 1e-4
"""Share of the loss by which it may differ where it is not on the CPU: kernels may sum in another order each time."""


class RandomLossError(ValueError):
    """The same weights gave two losses, so that differences of gradients say nothing about f."""


@contextmanager
def require_repeats(gradient: ProbeGradient, iterate: Tensor) -> Iterator[None]:
    """Require that f has the same loss at x_k before and after what is done within, on the first batch.

    On the CPU to the last bit. Costs two forward passes of one batch.

    Args:
        gradient: f.
        iterate: x_k, shape (num_parameters,).

    Yields:
        Nothing.

    Raises:
        RandomLossError: It has not.

    Example:
        >>> from torch import nn
        >>> draw = torch.Generator().manual_seed(0)
        >>> noisy = lambda model, x, carry: (model(x).mean() + torch.rand((), generator=draw), carry)
        >>> with require_repeats(ProbeGradient(nn.Linear(1, 1), noisy, [torch.ones(1, 1)]), torch.zeros(2)):
        ...     pass
        Traceback (most recent call last):
        estimators.probe.repeats.RandomLossError: f is no function of the parameters: ...
    """
    before = _loss(gradient, iterate)
    yield
    after = _loss(gradient, iterate) if before is not None else None
    if before is None or after is None:
        return
    share = 0.0 if gradient.device.type == "cpu" else _ON_DEVICES
    if not torch.allclose(before, after, rtol=share, atol=0.0, equal_nan=True):
        raise RandomLossError(
            f"f is no function of the parameters: the same weights gave the losses {float(before)!r} and "
            f"{float(after)!r}; {DRAWS}"
        )


def _loss(gradient: ProbeGradient, iterate: Tensor) -> Tensor | None:
    """The loss of the first batch; None where it raises, which whoever measures it will say."""
    gradient.move_to(iterate)
    try:
        with full_float32():
            return next(gradient.losses()).detach().double()
    except Exception:
        _log.debug("f raised while it was tested whether it repeats", exc_info=True)
        return None
