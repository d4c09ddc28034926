"""Whether autograd's second derivative of f is the derivative of its gradient.

A ``torch.autograd.Function`` whose backward pass cannot be differentiated, a ``detach`` or a tensor hook takes a part
of the Hessian away without a word: products of the rest with vectors look like any others.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from estimators.probe.arithmetic import full_float32
from estimators.probe.gradient import Loss, ProbeGradient
from estimators.probe.hessian import ProbeHessian
from estimators.probe.policy import BatchNorm
from estimators.probe.vectors import length

__all__ = ["SecondDerivativeError", "SecondDerivativeTest", "compare_second_derivatives"]

_AWAY = 1e-2
"""How far from the initial weights f is tested, in a random direction, as a share of a parameter's mean size.

Not at them: a last layer that begins at 0 hides what comes before it.
"""

_STEPS = (1e-7, 1e-8)
"""Steps of the central differences, in the same unit.

So short that next to no kink of a piecewise linear f lies between the ends; float64 still leaves seven digits.
"""

_TOLERANCE = 1e-5
"""Share of the product by which the difference may be off; where both are right, it is off by 1e-7 or less."""

_SLOPE = (1e-6, 1e-7)
"""By how much <g, v> may be off from the difference of the loss, as a share of itself and of the loss."""

_CLEAR = 10.0
"""How many times the two differences' own disagreement, by rounding and kinks, an error is larger."""


class SecondDerivativeError(ValueError):
    """Hessian-vector products of f leave out a part of the Hessian; the text says why and how to fix it."""


@dataclass(frozen=True, kw_only=True)
class SecondDerivativeTest:
    """A Hessian-vector product of f against central differences of its gradient, on one batch.

    Attributes:
        distance: ||H v - d||, d the difference of gradients over its step.
        size: The larger one of ||H v|| and ||d||.
        doubt: How far the difference over another step is from d.
        rounds: Whether f rounds to less than float64 on its way, so that differences over short steps say nothing.
        flat: Whether the gradient is not the slope of the loss along v, either.
        cut: Functions whose backward pass is seen to have no derivative, in words; empty for none.
        suspects: All functions of the user's own or of others that come with a backward pass of their own.
    """

    distance: float = 0.0
    size: float = 0.0
    doubt: float = 0.0
    rounds: bool = False
    flat: bool = False
    cut: str = ""
    suspects: str = ""

    @property
    def share(self) -> float:
        """The error as a share of the product or the difference, whichever is larger; 0 for none."""
        return self.distance / self.size if self.size > 0 else 0.0

    @property
    def differs(self) -> bool:
        """Whether the products are wrong. NaN, which says nothing about that, does not count."""
        return bool(self.cut) or self._is_clear

    @property
    def _is_clear(self) -> bool:
        """Whether the distance is beyond what kinks and rounding explain, that within functions included."""
        explained = self.rounds or (self.flat and bool(self.suspects))
        return self.share > _TOLERANCE and self.distance > _CLEAR * self.doubt and not explained

    @property
    def words(self) -> str:
        """What was found and how to fix it; empty where nothing differs."""
        if not self.differs:
            return ""
        found = "Hessian-vector products of f leave out a part of the Hessian"
        if self._is_clear:
            found += f": they are off by {100 * self.share:.3g} % of their size from differences of the gradient"
        leave_out = "or leave out the estimators that need the Hessian"
        if self.cut or self.suspects:
            return (
                f"{found}: {self.cut or self.suspects} has a backward pass that autograd cannot differentiate; keep "
                "tensors with ctx.save_for_backward, and compute backward from them and the incoming gradient by "
                f"operations of torch, without once_differentiable, detach, .data and NumPy, {leave_out}"
            )
        return (
            f"{found}: something in loss or forward hides a dependence on the parameters from autograd (detach, .data, "
            "torch.no_grad, a hook on a tensor, a kernel with a wrong second derivative); compute without it, "
            f"{leave_out}"
        )


