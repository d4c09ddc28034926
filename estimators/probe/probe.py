"""The function f on which one problem's snapshots are measured, with everything that estimators need of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from estimators.probe.copies import UnfaithfulCopyError, copy_of, tensors_in
from estimators.probe.copy_test import FIX, CopyTest, compare_copy
from estimators.probe.gradient import Loss, ProbeGradient, cast, in_arithmetic
from estimators.probe.graphed import GraphedGradient, Recorder
from estimators.probe.hessian import ProbeHessian
from estimators.probe.memory import GradientMemory
from estimators.probe.policy import ProbePolicy, Statistics
from estimators.probe.repeats import require_repeats
from estimators.probe.rounding import RoundingProbe, UnauditableError
from estimators.probe.second_derivatives import SecondDerivativeError, SecondDerivativeTest, compare_second_derivatives
from estimators.probe.vectors import length

__all__ = ["AuditAt", "Probe"]

_BATCH_DEPTH = 50
"""Containers within one another in a batch: more than anybody nests, fewer than Python recurses."""

_HALF = (torch.bfloat16, torch.float16)

AuditAt = Literal["snapshot", "maximum", "start"]


class Probe:
    """f, ready to be evaluated many times: its gradients, their error, its Hessian, and the noise of training batches.

    f is computed in the model's own arithmetic, but at least in float32: of differences of gradients in bfloat16 or
    float16 most is rounding.

    What it returns for a snapshot depends on the snapshot alone, never on those measured before: the error of a
    gradient is audited at the snapshot's own x_k, or at the point that every worker knows, the initial weights.

    Args:
        model: The model, with its initial weights.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``.
        batches: The frozen probe batches, of equal size.
        audit: Batches that are computed in float64 too, to know the rounding error of one gradient; the probe's by
            default. A part of the probe costs less and usually overestimates.
        audit_at: ``snapshot``: at every x_k. ``maximum``: there, and where ``directional_smoothness`` finds its
            maximum. ``start``: once, at the initial weights; at x_k the error found there is
            assumed to grow with the gradient's norm, and never to shrink.
        initial_carry: Makes the state with which every probe batch starts.
        policy: What f does about batch-norm; the rest is only written into rows.
        training_batches: From two numbers, the batches of ``count`` training steps of ``per_step`` batches each, for
            the noise of training; the probe's by default.
        steps_per_epoch: Of how many batches these are drawn without replacement; None where that is not known.
        training_loss: The training loss, if it has regularisers that f leaves out.
        record: How the gradient's kernels are recorded once, to be replayed at every point, see
            :mod:`estimators.probe.graphed`; by default they are launched one by one.
        known: Whether f is known to be a function that autograd can differentiate twice, so that it is not tested.

    Raises:
        ValueError: The batches have different sizes, so that the mean of their losses is not one over examples.

    Attributes:
        on_device: What measures a grid of points without looking at each of them; None where nothing is recorded.
        unaudited: What was raised when f was last tried in float64; None where it could be evaluated.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Iterable[Any],
        *,
        audit: Iterable[Any] | None = None,
        audit_at: AuditAt = "snapshot",
        initial_carry: Callable[[], Any] = lambda: None,
        policy: ProbePolicy | None = None,
        training_batches: Callable[[int, int], Iterable[Any]] | None = None,
        steps_per_epoch: int | None = None,
        training_loss: Loss | None = None,
        record: Recorder | None = None,
        known: bool = False,
    ) -> None:
        self.policy = policy or ProbePolicy()
        self._is_half = any(tensor.dtype in _HALF for tensor in (*model.parameters(), *model.buffers()))
        self._given = model
        if self._is_half:
            model = in_arithmetic(copy_of(model), torch.float32)
            batches, given_carry = self._whole(batches), initial_carry

            def initial_carry() -> Any:
                return cast(given_carry(), torch.float32)

        self.model = model
        self.loss = loss
        self.training_loss = training_loss or loss
        self.batches = list(batches)
        _require_equal_sizes(self.batches)
        self.initial_carry = initial_carry
        self._audit = self.batches if audit is None else self._whole(audit)
        self._audit_at = audit_at
        self._training_batches = training_batches
        self.num_training_batches = len(self.batches) if training_batches is None else steps_per_epoch
        self.gradient = self._gradient_over(self.batches)
        evaluate = self.gradient.value_and_gradient
        self.on_device: GraphedGradient | None = None
        if record is not None:
            graphed = GraphedGradient(self.gradient, record=record)
            evaluate = graphed.value_and_gradient
            # Float64 needs a look at norms that overflow.
            self.on_device = graphed if self.gradient.dtype == torch.float32 else None
        self.value_and_gradient = GradientMemory(evaluate)
        self.rounding = RoundingProbe(
            model, loss, self._audit, initial_carry=initial_carry, batch_norm=self.policy.batch_norm
        )
        # Copied now: the caller may go on training the model.
        self._origin = _flat(model) if audit_at == "start" else None
        self._start: tuple[Tensor, float] | None = None
        self._start_loss: tuple[float, float] | None = None
        self.unaudited: Exception | None = None
        # None: not looked for yet.
        self._wrong_hessian: str | None = "" if known else None
        self._settled: Tensor | None = None
        self._statistics: Statistics = ()

    def values_from(self, iterate: Tensor) -> Callable[[Tensor], float]:
        """f alone, to be compared with f(x_k): by forward passes, where its gradient at a point is not held.

        Without graphs if f(x_k) is then bit for bit the value that comes with the gradient; otherwise with them, which
        takes longer.

        Args:
            iterate: x_k, shape (num_parameters,).

        Returns:
            A point, shape (num_parameters,), to f there.
        """
        self.settle(iterate)
        expected = self.value_and_gradient(iterate)[0]
        try:
            base = self.gradient.value(iterate, graph=False)
        except (RuntimeError, TypeError, ValueError):
            # Perhaps as the loss itself takes gradients.
            base = math.nan
        graph = base != expected
        if graph:
            base = self.gradient.value(iterate)
        # A recorded gradient may come from other kernels.
        is_alike = base == expected

        def value(point: Tensor) -> float:
            known = self.value_and_gradient.known_value(point) if is_alike else None
            if known is None and torch.equal(point, iterate):
                known = base
            return self.gradient.value(point, graph=graph) if known is None else known

        return value

    @property
    def arithmetic(self) -> str:
        """The arithmetic of f, for example ``float32 ieee``."""
        return self.gradient.arithmetic

    @property
    def audits_maximum(self) -> bool:
        """Whether the gradient is to be audited where the maximum of a smoothness lies, beside x_k."""
        return self._audit_at == "maximum"

    def settle(self, iterate: Tensor) -> None:
        """Make f the function that belongs to a snapshot; every estimator starts with this.

        With ``batch_norm="frozen"`` f depends on x_k through the statistics; otherwise there is nothing to do.

        Args:
            iterate: x_k, shape (num_parameters,).
        """
        if self.policy.batch_norm == "batch":
            return
        if self._settled is not None and torch.equal(self._settled, iterate):
            return
        self._statistics = self.gradient.statistics_at(iterate)
        self.gradient.set_statistics(self._statistics)
        self.rounding.set_statistics(self._statistics)
        self.value_and_gradient.clear()
        self._settled = iterate.clone()

    def follow(self, model: nn.Module) -> None:
        """Take over what f depends on besides its parameters: buffers, and parameters that are not trained.

        For a model that goes on being trained, of which :class:`Probe` measures a copy.

        Args:
            model: The model; left as it is.
        """
        if self.gradient.follow(model):
            self.value_and_gradient.clear()
            self._settled = None
        self.rounding.follow(model)

    def require_repeats(self, iterate: Tensor) -> AbstractContextManager[None]:
        """Require that f has the same loss at x_k before and after what is done in the context.

        Args:
            iterate: x_k, shape (num_parameters,).

        Returns:
            The context, which raises :class:`~estimators.probe.repeats.RandomLossError` as it is left.
        """
        self.settle(iterate)
        return require_repeats(self.gradient, iterate)

    def gradient_error(self, iterate: Tensor) -> float | None:
        """eta = ||g - g_float64|| at x_k, or what the audit at the start implies for x_k.

        Args:
            iterate: x_k, shape (num_parameters,).

        Returns:
            eta, in units of the gradient; None where f cannot be evaluated in float64, as :attr:`unaudited` says.
        """
        errors = self.gradient_errors(iterate, [slice(None)])
        return errors[0] if errors is not None else None

    def gradient_errors(self, iterate: Tensor, blocks: Iterable[slice]) -> list[float] | None:
        """The same for parts of the gradient.

        Args:
            iterate: x_k, shape (num_parameters,).
            blocks: The parts.

        Returns:
            eta of each; None where f cannot be evaluated in float64.
        """
        try:
            error, growth = self._audited(iterate)
        except UnauditableError as unaudited:
            self._note(unaudited)
            return None
        return [growth * length(error[block]) for block in blocks]

    def loss_error(self, iterate: Tensor) -> float | None:
        """By how much f is off at x_k, see :meth:`~estimators.probe.rounding.RoundingProbe.loss_error`.

        Args:
            iterate: x_k, shape (num_parameters,).

        Returns:
            The error, in units of the loss; with an audit at the start, that one, which is assumed to grow with |f|;
            None where f cannot be evaluated in float64, as :attr:`unaudited` says.
        """
        try:
            if self._audit_at != "start":
                return self.rounding.loss_error(iterate)
            error, size = self._start_loss_audit()
        except UnauditableError as unaudited:
            self._note(unaudited)
            return None
        self.settle(iterate)
        return error * max(1.0, abs(self.value_and_gradient(iterate)[0]) / size) if size > 0 else error

    def _note(self, unaudited: UnauditableError) -> None:
        # Without the frames, which hold the float64 graph.
        self.unaudited = unaudited.raised.with_traceback(None)

    def _audited(self, iterate: Tensor) -> tuple[Tensor, float]:
        """The gradient's error where it is audited, and by how much it may have grown at x_k."""
        if self._audit_at != "start":
            error, growth = self.rounding.error(iterate), 1.0
        else:
            error, norm = self._start_audit()
            self.settle(iterate)
            here = length(self.value_and_gradient(iterate)[1])
            growth = max(1.0, here / norm) if norm > 0 else 1.0
        return error, growth

    def compare_copy(self) -> CopyTest:
        """Whether the copy that is measured has the loss and the gradient of the model itself, on the first batch."""
        return compare_copy(
            self._given,
            self.loss,
            self.batches[0],
            initial_carry=self.initial_carry,
            batch_norm=self.policy.batch_norm,
            whole=self._is_half,
        )

    def require_faithful_copy(self) -> None:
        """Require that it has.

        Raises:
            UnfaithfulCopyError: It has another: the loss or the model's forward pass reaches for the original.
        """
        if words := self.compare_copy().words:
            raise UnfaithfulCopyError(f"{words}; {FIX}")

    def hessian(self, iterate: Tensor) -> ProbeHessian:
        """The Hessian of f at x_k, as an operator; the first time, it is tested near the initial weights.

        Args:
            iterate: x_k, shape (num_parameters,).

        Returns:
            The operator.

        Raises:
            SecondDerivativeError: Its products leave out a part of the Hessian.
        """
        if self._wrong_hessian is None:
            self._wrong_hessian = self.compare_second_derivatives().words
        if self._wrong_hessian:
            raise SecondDerivativeError(self._wrong_hessian)
        return ProbeHessian(self.gradient, iterate)

    def compare_second_derivatives(self) -> SecondDerivativeTest:
        """Whether a Hessian-vector product is what differences of the gradient are, on the first batch of the audit."""
        return compare_second_derivatives(
            self.model,
            self.loss,
            self._audit[0],
            initial_carry=self.initial_carry,
            batch_norm=self.policy.batch_norm,
        )

    def training_gradients(self, count: int, *, per_step: int = 1) -> ProbeGradient:
        """Gradients of training batches, to be computed one by one.

        Args:
            count: Of how many steps.
            per_step: How many batches a step has.

        Returns:
            Their mean loss as a function; the batches of at most ``count`` steps, step by step, and of at least 2.

        Raises:
            ValueError: There are fewer than two steps.
        """
        if self._training_batches is None:
            batches = self.batches[: min(count, len(self.batches) // per_step) * per_step]
        else:
            batches = self._whole(self._training_batches(count, per_step))
        if len(batches) < 2 * per_step:
            found = f"found {len(batches) // per_step}" + (f" of {per_step} micro-batches each" * (per_step > 1))
            raise ValueError(f"the noise of a gradient needs at least 2 batches, {found}")
        gradient = self._gradient_over(batches)
        if self._settled is not None:
            gradient.set_statistics(self._statistics)
        return gradient

    def _whole(self, batches: Iterable[Any]) -> list[Any]:
        """Batches in the arithmetic of f."""
        return [cast(batch, torch.float32) if self._is_half else batch for batch in batches]

    def _gradient_over(self, batches: Iterable[Any]) -> ProbeGradient:
        return ProbeGradient(
            self.model,
            self.loss,
            batches,
            initial_carry=self.initial_carry,
            batch_norm=self.policy.batch_norm,
        )

    def _start_audit(self) -> tuple[Tensor, float]:
        """Error of the gradient at the initial weights, and the gradient's norm there."""
        if self._start is None:
            assert self._origin is not None
            self.settle(self._origin)
            _, slope = self.value_and_gradient(self._origin)
            self._start = self.rounding.error(self._origin), length(slope)
        return self._start

    def _start_loss_audit(self) -> tuple[float, float]:
        """Error of the loss at the initial weights, and the size of the loss there."""
        if self._start_loss is None:
            assert self._origin is not None
            self.settle(self._origin)
            self._start_loss = self.rounding.loss_error(self._origin), abs(self.gradient.value(self._origin))
        return self._start_loss


def _flat(model: nn.Module) -> Tensor:
    """A copy of the parameters as one vector."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


def _require_equal_sizes(batches: Sequence[Any]) -> None:
    """Refuse batches of which the mean loss weighs some examples more than others."""
    firsts = [first for batch in batches for first in islice(tensors_in(batch, depth=_BATCH_DEPTH), 1)]
    sizes = list(dict.fromkeys(tuple(first.shape) for first in firsts))
    if len(sizes) > 1:
        raise ValueError(
            f"the batches of the probe have different sizes, {sizes[0]} and {sizes[1]}: the mean of their losses would "
            "not be one over all examples; leave out the last, smaller one, or take another batch size"
        )
