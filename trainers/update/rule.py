"""How a gradient becomes a step: a transform, then the direction of an elementwise optimiser, all given by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trainers.update.clip_groups import check_groups
from trainers.update.schedules import check_schedule, factor_at
from trainers.update.sign import Lion, SignSGD
from trainers.update.thresholds import build_threshold
from trainers.update.transforms import TRANSFORMS, Direction

__all__ = ["AVERAGES", "DECOUPLED", "ONE_OF", "OPTIMIZERS", "REST_OPTIONS", "UpdateRule", "eager"]


T = TypeVar("T", bound=torch.optim.Optimizer)

# The elementwise ones, which run on one flat vector, where nothing may depend on the parameters' shapes; "muon" is
# :class:`~trainers.update.muon.MuonWithAdamW`.
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "asgd": torch.optim.ASGD,
    "lion": Lion,
    "signsgd": SignSGD,
}

_OPTIONS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "dampening", "nesterov", "weight_decay"),
    "adam": ("betas", "eps", "weight_decay"),
    "adamw": ("betas", "eps", "weight_decay"),
    "rmsprop": ("momentum", "eps", "weight_decay"),
    "adagrad": ("eps", "weight_decay"),
    "asgd": ("lambd", "alpha", "t0", "weight_decay"),
    "lion": ("betas", "weight_decay"),
    "signsgd": ("momentum", "weight_decay"),
    "muon": ("momentum", "nesterov", "weight_decay", "ns_steps", "adjust_rate", "rest"),
}

REST_OPTIONS = ("learning_rate", "betas", "eps", "weight_decay", "matrices")
"""Options of ``rest``, of AdamW on what ``muon`` leaves to it."""

_ADJUSTMENTS = ("original", "match_rms_adamw")


DECOUPLED = frozenset({"adamw", "lion", "signsgd"})
"""Optimisers whose weight decay shrinks the parameters themselves, and is no part of the gradient."""


AVERAGES: dict[str, str] = {"from_step": "step", "non_monotone": "window"}
"""When an average of iterates begins, and the single option of each; see :mod:`trainers.update.averaging`."""


ONE_OF = (*TRANSFORMS, "clip_threshold", "clip_groups")
"""What may be done to a gradient, at most one of them: by one number, or by a section of options."""


def eager(optimizer: type[T]) -> type[T]:
    """The same optimiser without the wrappers that keep ``torch.compile`` out of its methods.

    Their first call imports torch._dynamo, which takes every new worker one to three seconds; nothing is compiled here.

    Args:
        optimizer: One of torch's.

    Returns:
        A subclass of ``optimizer``, to be stepped under ``torch.no_grad``.
    """
    wrapped = ("add_param_group", "step", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in wrapped}
    return type(optimizer.__name__, (optimizer,), methods)


_EAGER = {name: eager(optimizer) for name, optimizer in OPTIMIZERS.items()}


@dataclass(frozen=True, kw_only=True)
class UpdateRule:
    """A gradient transform followed by an optimiser's direction.

    The transform works on the gradient of the loss; weight decay is the optimiser's and is added after it. With
    ``transform_of="momentum"`` it works on the direction that SGD with momentum would take, weight decay included.

    Attributes:
        optimizer: One of :data:`OPTIMIZERS`, or ``muon``.
        learning_rate: eta, positive.
        momentum: Of ``sgd``, ``rmsprop``, ``signsgd`` and ``muon``.
        dampening: Of ``sgd``.
        nesterov: Of ``sgd`` and ``muon``; needs momentum and no dampening.
        weight_decay: Coefficient of the parameters in the direction; decoupled in :data:`DECOUPLED`.
        decay_on: What decays: ``all`` parameters, or ``matrices``, those of two or more dimensions.
        no_decay: Patterns of names of parameters that do not decay, such as ``embedding.*``; None for no others.
        betas: Decay rates of the running averages of ``adam`` and ``adamw``, and of ``lion``.
        eps: Added to the denominator of ``adam``, ``adamw``, ``rmsprop`` and ``adagrad``.
        lambd: Of ``asgd``: its decay of the parameters, and with ``alpha`` of the rate.
        alpha: Of ``asgd``: step k has the rate eta / (1 + lambd eta k)^alpha, which is its learning rate in the tables.
        t0: Of ``asgd``: the step from which on its average is over more than one iterate.
        ns_steps: Of ``muon``: iterations of Newton-Schulz.
        adjust_rate: Of ``muon``: by what the shape of a matrix changes its rate, torch's ``adjust_lr_fn``.
        rest: Of ``muon``, which needs it: AdamW's ``learning_rate``, ``betas``, ``eps`` and ``weight_decay``, and
            ``matrices``, patterns of names of those that AdamW takes besides all that is none; None for embeddings
            and the last matrix.
        clip_norm: gamma of eq. (5), positive; None for no clipping. At most one of this and the next seven may be set.
        normalize: beta of eq. (6), positive.
        clip_value: The largest entry of a gradient, in absolute value.
        clip_layer_norm: The largest norm of the gradient of one parameter tensor.
        clip_adaptive: Brock et al. (2021): the largest norm of a unit's gradient, relative to that of its weights.
        clip_threshold: In place of the number gamma what sets it at every step: ``use``, one of
            :data:`~trainers.update.thresholds.THRESHOLDS`, and its options, for example ``{"use": "percentile"}``.
        clip_groups: Eq. (5) in groups of parameters: ``match`` and ``clip_norm`` of each, see
            :class:`~trainers.update.clip_groups.ClipGroups`.
        own_transform: One's own: changes a :class:`~trainers.update.transforms.Direction` in place, and returns the
            factor by which its norm changed, 1 exactly for no change.
        when_exceeded: What happens to a gradient above ``clip_norm`` or ``clip_threshold``: ``clip``, or ``skip`` for a
            step that is not taken at all: parameters, optimiser and momentum stay as they are.
        transform_of: ``gradient``, or ``momentum`` for ``sgd`` with momentum.
        clip_each_micro_batch: Whether the transform works on the gradient of every micro-batch, before their mean: what
            loops do by mistake. Needs a transform, and steps of several micro-batches.
        average: None, or when the average of iterates begins at which metrics are evaluated: ``{"use": "from_step",
            "step": k}`` or ``{"use": "non_monotone", "window": 5}``, see
            :class:`~trainers.update.averaging.IterateAverage`.
        schedule: How the rate changes over the steps: ``use``, one of :data:`~trainers.update.schedules.SCHEDULES`, and
            its options, for example ``{"use": "cosine", "final_fraction": 0.1, "warmup": 100}``; or a pure function of
            step and number of steps that returns the factor.

    Raises:
        ValueError: A value is out of range, or an option does not belong to the optimiser or schedule.

    Example:
        >>> UpdateRule(learning_rate=2.0, schedule={"use": "cosine"}).learning_rate_at(50, 100)
        1.0
    """

    optimizer: str = "sgd"
    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_on: str = "all"
    no_decay: tuple[str, ...] | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    ns_steps: int = 5
    adjust_rate: str = "original"
    rest: Mapping[str, Any] | None = None
    clip_norm: float | None = None
    normalize: float | None = None
    clip_value: float | None = None
    clip_layer_norm: float | None = None
    clip_adaptive: float | None = None
    clip_threshold: Mapping[str, Any] | None = None
    clip_groups: Sequence[Mapping[str, Any]] | None = None
    own_transform: Callable[[Direction], Tensor] | None = None
    when_exceeded: str = "clip"
    transform_of: str = "gradient"
    clip_each_micro_batch: bool = False
    average: Mapping[str, Any] | None = None
    schedule: Mapping[str, Any] | Callable[[int, int], float] = field(
        default_factory=lambda: {"use": "constant", "warmup": 0.0}
    )

    def __post_init__(self) -> None:
        if self.optimizer not in _OPTIONS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; known: {', '.join(_OPTIONS)}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive and finite, not {self.learning_rate!r}")
        chosen = [name for name in (*ONE_OF, "own_transform") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other: one transform at a time")
        for name in TRANSFORMS:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}")
        for name in dict.fromkeys(name for options in _OPTIONS.values() for name in options):
            # Silently ignoring an option would make two cells of a sweep the same without any notice.
            if name not in _OPTIONS[self.optimizer] and getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"{name} is not an option of {self.optimizer}, which takes: {', '.join(_OPTIONS[self.optimizer])}"
                )
        if self.nesterov and not (self.momentum > 0 and self.dampening == 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")
        if self.decay_on not in {"all", "matrices"}:
            raise ValueError(f"decay_on must be 'all' or 'matrices', not {self.decay_on!r}")
        self._check_muon()
        if self.has_decay_groups and not max(self.weight_decay, (self.rest or {}).get("weight_decay", 0.0)) > 0:
            raise ValueError("decay_on and no_decay have no effect without weight_decay")
        if self.transform_of not in {"gradient", "momentum"}:
            raise ValueError(f"transform_of must be 'gradient' or 'momentum', not {self.transform_of!r}")
        if self.transform_of == "momentum" and not (self.optimizer == "sgd" and self.momentum > 0 and chosen):
            raise ValueError(f"transform_of 'momentum' needs sgd, momentum > 0 and one of: {', '.join(ONE_OF)}")
        numbered = any(getattr(self, name) is not None for name in (*TRANSFORMS, "own_transform"))
        if self.clip_each_micro_batch and not (numbered and self.transform_of == "gradient"):
            raise ValueError(f"clip_each_micro_batch needs one of: {', '.join(TRANSFORMS)}; of the gradient")
        if self.clip_each_micro_batch and self.when_exceeded == "skip":
            raise ValueError("when_exceeded 'skip' leaves out a step as a whole, not one of its micro-batches")
        self._check_thresholds()
        check_schedule(self.schedule)
        self._check_average()

    @property
    def has_decay_groups(self) -> bool:
        """Whether some parameters may decay and others not."""
        return self.decay_on != "all" or self.no_decay is not None

    @property
    def clips(self) -> bool:
        """Whether a transform's factor other than 1 means clipping; of one's own it does."""
        return self.own_transform is not None or any(
            name.startswith("clip_") and getattr(self, name) is not None for name in ONE_OF
        )

    @property
    def step_threshold(self) -> float | None:
        """c where a step is eta times a vector v clipped to it, min(1, c / ||v||) v, and nothing more; None elsewhere.

        So where clipping by norm, of the whole gradient at one threshold, is followed by no momentum, weight decay or
        preconditioning.

        Example:
            >>> UpdateRule(learning_rate=2.0, clip_norm=0.5).step_threshold
            0.5
            >>> UpdateRule(learning_rate=2.0, clip_norm=0.5, momentum=0.9).step_threshold
        """
        is_bare = self.optimizer == "sgd" and self.momentum == 0 and self.weight_decay == 0
        is_bare &= not self.clip_each_micro_batch
        is_clipped_to = self.when_exceeded == "clip" and (is_bare or self.transform_of == "momentum")
        return self.clip_norm if is_clipped_to else None

    def learning_rate_at(self, step: int, total_steps: int, *, steps_per_epoch: int | Fraction = 1) -> float:
        """The learning rate of one step.

        Args:
            step: Counted from 0.
            total_steps: Number of steps of the whole trial.
            steps_per_epoch: Number of steps in one pass over the data, a fraction where epochs end within steps.

        Returns:
            eta times the schedule's factor, and the decay of ``asgd``.
        """
        rate = self.learning_rate * factor_at(self.schedule, step, total_steps, steps_per_epoch=steps_per_epoch)
        return rate / (1 + self.lambd * rate * step) ** self.alpha if self.optimizer == "asgd" else rate

    def transform(self, direction: Direction) -> Tensor | None:
        """Transform a direction in place, by the transforms that are one number.

        Args:
            direction: The gradient, or with ``transform_of="momentum"`` the momentum.

        Returns:
            The factor by which its norm changed, on its device; None without a transform.
        """
        if self.own_transform is not None:
            return self.own_transform(direction)
        for name, transform in TRANSFORMS.items():
            value = getattr(self, name)
            if value is not None:
                return transform(direction, value)
        return None

    def build_optimizer(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        """An elementwise optimiser for one (flat) parameter; it does not apply the schedule."""
        options = {name: getattr(self, name) for name in _OPTIONS[self.optimizer]}
        if self.transform_of == "momentum":
            # What it receives is the direction already.
            options = {}
        elif self.has_decay_groups:
            # The updater's, since to the optimiser all is one parameter.
            options["weight_decay"] = 0.0
        # A single tensor: the multi-tensor path would only add bookkeeping.
        return _EAGER[self.optimizer]([parameter], lr=self.learning_rate, foreach=False, **options)  # type: ignore[call-arg]

    def _check_muon(self) -> None:
        if self.optimizer != "muon":
            return
        if self.rest is None or not self.rest.keys() <= set(REST_OPTIONS) or "learning_rate" not in self.rest:
            raise ValueError(
                f"muon needs rest, the options of AdamW, with a learning_rate, of: {', '.join(REST_OPTIONS)}"
            )
        if not (self.rest["learning_rate"] > 0 and math.isfinite(self.rest["learning_rate"])):
            raise ValueError(f"rest: learning_rate must be positive and finite, not {self.rest['learning_rate']!r}")
        if self.adjust_rate not in _ADJUSTMENTS:
            raise ValueError(f"adjust_rate must be one of {', '.join(_ADJUSTMENTS)}, not {self.adjust_rate!r}")
        if not 1 <= self.ns_steps < 100:
            raise ValueError(f"ns_steps must lie in 1..99, not {self.ns_steps!r}")

    def _check_thresholds(self) -> None:
        if self.clip_threshold is not None:
            build_threshold(self.clip_threshold)
        if self.clip_groups is not None:
            check_groups(self.clip_groups)
        if self.when_exceeded not in {"clip", "skip"}:
            raise ValueError(f"when_exceeded must be 'clip' or 'skip', not {self.when_exceeded!r}")
        if self.when_exceeded == "skip" and self.clip_norm is None and self.clip_threshold is None:
            raise ValueError("when_exceeded 'skip' needs clip_norm or clip_threshold")
        if self.when_exceeded == "skip" and self.transform_of == "momentum":
            raise ValueError("when_exceeded 'skip' decides by the gradient, before it is in the momentum")

    def _check_average(self) -> None:
        if self.average is None:
            return
        name = self.average.get("use")
        if name not in AVERAGES:
            raise ValueError(f"unknown average {name!r}; known: {', '.join(AVERAGES)}")
        if self.average.keys() != {"use", AVERAGES[name]}:
            raise ValueError(f"average {name!r} has one option, {AVERAGES[name]}, but found {dict(self.average)!r}")
        if self.average[AVERAGES[name]] < 0:
            raise ValueError(f"average {name!r}: {AVERAGES[name]} must not be negative")
        if self.optimizer == "asgd":
            raise ValueError("average cannot be combined with asgd, which keeps its own average")
