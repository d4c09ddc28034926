"""Every threshold that adapts clips as its formula says, is resumed bit for bit, and can skip the step instead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.checkpoint import dump, load
from trainers.training.loop import SnapshotSchedule, TrainSettings
from trainers.training.stepper import Stepper
from trainers.trees import first_difference
from trainers.update import averaged_thresholds
from trainers.update.rule import OPTIMIZERS, UpdateRule
from trainers.update.thresholds import THRESHOLDS, build_threshold, threshold_scale

Record = Callable[..., Any]

KINDS: dict[str, list[dict[str, Any]]] = {
    "percentile": [{"percentile": 60.0}, {"percentile": 25.0, "window": 3}, {"percentile": 50.0, "window": None}],
    "z_score": [
        {"z": 0.5, "warmup": 3, "decay": 0.8},
        {"z": 0.5, "warmup": 1, "clip_to": "boundary"},
        {"z": 0.5, "warmup": 2, "clip_to": "mean"},
    ],
    "moving_average": [
        {"factor": 1.01, "warmup": 2, "decay": 0.7},
        {"factor": 0.8, "warmup": 1, "average_of": "raw"},
    ],
    "schedule": [
        {"points": [(2, 8.0), (9, 0.1)]},
        {"points": [(0, 8.0), (9, 0.1)], "between": "geometric"},
        {"points": [(3, 8.0), (6, 0.1)], "between": "hold"},
    ],
}
SECTIONS = [{"use": use, **options} for use, cases in KINDS.items() for options in cases]
NAMES = [f"{section['use']}-{at}" for at, section in enumerate(SECTIONS)]

NEVER: dict[str, dict[str, Any]] = {
    "percentile": {"percentile": 100.0},
    "z_score": {"warmup": 1000},
    "moving_average": {"factor": 1e6, "warmup": 1},
    "schedule": {"points": [(0, 1e300)]},
}
"""Options with which nothing is ever clipped."""

NORMS = [2.0, 3.0, 1.0, 9.0, 4.0, 4.0, 0.5, 30.0, 0.0, 5.0, 6.0, 2.5]


def small() -> Problem:
    return build_problem("deep_linear", {"layers": 2, "width": 3, "samples": 10, "batch_size": 4}, seed=7)


def scaled(factors: Sequence[float], dtype: torch.dtype = torch.float64) -> Problem:
    """f = 2 c_k x^2, with another c_k at every step."""

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.tensor([3.0], dtype=dtype))

    return Problem(
        model=Scalar(),
        loss=lambda model, batch, carry: (2 * batch * model.x.square().sum(), carry),
        batch=lambda step: torch.tensor(factors[step], dtype=dtype),
        probe=lambda fraction: [torch.tensor(1.0, dtype=dtype)],
        steps_per_epoch=1,
        fingerprint="none",
    )


def alternating(large_at: Sequence[int]) -> Problem:
    """The same, a hundred times as steep at some steps."""
    return scaled([100.0 if step in large_at else 1.0 for step in range(9)])


def spiky() -> Problem:
    """The same in single precision, with gradients that go up and down."""
    return scaled([norm + 0.5 for norm in NORMS], torch.float32)


def test_every_registered_threshold_is_tested_here() -> None:
    assert KINDS.keys() == NEVER.keys() == THRESHOLDS.keys()


def percentile(norms: Sequence[float], *, percentile: float, window: int | None = 10_000) -> list[float]:
    return [float(np.percentile(norms[: k + 1][-(window or len(norms)) :], percentile)) for k in range(len(norms))]


def z_score(
    norms: Sequence[float], *, z: float, warmup: int, decay: float = 0.97, clip_to: str = "reciprocal"
) -> list[float]:
    """Kumar et al. (2025), Section 3, as it is written there."""
    found = []
    mean = variance = math.nan
    for k, norm in enumerate(norms):
        if k < warmup:
            found.append(math.inf)
            if k == warmup - 1:
                mean, variance = float(np.mean(norms[:warmup])), float(np.var(norms[:warmup]))
            continue
        sigma = math.sqrt(variance)
        if norm <= mean + z * sigma:
            found.append(mean + z * sigma)
            clipped = norm
        else:
            score = math.inf if sigma == 0 else (norm - mean) / sigma
            cut = {"reciprocal": z * z / score * sigma, "boundary": z * sigma, "mean": 0.0}[clip_to]
            found.append(mean + cut)
            clipped = found[-1]
        mean = decay * mean + (1 - decay) * clipped
        variance = decay * variance + (1 - decay) * (clipped - mean) ** 2
    return found


def moving_average(
    norms: Sequence[float], *, factor: float, warmup: int, decay: float = 0.99, average_of: str = "clipped"
) -> list[float]:
    found = [math.inf] * warmup
    mean = float(np.mean(norms[:warmup]))
    for norm in norms[warmup:]:
        found.append(factor * mean)
        mean = decay * mean + (1 - decay) * (min(norm, found[-1]) if average_of == "clipped" else norm)
    return found


def schedule(norms: Sequence[float], *, points: Sequence[tuple[int, float]], between: str = "linear") -> list[float]:
    steps, values = zip(*points, strict=True)
    at = np.arange(len(norms))
    if between == "hold":
        return [values[max(0, int(np.searchsorted(steps, k, side="right")) - 1)] for k in at]
    if between == "geometric":
        return [float(value) for value in np.exp(np.interp(at, steps, np.log(values)))]
    return [float(value) for value in np.interp(at, steps, values)]


FORMULAS: dict[str, Callable[..., list[float]]] = {
    "percentile": percentile,
    "z_score": z_score,
    "moving_average": moving_average,
    "schedule": schedule,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_thresholds_are_those_of_their_formula(section: dict[str, Any], dtype: torch.dtype) -> None:
    threshold = build_threshold(section)
    found = [threshold.at(step, torch.tensor(norm, dtype=dtype)) for step, norm in enumerate(NORMS)]
    options = {key: value for key, value in section.items() if key != "use"}
    expected = FORMULAS[section["use"]](NORMS, **options)
    assert {one.dtype for one in found} == {torch.float64}
    assert [one.item() for one in found] == pytest.approx(expected, rel=1e-12)
    assert min(expected) < max(NORMS), "it clips something"


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_thresholds_computed_on_the_device_have_the_same_bits(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = [torch.tensor(norm) for norm in [*NORMS, math.inf, 3.0]]
    one, other = build_threshold(section), build_threshold(section)
    found = [one.at(step, norm).item() for step, norm in enumerate(norms)]
    # As on a GPU, from which no number is read.
    monkeypatch.setattr(averaged_thresholds, "_scalar", lambda norm: (torch, norm.double()))
    assert [other.at(step, norm).item() for step, norm in enumerate(norms)] == found
    assert first_difference(other.state(), one.state()) == ""


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_training_clips_at_the_threshold_of_the_recorded_norms(section: dict[str, Any]) -> None:
    rule = UpdateRule(learning_rate=0.005, clip_threshold=section)
    problem = spiky()
    stepper = Stepper(problem, rule, total_steps=12, seed=0)
    rows = np.array([stepper.take(step)[1].tolist() for step in range(12)])
    _, grad_norm, scale, update_norm, threshold = rows.T
    options = {key: value for key, value in section.items() if key != "use"}
    assert threshold == pytest.approx(FORMULAS[section["use"]](grad_norm.tolist(), **options), rel=1e-9)
    assert scale == pytest.approx(np.minimum(1, threshold / grad_norm), rel=1e-12)
    assert ((scale < 1) == (grad_norm > threshold)).all()
    assert 0 < (scale < 1).sum()
    assert update_norm == pytest.approx(0.005 * scale * grad_norm, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_a_norm_that_is_not_finite_changes_nothing_for_later_steps(section: dict[str, Any], bad: float) -> None:
    clean, poisoned = build_threshold(section), build_threshold(section)
    for step, norm in enumerate(NORMS[:6]):
        clean.at(step, torch.tensor(norm))
        poisoned.at(step, torch.tensor(norm))
    poisoned.at(6, torch.tensor(bad))
    later = torch.tensor([7.0, 1.0, 20.0])
    assert [poisoned.at(7 + k, norm).item() for k, norm in enumerate(later)] == [
        clean.at(7 + k, norm).item() for k, norm in enumerate(later)
    ]


@pytest.mark.parametrize("when_exceeded", ["clip", "skip"])
@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_a_resumed_trial_equals_one_in_one_go(record: Record, section: dict[str, Any], when_exceeded: str) -> None:
    rule = UpdateRule(learning_rate=0.005, momentum=0.9, clip_threshold=section, when_exceeded=when_exceeded)
    settings = TrainSettings(steps=12, evaluate_every=4)
    whole = record(spiky, rule, settings)
    assert np.frombuffer(whole.rows["clipped"], bool).any()
    assert record(spiky, rule, settings, stops=[0, 1, 5, 6]) == whole


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_a_state_goes_through_the_bytes_of_a_checkpoint(section: dict[str, Any]) -> None:
    rule = UpdateRule(learning_rate=0.005, clip_threshold=section)
    whole = Stepper(spiky(), rule, total_steps=12, seed=0)
    for step in range(5):
        whole.take(step)
    resumed = Stepper(spiky(), rule, total_steps=12, seed=0)
    resumed.restore(load(dump(whole.state(5, num_clipped=0, last_finite_loss=None))))
    for step in range(5, 12):
        assert whole.take(step)[1].tolist() == resumed.take(step)[1].tolist()


@pytest.mark.parametrize("use", THRESHOLDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lion"])
def test_a_threshold_that_is_never_reached_equals_the_plain_rule_bit_for_bit(
    record: Record, optimizer: str, use: str
) -> None:
    settings = TrainSettings(steps=12)
    plain = record(small, UpdateRule(optimizer=optimizer, learning_rate=0.001), settings)
    rule = UpdateRule(optimizer=optimizer, learning_rate=0.001, clip_threshold={"use": use, **NEVER[use]})
    found = record(small, rule, settings)
    if use == "percentile":
        # The largest norm so far is no threshold that is exceeded, though it is one.
        assert np.isfinite(np.frombuffer(found.rows["threshold"])[:-1]).all()
    assert found.parameters == plain.parameters
    assert found.rows["step_size"] == plain.rows["step_size"]


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_momentum_can_be_clipped_at_a_threshold_that_adapts_to_its_norm(
    record: Record, section: dict[str, Any]
) -> None:
    rule = UpdateRule(learning_rate=0.005, momentum=0.9, transform_of="momentum", clip_threshold=section)
    settings = TrainSettings(steps=12)
    assert record(spiky, rule, settings, stops=[1, 4]) == record(spiky, rule, settings)


# Skipped steps


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_skipped_step_leaves_parameters_and_optimizer_as_they_are(optimizer: str) -> None:
    rule = UpdateRule(optimizer=optimizer, learning_rate=0.01, clip_norm=50.0, when_exceeded="skip")
    problem = alternating([0, 3])
    stepper = Stepper(problem, rule, total_steps=6, seed=0)
    for step in range(6):
        before = stepper.state(step, num_clipped=0, last_finite_loss=None)
        _, (_, grad_norm, scale, update_norm, threshold) = stepper.take(step)
        after = stepper.state(step, num_clipped=0, last_finite_loss=None)
        if step in {0, 3}:
            assert (scale.item(), update_norm.item()) == (0, 0)
            assert dump(after) == dump(before)
        else:
            assert scale.item() == 1
            assert update_norm.item() > 0
        assert threshold.item() == 50
        assert (grad_norm.item() > 50) == (step in {0, 3})


def test_skipping_steps_equals_never_having_had_their_batches() -> None:
    rule = UpdateRule(optimizer="adam", learning_rate=0.01, clip_norm=50.0, when_exceeded="skip")
    skipping, plain = alternating([1, 2]), alternating([])
    with_spikes, without = (Stepper(one, rule, total_steps=9, seed=0) for one in (skipping, plain))
    for step in range(6):
        with_spikes.take(step)
    for step in range(4):
        without.take(step)
    assert skipping.model.x.item() == plain.model.x.item()


def test_skipped_steps_count_as_clipped_and_have_a_step_size_of_zero(record: Record) -> None:
    rule = UpdateRule(learning_rate=0.01, clip_norm=50.0, when_exceeded="skip")
    found = record(lambda: alternating([0, 3]), rule, TrainSettings(steps=6), snapshots=SnapshotSchedule(every=1))
    rows = {name: np.frombuffer(found.rows[name]) for name in ("step_size", "update_norm", "threshold")}
    assert np.frombuffer(found.rows["clipped"], bool)[:6].tolist() == [True, False, False, True, False, False]
    assert (rows["step_size"][:6] == [0, 0.01, 0.01, 0, 0.01, 0.01]).all()
    assert ((rows["update_norm"][:6] == 0) == [True, False, False, True, False, False]).all()
    assert (rows["threshold"][:6] == 50).all()


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_thresholds_adapt_to_skipped_steps_as_they_do_to_clipped_ones(section: dict[str, Any]) -> None:
    rule = UpdateRule(learning_rate=0.005, clip_threshold=section, when_exceeded="skip")
    stepper = Stepper(spiky(), rule, total_steps=12, seed=0)
    _, grad_norm, scale, _, threshold = np.array([stepper.take(step)[1].tolist() for step in range(12)]).T
    options = {key: value for key, value in section.items() if key != "use"}
    assert threshold == pytest.approx(FORMULAS[section["use"]](grad_norm.tolist(), **options), rel=1e-9)
    assert (scale == np.where(grad_norm > threshold, 0, 1)).all()
    assert 0 in scale


# What cannot be


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"use": "percentil"}, "unknown clip_threshold 'percentil'; known: percentile, z_score"),
        ({"use": "percentile", "percentile": 0}, "percentile must be above 0"),
        ({"use": "percentile", "window": 0}, "window must be at least 1"),
        ({"use": "percentile", "z": 1}, "does not accept"),
        ({"use": "z_score", "z": 0}, "z must be positive"),
        ({"use": "z_score", "decay": 1.0}, r"decay must be in \[0, 1\)"),
        ({"use": "z_score", "warmup": 0}, "warmup must be at least 1"),
        ({"use": "z_score", "clip_to": "zero"}, "clip_to must be"),
        ({"use": "moving_average", "factor": 1.0}, "factor must be above 1"),
        ({"use": "moving_average", "factor": 0.0, "average_of": "raw"}, "factor must be positive"),
        ({"use": "moving_average", "average_of": "both"}, "average_of must be"),
        ({"use": "schedule"}, "does not accept"),
        ({"use": "schedule", "points": []}, "points must be pairs"),
        ({"use": "schedule", "points": [(3, 1.0), (3, 2.0)]}, "must rise"),
        ({"use": "schedule", "points": [(0, 0.0)]}, "thresholds must be positive"),
        ({"use": "schedule", "points": [(0, 1.0)], "between": "cubic"}, "between must be"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(section: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        UpdateRule(learning_rate=0.1, clip_threshold=section)


def test_a_step_can_only_be_skipped_by_a_norm_of_the_gradient() -> None:
    with pytest.raises(ValueError, match="'skip' needs clip_norm or clip_threshold"):
        UpdateRule(learning_rate=0.1, clip_value=1.0, when_exceeded="skip")
    with pytest.raises(ValueError, match="'skip' decides by the gradient"):
        UpdateRule(learning_rate=0.1, momentum=0.9, clip_norm=1.0, transform_of="momentum", when_exceeded="skip")
    with pytest.raises(ValueError, match="must be 'clip' or 'skip'"):
        UpdateRule(learning_rate=0.1, clip_norm=1.0, when_exceeded="stop")
    with pytest.raises(ValueError, match="clip_norm and clip_threshold exclude each other"):
        UpdateRule(learning_rate=0.1, clip_norm=1.0, clip_threshold={"use": "percentile"})


def test_only_clipping_to_one_fixed_number_has_a_threshold_of_the_step() -> None:
    assert UpdateRule(learning_rate=0.1, clip_norm=1.0).step_threshold == 1
    assert UpdateRule(learning_rate=0.1, clip_norm=1.0, when_exceeded="skip").step_threshold is None
    assert UpdateRule(learning_rate=0.1, clip_threshold={"use": "percentile"}).step_threshold is None


@pytest.mark.parametrize(("norm", "threshold", "factor"), [(0.0, 0.0, 1.0), (3.0, 0.0, 0.0), (math.inf, 2.0, 0.0)])
def test_factors_at_the_edges(norm: float, threshold: float, factor: float) -> None:
    found: Tensor = threshold_scale(torch.tensor(norm), torch.tensor(threshold, dtype=torch.float64))
    assert found.item() == factor
