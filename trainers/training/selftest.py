"""Tests what a problem promises, in seconds: determinism, purity, finite gradients, a frozen probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from trainers.problem import Problem
from trainers.seeding import seed_generators
from trainers.training.checkpoint import dump, load
from trainers.training.stepper import TRAINING, Stepper
from trainers.trees import first_difference, holds_nothing, map_tensors, tensors_of
from trainers.update.flat import flat_parameters, require_graph, require_reached
from trainers.update.rule import UpdateRule

__all__ = ["PROMISES", "Finding", "UntestableError", "examine", "require_examples"]

Build = Callable[[int], Problem]
"""From a seed to a newly built problem."""


class _Note(str):
    """What is worth knowing although a promise holds."""


_Found = str | tuple[str, str]
"""What was found in place of what was promised, and how to fix it if not as usual; empty, or a note, where it holds."""

_NO_EXAMPLE = (
    "give every step a full batch: steps go on beyond the first epoch, so take rows from step % steps_per_epoch"
)
_NO_PROBE = "give at least one batch of at least one example for every share: max(1, int(share * number of examples))"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One promise.

    Attributes:
        promise: What should hold.
        broken: What was found instead; empty where it holds, or where something was raised.
        fix: How to fix it.
        note: What is worth knowing although it holds.
        raised: What was raised while it was tested.
        untested: Why it could not be tested; empty where it was.
    """

    promise: str
    broken: str = ""
    fix: str = ""
    note: str = ""
    raised: BaseException | None = None
    untested: str = ""

    @property
    def holds(self) -> bool:
        """Whether the promise was tested and holds."""
        return not self.broken and not self.untested and self.raised is None


class UntestableError(Exception):
    """A promise cannot be tested because another is broken, as the text says."""


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """What the promises are tested with: how to build the problem, the seed, and what its probe is for."""

    build: Build
    seed: int
    shares: Sequence[float]
    draws: int = 1


def examine(build: Build, *, seed: int = 0, shares: Sequence[float] = (0.1,), draws: int = 1) -> Iterator[Finding]:
    """Test a problem's promises, one after the other.

    Args:
        build: Builds the problem from scratch for a seed.
        seed: The seed to test with; the next one serves as "another seed".
        shares: Shares of the training data for which there must be a probe.
        draws: How many probes of the first share there must be, without a sample in common.

    Yields:
        What was found, as soon as it is known; a promise whose test raises is broken, and the others are still tested.
    """
    tested = _Tested(build=build, seed=seed, shares=shares, draws=draws)
    for promise, fix, test in _PROMISES:
        try:
            found = test(tested)
        except UntestableError as why:
            yield Finding(promise=promise, untested=str(why))
            continue
        except BaseException as error:  # an exit, too, is what the problem did
            yield Finding(promise=promise, raised=error)
            continue
        if isinstance(found, _Note):
            yield Finding(promise=promise, note=str(found))
            continue
        broken, better = (found, fix) if isinstance(found, str) else found
        yield Finding(promise=promise, broken=broken, fix=better if broken else "")


def _same_weights(tested: _Tested) -> _Found:
    one, other = (flat_parameters(tested.build(tested.seed).model) for _ in range(2))
    if one.shape != other.shape:
        return f"{one.numel()} parameters the first time, {other.numel()} the second"
    return "" if torch.equal(one, other) else f"weights differ by up to {float((one - other).abs().max()):.3g}"


def _other_weights(tested: _Tested) -> _Found:
    one, other = (flat_parameters(tested.build(s).model) for s in (tested.seed, tested.seed + 1))
    same = one.shape == other.shape and torch.equal(one, other)
    return f"seeds {tested.seed} and {tested.seed + 1} start from the same weights" if same else ""


def _pure_batches(tested: _Tested) -> _Found:
    problem, fresh = tested.build(tested.seed), tested.build(tested.seed)
    steps = sorted({0, 1, 2, problem.steps_per_epoch - 1, problem.steps_per_epoch, 3 * problem.steps_per_epoch + 1})
    first = {step: map_tensors(Tensor.clone, problem.batch(step)) for step in steps}
    if empty := [step for step in steps if holds_nothing(first[step])]:
        return f"batch({empty[0]}) holds no example", _NO_EXAMPLE
    for step in reversed(steps):
        if difference := first_difference(first[step], problem.batch(step)):
            return f"batch({step}) returns a different batch when it is called again: {difference}"
        if difference := first_difference(first[step], fresh.batch(step)):
            return f"batch({step}) returns a different batch in a newly built problem: {difference}"
    return ""


def _finite(tested: _Tested) -> _Found:
    problem = tested.build(tested.seed)
    trained = [(name, p) for name, p in problem.model.named_parameters() if p.requires_grad]
    loss, _ = _loss_and_gradient(problem, tested.seed)
    if not torch.isfinite(loss):
        return f"the loss at the initial weights is {loss.item()}"
    now = dict(problem.model.named_parameters())
    if replaced := [name for name, p in trained if now.get(name) is not p]:
        return f"computing the loss replaces the parameter {replaced[0]}, so that what is trained is no longer used", (
            "register parameters in __init__, and compute other tensors from them in forward"
        )
    require_reached(any(p.grad is not None for _, p in trained))
    if untouched := [name for name, p in trained if p.grad is None]:
        return f"the loss does not depend on {untouched[0]}" + (
            f" and {len(untouched) - 1} more" if untouched[1:] else ""
        )
    if bad := [name for name, p in trained if p.grad is not None and not torch.isfinite(p.grad.to_dense()).all()]:
        return f"the gradient by {bad[0]} is not finite"
    if not any(bool(p.grad.to_dense().any()) for _, p in trained if p.grad is not None):
        return "the gradient is exactly zero"
    return ""


