"""f of a loop's own loss: built from a loss function and a few batches, tested once, measured many times."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from estimators.monitor.as_written import as_written
from estimators.monitor.ranks import Ranks, SharedProbe
from estimators.monitor.undisturbed import undisturbed
from estimators.probe.gradient import Loss
from estimators.probe.policy import BatchNorm, ProbePolicy
from estimators.probe.probe import Probe
from estimators.probe.reach import reaches_for
from estimators.probe.repeats import RandomLossError
from estimators.registry import ESTIMATORS, NEED_STEP

__all__ = ["LossFn", "MeasuredFunction", "flat_parameters", "trained_names", "unwrapped", "words_of"]

LossFn: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""``loss_fn(model, batch) -> mean loss``, a scalar with its graph."""

_FIX = "the monitor's loss_fn need not be the one of training: give it one without that"


class MeasuredFunction:
    """f = mean of ``loss_fn`` over frozen batches, on a copy of the model, and the estimators that measure it.

    Args:
        model: The model that is trained; left as it is.
        loss_fn: ``loss_fn(model, batch)``; called with copies of the model.
        batches: The frozen batches, on the model's device.
        estimators: Name in :data:`~estimators.registry.ESTIMATORS` to options.
        batch_norm: What f does about batch-norm.
        audit: How many of the batches are computed in float64, too.
        ranks: The processes over whose batches f is the mean; None for this one alone.
        begun: Whether training has begun already, so that the loss may have diverged by now.

    Raises:
        ValueError: The loss is no scalar with a graph, or not finite where training begins, or the batches have
            different sizes.
        RandomLossError: The same weights give two losses.
        UnfaithfulCopyError: The loss uses the model in another way than by its argument.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batches: Sequence[Any],
        *,
        estimators: Mapping[str, Mapping[str, Any]],
        batch_norm: BatchNorm = "batch",
        audit: int = 1,
        ranks: Ranks | None = None,
        begun: bool = False,
    ) -> None:
        self._model = model
        self._estimators = estimators
        self._loss_fn = loss_fn
        self._batch_norm = batch_norm
        self._ranks = ranks
        self._make = functools.partial(
            Probe if ranks is None else SharedProbe,
            loss=_with_carry(loss_fn),
            batches=batches,
            audit=batches[:audit],
            policy=ProbePolicy(batch_norm=batch_norm),
            # They are a sample of the data, not all of it: their noise is that of independent draws.
            training_batches=lambda count, per_step: batches[: count * per_step],
        )
        self._names = trained_names(model)
        with undisturbed(self.device), as_written(model):
            self._probe = self._make(model)
            self._require_function(begun=begun)
        self._join()

    @property
    def device(self) -> torch.device:
        """Where f is evaluated."""
        return next(self._model.parameters()).device

    @property
    def probe(self) -> Probe:
        """f, as estimators see it."""
        return self._probe

    def measure(
        self, iterates: Tensor, *, learning_rate: float | None, clip_norm: float | None
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Exception]]:
        """What every estimator says of one step.

        Args:
            iterates: x_k and x_{k+1}, shape (2, num_parameters).
            learning_rate: eta of the step; None where it is not known.
            clip_norm: The threshold, where the step is eta times a clipped vector and nothing more; None elsewhere.

        Returns:
            Estimator to row, with ``error`` where it failed; and what these have raised.
        """
        rows: dict[str, dict[str, Any]] = {}
        errors: dict[str, Exception] = {}
        with undisturbed(self.device), nullcontext() if self._ranks is None else self._ranks.served():
            try:
                self._follow()
                with self._probe.require_repeats(iterates[0]):
                    for name, options in self._estimators.items():
                        known = {"learning_rate": learning_rate, "clip_norm": clip_norm, "batches_per_step": 1}
                        options = {**options, **{key: known[key] for key in NEED_STEP.get(name, ())}}
                        try:
                            rows[name] = ESTIMATORS[name](self._probe, iterates, **options) | self._conditions
                        except Exception as error:
                            errors[name] = error
            except Exception as error:
                errors = dict.fromkeys(self._estimators, error)
        for name, raised in errors.items():
            rows[name] = {"error": f"{name}: {_line(raised)}"}
        return rows, errors

    def _follow(self) -> None:
        """Take over what f depends on besides the trained parameters; another function where others are trained now."""
        if trained_names(self._model) != self._names:
            self._names = trained_names(self._model)
            with as_written(self._model):
                self._probe = self._make(self._model)
            self._join()
        else:
            self._probe.follow(self._model)

    def serve(self) -> None:
        """On the other ranks, while rank 0 measures: evaluate f on the batches of this process."""
        assert self._ranks is not None
        assert isinstance(self._probe, SharedProbe)
        error = None
        with undisturbed(self.device):
            try:
                self._follow()
            except Exception as raised:
                # Rank 0 is going to ask all the same, and has to be told.
                error = raised
            self._ranks.serve(self._probe.gradient, error)

    def _join(self) -> None:
        if self._ranks is not None:
            assert isinstance(self._probe, SharedProbe)
            self._probe.join(self._ranks)

    @property
    def _conditions(self) -> dict[str, Any]:
        return {"probe": words_of(self._batch_norm), "arithmetic": self._probe.arithmetic}

    def _require_function(self, *, begun: bool) -> None:
        """Test f before it is measured for the first time: a mistake is told there, and not after a day."""
        here = flat_parameters(self._model)
        probe = self._probe
        try:
            with probe.require_repeats(here):
                value, slope = probe.value_and_gradient(here)
            if reaches_for(self._loss_fn, self._model):
                # Only then, as this calls the model itself, which may count or keep what it is called with.
                probe.require_faithful_copy()
        except RandomLossError as error:
            raise RandomLossError(f"{error}; {_FIX}") from error
        # Later that is a loop that has diverged, which is a result and no mistake.
        if not begun and not (math.isfinite(value) and bool(torch.isfinite(slope).all())):
            what = f"loss_fn is {value!r}" if not math.isfinite(value) else "the gradient of loss_fn is not finite"
            raise ValueError(f"{what} on the probe's batches at the weights that training begins with: look at these")


def words_of(batch_norm: BatchNorm) -> str:
    """What f is, in words for rows.

    Args:
        batch_norm: What it does about batch-norm.

    Returns:
        The words.
    """
    return f"batch_norm={batch_norm} dropout=off loss=given batches=given"


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within what torch wraps around it.

    Args:
        model: A model, compiled, data-parallel, or as it is.

    Returns:
        The module that the user has written, with the same parameters.

    Raises:
        ValueError: Its parameters are shards, so that no process has them all.

    Example:
        >>> inner = nn.Linear(1, 1)
        >>> unwrapped(nn.DataParallel(inner)) is inner
        True
    """
    while True:
        kind = type(model).__name__
        if kind in {"FullyShardedDataParallel", "DeepSpeedEngine"}:
            break
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            break
    sharded = any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())
    if sharded or kind == "DeepSpeedEngine" or any(type(p).__name__ == "DTensor" for p in model.parameters()):
        raise ValueError(
            f"the parameters of this {kind} are sharded over processes (FSDP, DTensor or DeepSpeed), and a monitor "
            "measures where every process has them whole: use DistributedDataParallel, or save state dicts of "
            "consecutive steps and measure them with estimators.measure_pairs"
        )
    return model


def trained_names(model: nn.Module) -> list[str]:
    """The names of the parameters that f depends on, in the order of its vectors."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def flat_parameters(model: nn.Module) -> Tensor:
    """The trained parameters as one vector, at least in float32.

    Args:
        model: The model; left as it is.

    Returns:
        A copy, shape (num_parameters,), in the order of :func:`trained_names`.
    """
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])
    return flat.float() if flat.element_size() < 4 else flat


def _with_carry(loss_fn: LossFn) -> Loss:
    """A loss as :class:`~estimators.probe.probe.Probe` calls it, checked."""

    @functools.wraps(loss_fn, updated=())
    def loss(model: nn.Module, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        value = loss_fn(model, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(type(value))
            raise ValueError(
                f"loss_fn(model, batch) must return the mean loss, a tensor with one number; found {found}"
            )
        return value.reshape(()), carry

    return loss


def _line(error: Exception) -> str:
    """Type and first line of an exception, for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
