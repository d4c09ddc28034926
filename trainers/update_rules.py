"""How a gradient becomes a step: a transform of its length, then the direction of an elementwise optimiser."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["OPTIMIZERS", "SCHEDULES", "TRANSFORMS", "UpdateRule", "clip_scale", "normalize_scale"]


def clip_scale(grad_norm: Tensor, clip_norm: float) -> Tensor:
    r"""The factor by which clipping shortens the step.

    Zhang et al. (2020), eq. (5), divided by the learning rate:

        h / eta = min(1, gamma / ||g||)

    Args:
        grad_norm: ||g||, a scalar tensor on any device.
        clip_norm: gamma, in the units of ``grad_norm``; infinity gives exactly 1 for every finite norm.

    Returns:
        A scalar tensor in [0, 1], on the same device.

    Example:
        >>> clip_scale(torch.tensor(4.0), 1.0), clip_scale(torch.tensor(0.5), 1.0)
        (tensor(0.2500), tensor(1.))
    """
    return (clip_norm * grad_norm.reciprocal()).clamp(max=1.0)


def normalize_scale(grad_norm: Tensor, offset: float) -> Tensor:
    r"""The factor that turns the gradient into a step of almost constant length.

    Zhang et al. (2020), eq. (6), divided by the learning rate:

        h / eta = 1 / (||g|| + beta)

    Args:
        grad_norm: ||g||, a scalar tensor on any device.
        offset: beta, positive, in the units of ``grad_norm``.

    Returns:
        A scalar tensor on the same device.

    Example:
        >>> normalize_scale(torch.tensor(3.0), 1.0)
        tensor(0.2500)
    """
    return (grad_norm + offset).reciprocal()


TRANSFORMS: dict[str, Callable[[Tensor, float], Tensor]] = {"clip_norm": clip_scale, "normalize": normalize_scale}

# Elementwise ones only: training runs them on one flat vector, where nothing may depend on the parameters' shapes.
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}

_OPTIONS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adam": ("betas", "eps", "weight_decay"),
    "adamw": ("betas", "eps", "weight_decay"),
    "rmsprop": ("momentum", "eps", "weight_decay"),
    "adagrad": ("eps", "weight_decay"),
}


def _constant(step: int, total_steps: int, steps_per_epoch: int) -> float:
    return 1.0


def _step_decay(
    step: int,
    total_steps: int,
    steps_per_epoch: int,
    *,
    milestones: Sequence[int],
    factor: float = 0.1,
    unit: str = "steps",
) -> float:
    """Multiply by ``factor`` from each milestone on."""
    if unit not in {"steps", "epochs"}:
        raise ValueError(f"schedule 'step_decay': unit must be 'steps' or 'epochs', not {unit!r}")
    scale = steps_per_epoch if unit == "epochs" else 1
    return float(factor ** sum(step >= milestone * scale for milestone in milestones))


def _cosine(step: int, total_steps: int, steps_per_epoch: int, *, final_fraction: float = 0.0) -> float:
    """Half a period of a cosine, from 1 at step 0 to ``final_fraction`` at ``total_steps``."""
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * step / total_steps))


SCHEDULES: dict[str, Callable[..., float]] = {"constant": _constant, "step_decay": _step_decay, "cosine": _cosine}


def _eager(optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """The same optimiser without the wrappers that keep ``torch.compile`` out of its methods.

    Their first call imports torch._dynamo, which takes every new worker one to three seconds; nothing is compiled here.

    Returns:
        A subclass of ``optimizer``.
    """
    wrapped = ("add_param_group", "step", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in wrapped}
    return type(optimizer.__name__, (optimizer,), methods)


_EAGER = {name: _eager(optimizer) for name, optimizer in OPTIMIZERS.items()}


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """A gradient transform followed by an optimiser's direction.

    The transform scales the gradient of the loss; weight decay is the optimiser's and is added after it.

    Attributes:
        optimizer: One of :data:`OPTIMIZERS`.
        learning_rate: eta, positive.
        momentum: Of ``sgd`` and ``rmsprop``.
        dampening: Of ``sgd``.
        nesterov: Of ``sgd``; needs momentum and no dampening.
        weight_decay: Coefficient of the parameters in the direction; decoupled in ``adamw``.
        betas: Decay rates of the running averages of ``adam`` and ``adamw``.
        eps: Added to the denominator by every optimiser but ``sgd``.
        clip_norm: gamma of eq. (5), positive; None for no clipping.
        normalize: beta of eq. (6), positive; None for no normalisation. Not together with ``clip_norm``.
        schedule: ``{"use": "constant"}``, ``{"use": "step_decay", "milestones": [steps], "factor": 0.1, "unit":
            "steps"}`` (or ``"epochs"``) or ``{"use": "cosine", "final_fraction": 0.0}``.

    Raises:
        ValueError: A value is out of range, or an option does not belong to the optimiser or schedule.

    Example:
        >>> rule = UpdateRule(learning_rate=2.0, clip_norm=1.0)
        >>> rule.scale(torch.tensor(4.0))
        tensor(0.2500)
        >>> UpdateRule(learning_rate=2.0, schedule={"use": "cosine"}).learning_rate_at(50, 100)
        1.0
    """

    optimizer: str = "sgd"
    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = None
    normalize: float | None = None
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"use": "constant"})

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive and finite, not {self.learning_rate!r}")
        if self.clip_norm is not None and self.normalize is not None:
            raise ValueError("clip_norm and normalize exclude each other: eq. (5) or eq. (6), not both")
        for name in TRANSFORMS:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")
        for name in ("momentum", "dampening", "nesterov", "weight_decay", "betas", "eps"):
            # An option that is silently ignored would make two cells of a sweep the same without a word.
            if name not in _OPTIONS[self.optimizer] and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"{name} is no option of {self.optimizer}, which takes: {', '.join(_OPTIONS[self.optimizer])}"
                )
        if self.nesterov and not (self.momentum > 0 and self.dampening == 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")
        self._check_schedule()

    def learning_rate_at(self, step: int, total_steps: int, *, steps_per_epoch: int = 1) -> float:
        """The learning rate of one step.

        Args:
            step: Counted from 0.
            total_steps: Number of steps of the whole trial.
            steps_per_epoch: Number of steps in one pass over the data.

        Returns:
            eta times the schedule's factor.
        """
        options = dict(self.schedule)
        factor = SCHEDULES[options.pop("use")]
        return self.learning_rate * factor(step, total_steps, steps_per_epoch, **options)

    def scale(self, grad_norm: Tensor) -> Tensor | None:
        """The transform's factor for a gradient of this norm, on the norm's device; None without a transform."""
        for name, transform in TRANSFORMS.items():
            value = getattr(self, name)
            if value is not None:
                return transform(grad_norm, value)
        return None

    def build_optimizer(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        """An optimiser of one (flat) parameter; the schedule is not its business."""
        options = {name: getattr(self, name) for name in _OPTIONS[self.optimizer]}
        # One tensor: the multi-tensor path would only add its bookkeeping.
        return _EAGER[self.optimizer]([parameter], lr=self.learning_rate, foreach=False, **options)  # type: ignore[call-arg]

    def _check_schedule(self) -> None:
        options = dict(self.schedule)
        name = options.pop("use", None)
        if name not in SCHEDULES:
            raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
        for option, value in options.items():
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise ValueError(f"schedule {name!r}: {option} must be finite and not negative, but is {value!r}")
        try:
            SCHEDULES[name](0, 1, 1, **options)
        except TypeError as error:
            raise ValueError(f"schedule {name!r} does not accept {options!r}: {error}") from error