def compare_second_derivatives(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    initial_carry: Callable[[], Any] = lambda: None,
    batch_norm: BatchNorm = "batch",
) -> SecondDerivativeTest:
    """Compare a Hessian-vector product with differences of gradients, both in float64, on one batch.

    A little away from the weights of the model, along a random direction. Costs a product and two gradients of the
    batch, four more where they differ. Where f cannot be computed in float64, or rounds to
    less on its way, only functions that are seen to return a gradient without a graph are found.

    Args:
        model: The model; left as it is.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``.
        batch: The batch.
        initial_carry: Makes the carry.
        batch_norm: As for :class:`~estimators.probe.gradient.ProbeGradient`.

    Returns:
        The comparison; one that does not differ where f has no double backward at all, which products themselves say.

    Raises:
        ValueError: The model has no parameter to differentiate by.
        UnfaithfulCopyError: The model cannot be copied.

    Example:
        >>> class Cut(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.x = x.detach()
        ...         return x.sin()
        ...     @staticmethod
        ...     def backward(ctx, slope):
        ...         return ctx.x.cos() * slope
        >>> model, batch = nn.Linear(1, 1), torch.ones(2, 1)
        >>> compare_second_derivatives(model, lambda m, x, c: (m(x).sin().mean(), c), batch).differs
        False
        >>> wrong = compare_second_derivatives(model, lambda m, x, c: (Cut.apply(m(x)).mean(), c), batch)
        >>> wrong.differs, wrong.suspects.partition(" ")[0], wrong.share
        (True, 'Cut', 1.0)
    """

    def gradient(dtype: torch.dtype | None) -> ProbeGradient:
        made = ProbeGradient(model, loss, [batch], initial_carry=initial_carry, dtype=dtype, batch_norm=batch_norm)
        if batch_norm == "frozen":
            made.set_statistics(made.statistics_at(made.point()))
        return made

    try:
        test = _differenced(gradient(torch.float64))
        if test.share <= _TOLERANCE:
            return test
    except (RuntimeError, TypeError, ValueError):
        test = SecondDerivativeTest()  # the products, or the audit, will say what
    cut, suspects = _own_functions(gradient(None))
    return replace(test, cut=", ".join(cut), suspects=" or ".join(suspects))


def _differenced(gradient: ProbeGradient) -> SecondDerivativeTest:
    """The product against the difference over the longer step; over the shorter one, too, if these differ."""
    here, along = _drawn(gradient)
    product = ProbeHessian(gradient, here).product(along)
    rise, difference = _difference(gradient, here, along, _STEPS[0])
    distance, size = length(product - difference), max(length(product), length(difference))
    test = SecondDerivativeTest(distance=distance, size=size)
    if not test.share > _TOLERANCE:
        return test
    doubt = length(_difference(gradient, here, along, _STEPS[1])[1] - difference)
    value, slope = gradient.value_and_gradient(here)
    expected = float(slope @ along)
    allowed = _SLOPE[0] * max(abs(rise), abs(expected)) + _SLOPE[1] * abs(value)
    rounds = any(node.name().startswith("ToCopy") for loss in gradient.losses() for node in _nodes(loss.grad_fn))
    return replace(test, doubt=doubt, rounds=rounds, flat=abs(rise - expected) > allowed)


def _difference(gradient: ProbeGradient, here: Tensor, along: Tensor, step: float) -> tuple[float, Tensor]:
    """Central differences of the loss and of its gradient, per step."""
    (value, slope), (other, back) = (gradient.value_and_gradient(here + sign * step * along) for sign in (1, -1))
    return (value - other) / (2 * step), (slope - back) / (2 * step)


def _drawn(gradient: ProbeGradient) -> tuple[Tensor, Tensor]:
    """The point and the direction, the same ones each time and on every device."""
    start = gradient.point()
    draw = torch.Generator().manual_seed(0)
    size = start.abs().mean().clamp(min=1e-3)
    away, along = ((size * torch.randn(len(start), generator=draw, dtype=torch.float64).to(start)) for _ in range(2))
    return start + _AWAY * away, along


def _own_functions(gradient: ProbeGradient) -> tuple[list[str], list[str]]:
    """Functions with a backward pass of their own: those whose results were seen to have no graph, and all of them."""
    cut: dict[str, None] = {}
    suspects: dict[str, None] = {}
    with full_float32():
        for loss in gradient.losses():
            for node in _nodes(loss.grad_fn):
                if not isinstance(node, BackwardCFunction):
                    continue
                name = _named(type(node)._forward_cls)  # type: ignore[attr-defined]
                suspects[name] = None
                node.register_hook(functools.partial(_note_cut, cut, name))
            try:
                torch.autograd.grad(loss, gradient.parameters, create_graph=True, allow_unused=True)
            except RuntimeError:
                return [], list(suspects)
    return list(cut), list(suspects)


def _note_cut(cut: dict[str, None], name: str, results: Any, slopes: Any) -> None:
    """Take down a function whose results do not depend on the incoming gradient, though that has a graph."""
    if not any(slope is not None and slope.requires_grad for slope in slopes):
        return
    for result in results:
        if result is None:
            continue
        # once_differentiable returns what refuses to be differentiated, but is never asked to.
        refuses = result.grad_fn is not None and result.grad_fn.name() == "torch::autograd::Error"
        if (refuses or not result.requires_grad) and bool((result != 0).any()):
            cut[name] = None


def _nodes(root: Any) -> Iterator[Any]:
    """The nodes of a graph."""
    seen, waiting = {None}, [root]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [after for after, _ in node.next_functions]


def _named(kind: Any) -> str:
    """A function's name, and where its backward pass is."""
    code = getattr(inspect.unwrap(kind.backward), "__code__", None)
    where = "" if code is None else f" ({Path(code.co_filename).name}:{code.co_firstlineno})"
    return f"{kind.__qualname__.rpartition('<locals>.')[2]}{where}"
