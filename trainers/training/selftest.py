"""Tests what a problem promises, in seconds: determinism, purity, finite gradients, a frozen probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.problem import Problem
from trainers.seeding import seed_generators
from trainers.training.checkpoint import dump, load
from trainers.training.stepper import Stepper
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule

__all__ = ["Finding", "examine"]

Build = Callable[[int], Problem]
"""From a seed to a newly built problem."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One promise.

    Attributes:
        promise: What should hold.
        broken: What was found instead; empty where it holds.
        fix: How to fix it.
        note: What is worth knowing although it holds.
    """

    promise: str
    broken: str = ""
    fix: str = ""
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the promise holds."""
        return not self.broken


def examine(build: Build, *, seed: int = 0, fraction: float = 0.1) -> Iterator[Finding]:
    """Test a problem's promises, one after the other.

    Args:
        build: Builds the problem from scratch for a seed.
        seed: The seed to test with; the next one serves as "another seed".
        fraction: Share of the training data in the probe.

    Yields:
        What was found, as soon as it is known; a promise whose test raises is broken, and the others are still tested.
    """
    for promise, fix, test in _PROMISES:
        try:
            broken = test(build, seed, fraction)
        except Exception as error:
            broken = f"raised {type(error).__name__}: {error}"
        yield Finding(promise=promise, broken=broken, fix=fix if broken else "")


def _same_weights(build: Build, seed: int, fraction: float) -> str:
    one, other = (flat_parameters(build(seed).model) for _ in range(2))
    if one.shape != other.shape:
        return f"{one.numel()} parameters the first time, {other.numel()} the second"
    return "" if torch.equal(one, other) else f"weights differ by up to {float((one - other).abs().max()):.3g}"


def _other_weights(build: Build, seed: int, fraction: float) -> str:
    one, other = (flat_parameters(build(s).model) for s in (seed, seed + 1))
    same = one.shape == other.shape and torch.equal(one, other)
    return f"seeds {seed} and {seed + 1} start from the same weights" if same else ""


def _pure_batches(build: Build, seed: int, fraction: float) -> str:
    problem, fresh = build(seed), build(seed)
    steps = sorted({0, 1, 2, problem.steps_per_epoch - 1, problem.steps_per_epoch, 3 * problem.steps_per_epoch + 1})
    first = {step: problem.batch(step) for step in steps}
    for step in reversed(steps):
        if not _equal(first[step], problem.batch(step)):
            return f"batch({step}) returns a different batch when it is called again"
        if not _equal(first[step], fresh.batch(step)):
            return f"batch({step}) returns a different batch in a newly built problem"
    return ""


def _finite(build: Build, seed: int, fraction: float) -> str:
    problem = build(seed)
    loss, _ = _loss_and_gradient(problem, seed)
    if not torch.isfinite(loss):
        return f"the loss at the initial weights is {loss.item()}"
    trained = [(name, p) for name, p in problem.model.named_parameters() if p.requires_grad]
    if untouched := [name for name, p in trained if p.grad is None]:
        return f"the loss does not depend on {untouched[0]}" + (
            f" and {len(untouched) - 1} more" if untouched[1:] else ""
        )
    if bad := [name for name, p in trained if p.grad is not None and not torch.isfinite(p.grad).all()]:
        return f"the gradient by {bad[0]} is not finite"
    if not any(bool(p.grad.any()) for _, p in trained if p.grad is not None):
        return "the gradient is exactly zero"
    return ""


def _repeats(build: Build, seed: int, fraction: float) -> str:
    (one, slope), (other, again) = (_loss_and_gradient(build(seed), seed) for _ in range(2))
    if not torch.equal(one, other):
        return f"the same weights and batch gave the losses {one.item()!r} and {other.item()!r}"
    return "" if torch.equal(slope, again) else "the same weights and batch gave two different gradients"


