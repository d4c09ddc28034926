"""Which trials one worker may train step by step together, and where that wins; pure, and decided before any is built.

A packed trial has the bits of one by itself: the worker compares them before it relies on it. So nothing here is part
of any id, and a trial may go on packed or not, whatever it was before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.planning.plan import Trial
    from sweeper.spec.sections.settings import TrainerPool

__all__ = ["Packing", "packing_of", "why_alone"]

_MODELS = frozenset({"mlp", "logistic_regression"})
"""Of image classification; models whose batches depend on each other, draw random numbers or carry a state stay out."""

_AUTO = 64
"""Trials in a pack, where the gain has levelled off."""

_AUTO_LEAST = 8
"""Below it there is little to gain."""

_LARGEST = 2**14
"""Units times examples of a batch in the widest layer: beyond it kernels take longer than calling them."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How trials are packed.

    Attributes:
        most: Trials in a pack at most; 1 for no packs.
        least: Trials in a pack at least.
        auto: Whether only what wins is packed.
        on_gpu: Whether trainers compute on a GPU.
    """

    most: int = 1
    least: int = 2
    auto: bool = False
    on_gpu: bool = False

    @property
    def bounds(self) -> tuple[int, int]:
        """Trials in a pack at most and at least, as the schedule takes them."""
        return self.most, self.least

    def shapes(self, trials: Iterable[Trial]) -> dict[str, str]:
        """The shape of each trial that may be packed, by id; trials of equal shapes may share a pack."""
        if self.most == 1:
            return {}
        return {
            trial.trial_id: json.dumps(trial.problem, sort_keys=True)
            for trial in trials
            if self.reason(trial.problem, trial.update_rule, trial.train) is None
        }

    def outlook(self, trials: Iterable[Trial]) -> dict[str, Any] | None:
        """What becomes of the trials of a spec that asks for packs; None where it asks for none.

        Args:
            trials: The trials.

        Returns:
            ``most`` of a pack, how many ``trials`` may be in one, and ``alone``: of the others reason and ``trials``.
        """
        if self.most == 1:
            return None
        reasons = Counter(self.reason(trial.problem, trial.update_rule, trial.train) for trial in trials)
        packed = reasons.pop(None, 0)
        alone = [{"reason": reason, "trials": count} for reason, count in reasons.items()]
        return {"most": self.most, "trials": packed, "alone": alone}

    def reason(
        self, problem: Mapping[str, Any], update_rule: Mapping[str, Any], train: Mapping[str, Any]
    ) -> str | None:
        """Why a trial is trained by itself; None where it may be packed.

        Args:
            problem: The resolved section; so are the others.
            update_rule: See there.
            train: See there.

        Returns:
            The reason, in words.
        """
        if self.most == 1:
            return "resources.trainers.pack is 1"
        if (why := why_alone(problem, update_rule, train)) is not None:
            return why
        if self.auto and self.on_gpu:
            return "packs were not measured on a GPU, where auto does not choose them"
        if self.auto and _width(problem) > _LARGEST:
            return "its layers are so wide that a pack would gain nothing"
        return None


def packing_of(trainers: TrainerPool) -> Packing:
    """How trials are packed, by the spec.

    Args:
        trainers: ``resources.trainers``.

    Returns:
        The answer.
    """
    on_gpu = trainers.gpus > 0
    if trainers.pack == "auto":
        return Packing(most=_AUTO, least=_AUTO_LEAST, auto=True, on_gpu=on_gpu)
    return Packing(most=int(trainers.pack), on_gpu=on_gpu)


def why_alone(problem: Mapping[str, Any], update_rule: Mapping[str, Any], train: Mapping[str, Any]) -> str | None:
    """Why a trial cannot be packed at all.

    Args:
        problem: The resolved section; so are the others.
        update_rule: See there.
        train: See there.

    Returns:
        The reason, in words; None where it can.

    Example:
        >>> why_alone({"use": "deep_linear"}, {}, {"steps": 10})
        >>> why_alone({"use": "image_classification", "model": {"use": "resnet20"}}, {}, {"steps": 10})
        'the model resnet20 gains nothing in a pack'
    """
    use = problem["use"]
    own = [part["use"] for part in (update_rule.get("schedule"), update_rule.get("transform")) if part is not None]
    if ":" in use or any(":" in name for name in own):
        return "its code is your own, and may depend on running alone"
    if use not in {"deep_linear", "image_classification"}:
        return f"the problem {use} gains nothing in a pack"
    if use == "image_classification" and (model := problem["model"]["use"]) not in _MODELS:
        return f"the model {model} gains nothing in a pack"
    if train.get("accumulate", 1) > 1:
        return "its steps accumulate several batches"
    if train.get("arithmetic", "ieee") != "ieee":
        return f"it computes in {train['arithmetic']}"
    return None


def _width(problem: Mapping[str, Any]) -> int:
    """Units times examples of a batch in the widest layer."""
    if problem["use"] == "deep_linear":
        return int(problem["width"] * (problem["batch_size"] or problem["samples"]))
    model = problem["model"]
    return int(problem["batch_size"] * (model["hidden"] if model["use"] == "mlp" else 1))
