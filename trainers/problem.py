"""What is minimised: model, loss and data, with batches as a pure function of the step."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trainers.errors import TrainerError
from trainers.metric_names import TEST, alike, unfit

__all__ = ["Batch", "Carry", "Loss", "Problem"]

Batch = Any
"""Any tree of tensors."""

Carry = Any
"""What a step passes to the next one, for example an RNN's hidden state: any tree of tensors, or None."""

Loss = Callable[[nn.Module, Batch, Carry], tuple[Tensor, Carry]]


def _no_carry() -> Carry:
    return None


def _unchanged(step: int) -> float:
    return 1.0


def _no_metrics(model: nn.Module) -> dict[str, float]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model with its loss and data. Optimiser, clipping, loop and checkpoints belong to the trainer.

    Attributes:
        model: Freshly initialised.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``; a scalar tensor, no backward, no step.
        batch: The batch of a step, a pure function of the step: the same however often and in whatever order it is
            called.
        probe: The frozen batches that define the function f whose smoothness is measured, for a share of the training
            data in (0, 1]. All of equal size, so that f, the plain mean of the measured loss over them, is a mean
            over samples, and best of the size of training's: under batch normalisation f depends on it. The same
            whatever the seed of the trial. For ``measure.probes`` above 1 it is also called as ``probe(share, draw)``,
            with draw = 1, 2, ...: other samples, in no other draw of that share.
        probe_share: The share of the training data that ``probe`` really holds where a share is asked for, for example
            because it has whole batches only; None where that is not known.
        initial_carry: The carry at the start of every epoch.
        measured_loss: What f is the mean of, where that is not ``loss``: without regularisers that only training needs.
        learning_rate_factor: What the learning rate of a step is multiplied by, a pure function of the step.
        evaluate: Metrics by name, in evaluation mode and without gradients.
        test: The same on data that nothing is chosen by, all names beginning with ``test_``: ``test_loss``. Asked once,
            at the end of training. None where there are no such data.
        metrics: Metric to ``min`` or ``max``: which of its values is the best. A metric that is not named here is
            judged by the words of its name.
        steps_per_epoch: Number of steps in one pass over the training data.
        fingerprint: Identifies the data; equal fingerprints mean equal data.

    A step takes one batch, so that both are counted by the same number; where a trial accumulates and its steps take
    several, what is called a step here is one of these micro-batches.

    What the functions return is checked at every call, so that whoever calls them is told which of them returned what.

    Raises:
        TrainerError: An attribute is of another kind than said here, or the model has parameters that cannot be
            trained: without a shape, complex, sparse, or in less than 16 bits.
    """

    model: nn.Module
    loss: Loss
    batch: Callable[[int], Batch]
    probe: Callable[..., Iterable[Batch]]
    steps_per_epoch: int
    fingerprint: str
    probe_share: Callable[[float], float] | None = None
    initial_carry: Callable[[], Carry] = _no_carry
    measured_loss: Loss | None = None
    learning_rate_factor: Callable[[int], float] = _unchanged
    evaluate: Callable[[nn.Module], dict[str, float]] = _no_metrics
    test: Callable[[nn.Module], dict[str, float]] | None = None
    metrics: Mapping[str, Literal["min", "max"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TrainerError(f"model must be a torch.nn.Module, not {_shown(self.model)}")
        if lazy := [name for name, parameter in self.model.named_parameters() if is_lazy(parameter)]:
            raise TrainerError(
                f"the model's {lazy[0]!r} has no shape yet, as its module is a lazy one: run a batch through the model "
                "in the factory, or give the layer its number of inputs"
            )
        _require_trainable(self.model)
        for name, checked in _CHECKED.items():
            function = getattr(self, name)
            if name in _OPTIONAL and function is None:
                continue
            if not callable(function):
                raise TrainerError(f"{name} must be a function, not {_shown(function)}")
            if checked is not None and not isinstance(function, _Checked):
                object.__setattr__(self, name, _Checked(name, function, checked))
        if not isinstance(self.steps_per_epoch, int) or self.steps_per_epoch < 1:
            raise TrainerError(f"steps_per_epoch must be a positive integer, not {self.steps_per_epoch!r}")
        if not isinstance(self.metrics, Mapping):
            raise TrainerError(f"metrics must map names of metrics to min or max, not {self.metrics!r:.80}")
        for name, direction in self.metrics.items():
            if not isinstance(name, str) or direction not in ("min", "max"):
                raise TrainerError(
                    f"metrics must map names of metrics to min or max, found {name!r}: {direction!r:.80}"
                )
            if why := unfit(name):
                raise TrainerError(f"metrics: {why}")
        if why := alike(self.metrics):
            raise TrainerError(f"metrics: {why}")

    def drawn_probe(self, share: float, draw: int = 0) -> Iterable[Batch]:
        """One of several probes of the same share, which have no sample in common.

        Args:
            share: Share of the training data, in (0, 1].
            draw: Which one; 0 is ``probe(share)``.

        Returns:
            Its batches.

        Raises:
            TrainerError: The problem has only one probe of a share.
        """
        if draw == 0:
            return self.probe(share)
        try:
            inspect.signature(self.probe).bind(share, draw)
        except TypeError as error:
            raise TrainerError(
                f"probe{_line_of(self.probe)} takes a share alone, and measure.probes asks for more than one probe: "
                "give it a second argument, probe(share, draw=0), and for each draw samples that are in no other"
            ) from error
        return self.probe(share, draw)


_TRAINABLE = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _require_trainable(model: nn.Module) -> None:
    """Refuse parameters that do not fit into one vector of real numbers; frozen ones may be anything."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.is_complex():
            raise TrainerError(
                f"the model's parameter {name!r} is complex ({parameter.dtype}), and only real ones are trained and "
                "measured: register nn.Parameter(torch.view_as_real(values)), and in forward use "
                f"torch.view_as_complex(self.{name.rpartition('.')[2]})"
            )
        if parameter.layout != torch.strided:
            raise TrainerError(
                f"the model's parameter {name!r} is stored as {parameter.layout}: make it dense with to_dense(); "
                "a mask in forward keeps its zeros"
            )
        if parameter.dtype not in _TRAINABLE:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _TRAINABLE)
            raise TrainerError(
                f"the model's parameter {name!r} is {parameter.dtype}; parameters are trained in {known}"
            )