def _resumes(build: Build, seed: int, fraction: float) -> str:
    rule = UpdateRule(learning_rate=1e-3)
    whole = Stepper(build(seed), rule, total_steps=4, seed=seed)
    for step in range(2):
        whole.take(step, keep_iterates=False)
    state = load(dump(whole.state(2, num_clipped=0, last_finite_loss=None)))
    resumed = Stepper(build(seed), rule, total_steps=4, seed=seed)
    resumed.restore(state)
    for step in (2, 3):
        _, one = whole.take(step, keep_iterates=False)
        _, other = resumed.take(step, keep_iterates=False)
        if not torch.equal(one, other):
            return f"step {step} after a resume gave loss {other[0].item():.9g} in place of {one[0].item():.9g}"
    return ""


def _frozen_probe(build: Build, seed: int, fraction: float) -> str:
    problem, other_seed = build(seed), build(seed + 1)
    batches = list(problem.probe(fraction))
    if not batches:
        return f"probe({fraction:g}) holds no batch"
    if not _equal(batches, list(problem.probe(fraction))):
        return "the probe is different when it is called again"
    if not _equal(batches, list(other_seed.probe(fraction))):
        return "the probe depends on the seed, so different seeds would be measured on different functions"
    sizes = {_first_tensor(batch).shape for batch in batches}
    if len(sizes) > 1:
        return (
            f"probe batches of different sizes {sorted(map(tuple, sizes))}: their mean would not be a mean over samples"
        )
    return ""


def _evaluates(build: Build, seed: int, fraction: float) -> str:
    problem = build(seed)
    before = flat_parameters(problem.model)
    problem.model.eval()
    with torch.no_grad():
        metrics = problem.evaluate(problem.model)
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(float(value), float):
            return f"metric {name!r} is not a number with a name"
    if unknown := problem.metrics.keys() - metrics.keys():
        return f"metrics declares {min(unknown)!r}, which evaluate does not return; it returns {', '.join(metrics)}"
    return "" if torch.equal(before, flat_parameters(problem.model)) else "evaluating changed the weights"


_PROMISES: tuple[tuple[str, str, Callable[[Build, int, float], str]], ...] = (
    (
        "the same seed gives the same initial weights",
        "draw weights from torch's global generator, seeded before the factory runs, or from one made with `seed`",
        _same_weights,
    ),
    (
        "another seed gives other weights",
        "do not seed inside the factory with a number of your own",
        _other_weights,
    ),
    (
        "batch(step) is a pure function of the step",
        "take indices from the step and from a generator made with (seed, epoch), never from an iterator's state",
        _pure_batches,
    ),
    (
        "loss and gradient are finite at the initial weights",
        "look at the data's scale and the initialisation; requires_grad_(False) for parameters that are not used",
        _finite,
    ),
    (
        "the same weights and batch give the same loss and gradient",
        "randomness in the loss must come from torch's global generators, which are seeded with (seed, step) before it",
        _repeats,
    ),
    (
        "a resumed trial continues bit for bit",
        "keep what one step passes to the next in the carry, not in attributes of the model or in closures",
        _resumes,
    ),
    (
        "the probe is frozen, and its batches all have the same size",
        "choose its samples from the data alone, and drop a last smaller batch",
        _frozen_probe,
    ),
    (
        "evaluating gives numbers and changes nothing",
        "return a dict of name to float, and do not train in evaluate",
        _evaluates,
    ),
)


def _loss_and_gradient(problem: Problem, seed: int) -> tuple[Tensor, Tensor]:
    """Loss of batch 0 at the initial weights, and its flat gradient."""
    seed_generators(torch.device("cpu"), seed, 0, 0)
    problem.model.train()
    loss, _ = problem.loss(problem.model, problem.batch(0), problem.initial_carry())
    loss.backward()  # type: ignore[no-untyped-call]
    slopes = [p.grad.reshape(-1) for p in problem.model.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(slopes) if slopes else torch.zeros(0)


def _equal(one: Any, other: Any) -> bool:
    """Whether two trees of tensors are equal bit for bit."""
    if isinstance(one, Tensor):
        return (
            isinstance(other, Tensor)
            and one.shape == other.shape
            and one.dtype == other.dtype
            and torch.equal(one, other)
        )
    if isinstance(one, tuple | list):
        return isinstance(other, tuple | list) and len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    return bool(one == other)


def _first_tensor(tree: Any) -> Tensor:
    if isinstance(tree, Tensor):
        return tree
    parts = tree.values() if isinstance(tree, dict) else tree
    return _first_tensor(next(iter(parts)))
