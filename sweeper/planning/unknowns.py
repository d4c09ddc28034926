"""What a plan cannot know before a trial has run, of this spec and on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sweeper.labels import counted
from sweeper.planning.environment import usable_cores
from sweeper.planning.expectation import Expectation, num_parameters
from sweeper.planning.plan import Trial
from sweeper.spec import Sweep

__all__ = ["unknowns"]

_LARGE = 5_000_000
"""Parameters from which on memory is worth a thought: with gradients, momentum and a copy, 80 MB per worker."""


def unknowns(sweep: Sweep, left: Sequence[Trial], expectation: Expectation) -> list[dict[str, str]]:
    """What is not known of the trials that are left.

    Args:
        sweep: The spec.
        left: Those trials.
        expectation: How long they are thought to take.

    Returns:
        Sentences as ``text``, each with what it is ``about``: ``time``, ``size``, ``disk``, ``memory`` or ``workers``.
        None where no trial is left.
    """
    if not left:
        return []
    found = [*_of_time(sweep, left, expectation), *_of_size(sweep, left), *_of_memory(sweep, left)]
    return [{"about": about, "text": text} for about, text in found]


def _of_time(sweep: Sweep, left: Sequence[Trial], expectation: Expectation) -> Iterator[tuple[str, str]]:
    own = sorted({trial.problem["use"] for trial in left if num_parameters(trial.problem) is None})
    if expectation.per_s is None:
        what = f"a step of {', '.join(own)}" if own else "a step on your GPU"
        yield "time", f"how long {what} takes: the run itself tells, `clipsweep plan` again once it has begun"
    elif expectation.is_guess:
        yield "time", "how fast this machine is: the time is a guess from other machines, until trials have run here"
    if sweep.measure is not None:
        estimators = sorted({estimator.use for estimator in sweep.measure.estimators if ":" in estimator.use})
        if estimators and expectation.per_s is not None:
            yield "time", f"what {', '.join(estimators)} costs: the time holds only the gradients it is thought to take"
    if sweep.cluster.address != "local":
        guessed = expectation.is_guess and expectation.per_s is not None
        here = f", and the time is for this machine's {counted(usable_cores(), 'core')}" if guessed else ""
        yield (
            "workers",
            f"how many workers fit into the cluster at {sweep.cluster.address}: planning does not ask{here}",
        )


def _of_size(sweep: Sweep, left: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    if sweep.sweep.search is not None:
        yield "size", "which trials the search asks for, and how many: that follows from what becomes of each"
    limits = sorted({trial.train["max_loss"] for trial in left if trial.train["max_loss"] is not None})
    if all(trial.problem["use"] == "analytic" for trial in left):
        yield "size", "when trials hit the target or diverge: each is counted with all its steps"
    elif limits:
        ends = f"which trials diverge or pass a loss of {', '.join(f'{limit:g}' for limit in limits)} and so end early"
        yield "size", f"{ends}: each is counted with all its steps"
    elif len({trial.update_rule["learning_rate"] for trial in left}) > 1:
        yield "size", "which learning rates diverge and so end early: each trial is counted with all its steps"


def _of_memory(sweep: Sweep, left: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    sizes: dict[str, Any] = {trial.problem["use"]: num_parameters(trial.problem) for trial in left}
    own = sorted(use for use, size in sizes.items() if size is None)
    if own:
        kept = " and kept snapshots" if sweep.measure is not None and sweep.measure.keep else ""
        yield "disk", f"how large the model of {', '.join(own)} is: the disk for its checkpoints{kept} is not counted"
        yield "memory", f"whether memory holds {', '.join(own)} once for each worker"
    largest = max((num_parameters(trial.problem) or 0 for trial in left), default=0)
    if largest >= _LARGE:
        model = f"a model of {largest / 1e6:.0f} million parameters, its gradients and its activations"
        yield "memory", f"whether memory holds {model} once for each worker"