class _Checked:
    """A function of a problem whose results are checked."""

    def __init__(self, name: str, function: Callable[..., Any], check: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        self._name = name
        self._function = function
        self._check = check

    def __call__(self, *arguments: Any) -> Any:
        try:
            found = self._function(*arguments)
        except (TypeError, AttributeError) as error:
            if self._check is _loss and len(arguments) > 1 and arguments[1] is None:
                raise TrainerError(
                    f"the batch is None, and {self._called()} cannot use that ({type(error).__name__}: {error}): end "
                    "`batch`, and what `probe` gives, with a `return`"
                ) from error
            raise
        try:
            return self._check(found)
        except _UnexpectedError as unexpected:
            raise TrainerError(f"{self._called()} {unexpected.text}") from unexpected.__cause__

    def _called(self) -> str:
        # Only for a message: to look for the line at every call would take longer than a small model's loss.
        return f"{self._name}{_line_of(self._function)}"


class _UnexpectedError(Exception):
    """What a function returned is not what it promises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def _loss(found: Any) -> tuple[Tensor, Carry]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise _UnexpectedError(
            f"must return the mean loss and the carry, not {_shown(found)}: end it with `return loss, carry`"
        )
    loss, carry = found
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        raise _UnexpectedError(f"must give a scalar tensor, the mean over the batch, not {_shown(loss)}")
    return loss, carry


def _metrics(found: Any) -> dict[str, float]:
    if not isinstance(found, Mapping):
        raise _UnexpectedError(f"must return a dict of metrics by name, not {_shown(found)}")
    metrics = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise _UnexpectedError(f"must name its metrics by texts, not {_shown(name)}")
        if why := unfit(name):
            raise _UnexpectedError(f"must name its metrics differently: {why}")
        try:
            metrics[name] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise _UnexpectedError(
                f"must give a number for the metric {reprlib.repr(name)}, not {_shown(value)}"
            ) from error
    if why := alike(metrics):
        raise _UnexpectedError(f"must name its metrics differently: {why}")
    return metrics


def _tests(found: Any) -> dict[str, float]:
    metrics = _metrics(found)
    if odd := [name for name in metrics if not name.startswith(TEST)]:
        raise _UnexpectedError(
            f"must begin the names of its metrics with {TEST!r}, which tells them from those of evaluate, by which the "
            f"best is chosen: {TEST}{odd[0].removeprefix('valid_')} for {odd[0]!r}"
        )
    return metrics


def _batches(found: Any) -> Iterable[Batch]:
    if not isinstance(found, Iterable):
        raise _UnexpectedError(f"must return the batches, for example in a list, not {_shown(found)}")
    return found


def _number(found: Any) -> Any:
    try:
        float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _UnexpectedError(f"must return a number, not {_shown(found)}") from error
    return found


_CHECKED: Mapping[str, Callable[[Any], Any] | None] = {
    "loss": _loss,
    "measured_loss": _loss,
    "batch": None,
    "probe": _batches,
    "probe_share": _number,
    "initial_carry": None,
    "learning_rate_factor": _number,
    "evaluate": _metrics,
    "test": _tests,
}
"""The functions of a problem, and what is checked of what they return."""

_OPTIONAL = ("measured_loss", "probe_share", "test")
"""Those that may be None."""


def _shown(value: Any) -> str:
    """What was found, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"


def _line_of(function: Callable[..., Any]) -> str:
    """Where a function is defined, if that can be told."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({Path(code.co_filename).name}:{code.co_firstlineno})" if code is not None else ""