def _repeats(tested: _Tested) -> _Found:
    (one, slope), (other, again) = (_loss_and_gradient(tested.build(tested.seed), tested.seed) for _ in range(2))
    if first_difference(one, other):
        return f"the same weights and batch gave the losses {one.item()!r} and {other.item()!r}"
    return "" if not first_difference(slope, again) else "the same weights and batch gave two different gradients"


def _resumes(tested: _Tested) -> _Found:
    rule = UpdateRule(learning_rate=1e-3)
    problem = tested.build(tested.seed)
    require_examples(problem)
    whole = Stepper(problem, rule, total_steps=4, seed=tested.seed)
    for step in range(2):
        whole.take(step, keep_iterates=False)
    state = load(dump(whole.state(2, num_clipped=0, last_finite_loss=None)))
    resumed = Stepper(tested.build(tested.seed), rule, total_steps=4, seed=tested.seed)
    resumed.restore(state)
    for step in (2, 3):
        _, one = whole.take(step, keep_iterates=False)
        _, other = resumed.take(step, keep_iterates=False)
        if first_difference(one, other):
            return f"step {step} after a resume gave loss {other[0].item():.9g} in place of {one[0].item():.9g}"
    return ""


def _frozen_probe(tested: _Tested) -> _Found:
    problem, other_seed = tested.build(tested.seed), tested.build(tested.seed + 1)
    for share in tested.shares:
        batches = list(problem.probe(share))
        if not batches:
            return f"probe({share:g}) holds no batch, so there is nothing to measure on", _NO_PROBE
        if empty := [place for place, batch in enumerate(batches) if holds_nothing(batch)]:
            return f"batch {empty[0]} of probe({share:g}) holds no example, so nothing can be measured on it", _NO_PROBE
    share = tested.shares[0]
    batches = list(problem.probe(share))
    if difference := first_difference(batches, list(problem.probe(share))):
        return f"the probe is different when it is called again: {difference}"
    if difference := first_difference(batches, list(other_seed.probe(share))):
        return f"the probe depends on the seed, so seeds would be measured on different functions: {difference}"
    sizes = {tensor.shape for batch in batches for tensor in islice(tensors_of(batch), 1)}
    if len(sizes) > 1:
        return (
            f"probe batches of different sizes {sorted(map(tuple, sizes))}: their mean would not be a mean over samples"
        )
    for draw in range(1, tested.draws):
        drawn = list(problem.drawn_probe(share, draw))
        if difference := first_difference(drawn, list(other_seed.drawn_probe(share, draw))):
            return f"probe({share:g}, {draw}) depends on the seed: {difference}"
        if sizes != {tensor.shape for batch in drawn for tensor in islice(tensors_of(batch), 1)}:
            return f"the batches of probe({share:g}, {draw}) are of another size than those of probe({share:g})"
        if not first_difference(batches, drawn):
            return f"probe({share:g}, {draw}) has the samples of probe({share:g}): their spread would be 0"
    normalises = any(isinstance(module, _BatchNorm) for module in problem.model.modules())
    trained = {tensor.shape for tensor in islice(tensors_of(problem.batch(0)), 1)} if normalises else set()
    if sizes and trained and sizes != trained:
        (measured,), (stepped,) = (map(tuple, shapes) for shapes in (sizes, trained))
        return _Note(
            f"a batch of probe({share:g}) is {measured}, one of training {stepped}: batch normalisation makes f of "
            "another function than is trained, and of another one for every share; give batches of training's size"
        )
    return ""


def _evaluates(tested: _Tested) -> _Found:
    problem = tested.build(tested.seed)
    before = flat_parameters(problem.model)
    problem.model.eval()
    with torch.no_grad():
        metrics = problem.evaluate(problem.model)
        of_test: dict[str, float] = {} if problem.test is None else problem.test(problem.model)
    if twice := metrics.keys() & of_test.keys():
        return f"evaluate and test both return {min(twice)!r}", "rename that of evaluate: valid_loss, for example"
    if unknown := problem.metrics.keys() - metrics.keys() - of_test.keys():
        return f"metrics declares {min(unknown)!r}, which evaluate does not return; it returns {', '.join(metrics)}"
    if not torch.equal(before, flat_parameters(problem.model)):
        return "evaluating changed the weights"
    odd = [f"{name} is {value}" for name, value in {**metrics, **of_test}.items() if not math.isfinite(value)]
    return (
        _Note(f"{', '.join(odd)} at the initial weights; a report counts such values and ranks them last")
        if odd
        else ""
    )


_PROMISES: tuple[tuple[str, str, Callable[[_Tested], _Found]], ...] = (
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

PROMISES = tuple(promise for promise, _, _ in _PROMISES)
"""What :func:`examine` tests, in order."""


def _loss_and_gradient(problem: Problem, seed: int) -> tuple[Tensor, Tensor]:
    """Loss of batch 0 at the initial weights, and its flat gradient."""
    require_examples(problem)
    parameters = list(problem.model.parameters())
    seed_generators(parameters[0].device, seed, 0, TRAINING)
    problem.model.train()
    loss, _ = problem.loss(problem.model, problem.batch(0), problem.initial_carry())
    require_graph(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    slopes = [p.grad.to_dense().reshape(-1) for p in parameters if p.grad is not None]
    return loss.detach(), torch.cat(slopes) if slopes else torch.zeros(0)


def require_examples(problem: Problem) -> None:
    """Require that there is something to compute a loss of.

    Args:
        problem: The problem.

    Raises:
        UntestableError: The first batch is empty, which another promise says.
    """
    if holds_nothing(problem.batch(0)):
        raise UntestableError("batch(0) holds no example")
