"""How long trials will take, and what they leave on disk: from the run so far, or guessed from the model's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sweeper.planning.environment import usable_cores
from sweeper.planning.plan import Plan, Trial
from sweeper.spec import Sweep
from sweeper.store.journal import RunState
from sweeper.store.spans import spans_of

__all__ = ["STARTUP_S", "Expectation", "expected", "expected_bytes", "num_parameters"]

STARTUP_S = 9.0
"""From the command to the first step, mostly Ray's start and the workers' imports: 7 to 12 s on the machines tried."""

_FLOPS_PER_S = {"language_modeling": 3e10, "image_classification": 1.5e10, "deep_linear": 1.5e10}
"""Of one thread in float32, on the machines tried: 25 to 70 for language models, 14 to 15 for images."""

_STEP_S = 1e-3
"""What a batch costs whatever the model: PyTorch's own overhead of a few hundred operations."""

_SNAPSHOT_S = 1.5e-2
"""What a snapshot costs whatever the model: handing it over, and building f around it."""

_TRIAL_S = 0.1
"""What a trial costs whatever the model: building the problem, and committing."""

_ANALYTIC_STEP_S = 1e-7
"""A dozen NumPy operations per lane and step."""

_METRIC_ROW_BYTES = 45
_MEASUREMENT_ROW_BYTES = 150
"""Size of a compressed row: random digits do not compress, step numbers do."""

_VOCABULARY = {"python-docs": 3_000, "ptb": 10_000, "wikitext2": 33_278}
_TOKENS = {"python-docs": 80_000, "ptb": 929_589, "wikitext2": 2_088_628}
_VALID_SHARE = 0.08
"""Of a corpus: its validation text, in proportion to the training text; its test text is as long."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """How much work trials are, and how fast it will go.

    Attributes:
        work: Trial to its whole work, in units that are the same for all: seconds of one core where the cost of the
            problem is known, else batches.
        per_s: Units of work per second of the whole sweep; None where nothing is known yet.
        source: How that is known.
        startup_s: Seconds until the first step, in this run so far or on the machines tried.
        is_guess: Whether nothing of it was measured in this run.
    """

    work: Mapping[str, float]
    per_s: float | None
    source: str
    startup_s: float = STARTUP_S
    is_guess: bool = True

    def left_s(self, trials: Sequence[tuple[Trial, int]]) -> float | None:
        """Seconds for what remains of some trials, workers started.

        Args:
            trials: Each with the step from which it continues.

        Returns:
            The time; None where it is unknown.
        """
        if self.per_s is None:
            return None
        left = 0.0
        for trial, done in trials:
            left += self.work[trial.trial_id] * (1 - done / max(1, trial.train["steps"]))
        return left / self.per_s


def expected(sweep: Sweep, plan: Plan, state: RunState, *, num_left: int) -> Expectation:
    """How long the trials of a plan will take.

    Args:
        sweep: The spec.
        plan: Its trials.
        state: The run so far.
        num_left: Trials that remain: fewer cannot fill all trainers.

    Returns:
        The expectation, from the seconds of this run's own drivers if there are any.
    """
    costs = {trial.trial_id: _core_seconds(sweep, trial) for trial in plan.trials}
    known = {name: cost for name, cost in costs.items() if cost is not None}
    work = (
        known
        if len(known) == len(costs)
        else {t.trial_id: float(t.train["steps"] * t.train["accumulate"]) for t in plan.trials}
    )
    done, seconds, steps = 0.0, 0.0, 0
    spans = spans_of(state)
    planned = {trial.trial_id: trial.train["steps"] for trial in plan.trials}
    for span in spans:
        of_plan = [segment for segment in span.segments if segment.trial in work]
        done += sum(work[s.trial] * s.facts.num_steps / planned[s.trial] for s in of_plan)
        steps += sum(segment.facts.num_steps for segment in of_plan)
        # Of a spec that has changed, only the share of its time that went into trials of this one.
        seconds += (span.last_at - span.first_at) * len(of_plan) / len(span.segments)
    if done > 0 and seconds > 0:
        started = [span.starting_s for span in spans if span.starting_s is not None]
        return Expectation(
            work=work,
            per_s=done / seconds,
            source=f"measured over {steps} steps of this run",
            startup_s=sum(started) / len(started) if started else STARTUP_S,
            is_guess=False,
        )
    if work is not known or sweep.resources.trainers.gpus:
        return Expectation(work=work, per_s=None, source="no trial of this problem has run here yet")
    cores = usable_cores()
    trainers = sweep.resources.trainers.count
    lanes = min(cores if trainers == "auto" else min(trainers, cores), max(1, num_left))
    return Expectation(work=work, per_s=float(lanes), source="a rough guess from the size of the model")


def _core_seconds(sweep: Sweep, trial: Trial) -> float | None:
    """Seconds of one core for a whole trial, measuring included; None where the problem's cost is unknown."""
    costs = _costs(trial.problem)
    if costs is None:
        return None
    if trial.problem["use"] == "analytic":
        return float(trial.train["steps"]) * _ANALYTIC_STEP_S
    step_flops, _, epoch_flops = costs
    per_s = _FLOPS_PER_S[trial.problem["use"]]
    steps, every = trial.train["steps"], trial.train["evaluate_every"]
    per_step = trial.train["accumulate"]
    # Forward only, over the validation data, and of texts once over the test data.
    share = _VALID_SHARE * trial.problem.get("evaluate_fraction", 1.0)
    shares = ((steps // every if every else 0) + 1) * share
    shares += _VALID_SHARE if trial.problem["use"] == "language_modeling" else 0.0
    evaluations = shares * epoch_flops / 3 / per_s
    total: float = _TRIAL_S + steps * per_step * (_STEP_S + step_flops / per_s) + evaluations
    if sweep.measure is not None:
        gradients = sum(estimator.num_gradients for estimator in sweep.measure.estimators)
        gradients *= sweep.measure.probes
        each = _SNAPSHOT_S + gradients * sweep.measure.data_fraction * epoch_flops / per_s
        total += _num_snapshots(sweep, steps) * each
    return total


def expected_bytes(sweep: Sweep, left: Sequence[tuple[Trial, int]]) -> float:
    """Bytes on disk: parts and the tables made from them, checkpoints of the trials running at once, kept snapshots.

    Args:
        sweep: The spec.
        left: Trials that remain, each with the step from which it continues.

    Returns:
        The number of bytes, within a factor of about two.
    """
    total = 0.0
    largest = 0
    for trial, done in left:
        steps = trial.train["steps"] - done
        costs = _costs(trial.problem)
        parameters = costs[1] if costs is not None else 0
        largest = max(largest, parameters)
        snapshots = _num_snapshots(sweep, steps)
        total += 2 * (_num_rows(trial, steps) * _METRIC_ROW_BYTES + snapshots * _MEASUREMENT_ROW_BYTES)
        if sweep.measure is not None and sweep.measure.keep:
            total += snapshots * 2 * 4 * parameters
    return total + 2 * 8 * largest * min(len(left), usable_cores()) + 4_000 * len(left)


def num_parameters(problem: Mapping[str, Any]) -> int | None:
    """How large a problem's model is.

    Args:
        problem: The resolved section.

    Returns:
        About how many parameters it has; None for a problem of the user's own.
    """
    costs = _costs(problem)
    return None if costs is None else costs[1]


def _costs(problem: Mapping[str, Any]) -> tuple[float, int, float] | None:
    """Floating-point operations of a step, number of parameters, and operations of a pass over the data."""
    match problem["use"]:
        case "language_modeling":
            model = problem["model"]
            vocabulary = _VOCABULARY.get(problem["corpus"], 10_000)
            if model["use"] == "gpt":
                hidden = embedding = model["width"]
                recurrent = 12 * model["layers"] * hidden**2
            else:
                hidden, embedding = model["hidden"], model["embedding"]
                inputs = [embedding] + [hidden] * (model["layers"] - 1)
                recurrent = sum(4 * hidden * (width + hidden) for width in inputs)
            parameters = recurrent + vocabulary * embedding + (0 if model["tied"] else vocabulary * hidden)
            per_token = 6 * (recurrent + vocabulary * hidden)
            tokens = problem["batch_size"] * problem["sequence_length"]
            return per_token * tokens, parameters, per_token * _TOKENS.get(problem["corpus"], 1_000_000)
        case "image_classification":
            pixels, images = (64, 1_437) if problem["dataset"] == "digits" else (1024, 50_000)
            per_image, parameters = _image_costs(problem["model"], pixels, 1 if pixels == 64 else 3)
            return per_image * problem["batch_size"], parameters, per_image * images
        case "deep_linear":
            parameters = problem["layers"] * problem["width"] ** 2
            operations = 6.0 * parameters * problem["samples"]
            return operations, parameters, operations
        case "analytic":
            return 0.0, 0, 0.0
    return None


def _image_costs(model: Mapping[str, Any], pixels: int, channels: int) -> tuple[float, int]:
    """Floating-point operations per image, forward and backward, and the number of parameters."""
    match model["use"]:
        case "resnet20":
            scale = (model["width"] / 16) ** 2
            return 3 * 82e6 * scale * pixels / 1024, round(0.27e6 * scale)
        case "resnet18":
            scale = (model["width"] / 64) ** 2
            return 3 * 1.1e9 * scale * pixels / 1024, round(11.17e6 * scale)
    sizes = [pixels * channels, *([model["hidden"]] * model["layers"] if model["use"] == "mlp" else []), 10]
    parameters = sum(inputs * outputs for inputs, outputs in pairwise(sizes))
    return 6.0 * parameters, parameters


def _num_snapshots(sweep: Sweep, steps: int) -> int:
    measure = sweep.measure
    if measure is None:
        return 0
    window = min(steps, measure.to_step if measure.to_step is not None else steps) - min(steps, measure.from_step)
    regular = window // measure.every + 1 if measure.every else 0
    return min(steps, regular + measure.first + measure.last + len(measure.steps))


def _num_rows(trial: Trial, steps: int) -> float:
    every = trial.train["log_every"]
    if trial.problem["use"] == "analytic":
        return 2 if every is None else steps / every
    return steps / (every or 1)
