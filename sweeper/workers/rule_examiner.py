"""The worker that examines schedules and transforms of the user's own, for ``clipsweep check``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweeper.blame import Shipped
from sweeper.workers.findings import Told, finding_row
from sweeper.workers.process_state import OwnState
from sweeper.workers.worker import import_all
from trainers.problems import build_problem
from trainers.training.checkpoint import dump, load
from trainers.training.selftest import Finding
from trainers.training.stepper import Stepper
from trainers.trees import first_difference
from trainers.update.own import OwnSchedule, OwnTransform, own_schedule, own_transform
from trainers.update.rule import UpdateRule
from trainers.update.transforms import Direction

__all__ = ["check_schedule", "check_transform"]

_IMPORTABLE = "a worker can import and build it from what is shipped"
_RESUMES = "a resumed trial continues bit for bit"
_MOST_STEPS = 1000

_Found = tuple[str, str, str]
"""What is broken, how to mend it, and what is worth knowing although nothing is."""

_HOLDS: _Found = ("", "", "")


def check_schedule(
    *, section: Mapping[str, Any], shipped: Sequence[str] | None, threads: int, steps: int
) -> Iterator[dict[str, Any]]:
    """Test every promise of a schedule.

    Args:
        section: ``use`` and the options.
        shipped: The folder that its code is imported from, and the one that it came from.
        threads: Threads of each numerical kernel.
        steps: Number of steps of a trial.

    Yields:
        As :func:`~sweeper.workers.examiner.check_problem`: first the promises, then what was found of each.
    """
    make = partial(own_schedule, section, search=_search(shipped))
    tests = {
        "every factor is a number, finite and not negative": lambda: _factors(make, steps),
        "the factor is a pure function of the step and the number of steps": lambda: _pure_factors(make, steps),
        _RESUMES: lambda: _resumes(lambda: UpdateRule(learning_rate=1e-3, schedule=make())),
    }
    yield from _examined(section["use"], "schedule", make, tests, shipped, threads)


def check_transform(
    *, section: Mapping[str, Any], shipped: Sequence[str] | None, threads: int
) -> Iterator[dict[str, Any]]:
    """Test every promise of a transform, and tell its law of scale.

    Args:
        section: ``use`` and the options.
        shipped: As for :func:`check_schedule`.
        threads: As there.

    Yields:
        As there.
    """
    make = partial(own_transform, section, search=_search(shipped))
    tests = {
        "what it leaves behind is finite, also of a gradient of zeros": lambda: _finite(make()),
        "its scale is 1 exactly where it changes nothing, and nowhere else": lambda: _identity(make()),
        "its scale is the factor by which the norm changed": lambda: _scale(make()),
        "it is a pure function of the direction and the parameters": lambda: _pure_transform(make),
        _RESUMES: lambda: _resumes(lambda: UpdateRule(learning_rate=1e-3, own_transform=make())),
    }
    yield from _examined(section["use"], "transform", make, tests, shipped, threads)


def _search(shipped: Sequence[str] | None) -> tuple[str, ...]:
    return () if shipped is None else (shipped[0],)


def _examined(
    use: str,
    kind: str,
    make: Callable[[], object],
    tests: Mapping[str, Callable[[], _Found]],
    shipped: Sequence[str] | None,
    threads: int,
) -> Iterator[dict[str, Any]]:
    """First whether it can be made, then every test, each with the process as it was before."""
    torch.set_num_threads(threads)
    folders = None if shipped is None else Shipped(folder=Path(shipped[0]), origin=Path(shipped[1]))
    own, told = OwnState(), Told()

    def imported() -> _Found:
        make()
        return _HOLDS

    yield {"promises": [_IMPORTABLE, *tests]}
    is_made = True
    for promise, test in {_IMPORTABLE: imported, **tests}.items():
        if not is_made:
            yield finding_row(Finding(promise=promise, untested="it cannot be built"), folders, told)
            continue
        try:
            if promise == _IMPORTABLE:
                import_all(own, {use: kind}, _search(shipped))
            with own.whole(keep=False), own.in_force(keep=False):
                broken, fix, note = test()
            finding = Finding(promise=promise, broken=broken, fix=fix, note=note)
        except BaseException as error:  # an exit, too, is what the code did
            finding = Finding(promise=promise, raised=error)
            is_made = promise != _IMPORTABLE
        yield finding_row(finding, folders, told)


# Schedules


def _steps_of(steps: int) -> list[int]:
    """All steps, or a thousand of them with the first and the last."""
    if steps <= _MOST_STEPS:
        return list(range(steps))
    return sorted({round(at * (steps - 1) / (_MOST_STEPS - 1)) for at in range(_MOST_STEPS)})


def _factors(make: Callable[[], OwnSchedule], steps: int) -> _Found:
    schedule = make()
    factors = [schedule(step, steps) for step in _steps_of(steps)]  # which tests each of them
    if not any(factors):
        return f"it is 0 at every step of {steps}, so that nothing is trained", "return 1 where the rate is eta", ""
    return "", "", f"from {factors[0]:g} at the first step to {factors[-1]:g} at the last, {max(factors):g} at most"


_PURE = "compute it from its arguments alone: a trial is resumed in another process, at any step"


def _pure_factors(make: Callable[[], OwnSchedule], steps: int) -> _Found:
    schedule, fresh = make(), make()
    places = _steps_of(steps)
    first = {step: schedule(step, steps) for step in places}
    before = torch.get_rng_state()
    for step in reversed(places):
        for again, words in ((schedule, "asked again"), (fresh, "newly made")):
            if (factor := again(step, steps)) != first[step]:
                return f"step {step} has the factor {first[step]:g}, and {factor:g} when it is {words}", _PURE, ""
    if not torch.equal(before, torch.get_rng_state()):
        return "it draws random numbers, which training needs for itself", _PURE, ""
    return _HOLDS


# Transforms

_MAGNITUDES = (0.0, 1e-6, 1e-2, 1.0, 1e2, 1e5)
_SHAPES = ((5, 3), (3,), (), (2, 3, 2))


def _direction(magnitude: float) -> Direction:
    """A made-up gradient of some norm, of several parameters."""
    draws = torch.Generator().manual_seed(0)
    sizes = [math.prod(shape) for shape in _SHAPES]
    vector, values = (torch.randn(sum(sizes), generator=draws) for _ in range(2))
    vector *= magnitude / vector.norm()

    def parts(whole: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(torch.split(whole, sizes), _SHAPES, strict=True)]

    return Direction(vector=vector, norm=vector.norm(), views=parts(vector), parameters=parts(values))


def _applied(transform: OwnTransform, magnitude: float) -> tuple[Tensor, Tensor, float]:
    """The vector before and after, and the scale."""
    direction = _direction(magnitude)
    before = direction.vector.clone()
    torch.manual_seed(0)
    with torch.no_grad():
        scale = transform(direction)
    return before, direction.vector, float(scale)


def _finite(transform: OwnTransform) -> _Found:
    for magnitude in _MAGNITUDES:
        _, after, scale = _applied(transform, magnitude)
        if not torch.isfinite(after).all() or not math.isfinite(scale):
            what = "zeros" if magnitude == 0 else f"norm {magnitude:g}"
            found = f"a gradient of {what} becomes one of norm {float(after.norm()):g}, with the scale {scale:g}"
            return found, "divide by no norm that may be 0: add an offset, or clamp it", ""
    return _HOLDS


def _identity(transform: OwnTransform) -> _Found:
    fix = "return exactly 1 where the vector is left as it is, and what the norm is multiplied by elsewhere"
    for magnitude in _MAGNITUDES[1:]:
        before, after, scale = _applied(transform, magnitude)
        if (scale == 1) != torch.equal(before, after):
            what = "a gradient is changed" if scale == 1 else "a gradient is left as it is"
            return f"{what} at norm {magnitude:g}, but the scale is {scale:.9g}", fix, ""
    return _HOLDS


def _scale(transform: OwnTransform) -> _Found:
    outcomes = {}
    for magnitude in _MAGNITUDES[1:]:
        before, after, scale = _applied(transform, magnitude)
        ratio = float(after.norm() / before.norm())
        if not math.isclose(scale, ratio, rel_tol=1e-3, abs_tol=1e-6):
            found = f"at norm {magnitude:g} the norm is multiplied by {ratio:.6g}, but the scale is {scale:.6g}"
            return found, "return the norm after over the norm before: the column step_size is made of it", ""
        outcomes[magnitude] = after
    return "", "", _law(outcomes)


def _law(outcomes: Mapping[float, Tensor]) -> str:
    """How the outcome goes with the norm of the gradient, in words."""
    per_norm = [after / magnitude for magnitude, after in outcomes.items()]
    if all(torch.allclose(per_norm[0], other, rtol=1e-4, atol=1e-7) for other in per_norm[1:]):
        return "it commutes with scaling: a gradient c times as long gives c times the step"
    whole = list(outcomes.values())
    if all(torch.allclose(whole[0], other, rtol=1e-4, atol=1e-7) for other in whole[1:]):
        return "it does not commute with scaling: a gradient c times as long gives the same step"
    return "it does not commute with scaling: it has a threshold or an offset, in the units of the gradient"


def _pure_transform(make: Callable[[], OwnTransform]) -> _Found:
    transform, fresh = make(), make()
    first = {magnitude: _applied(transform, magnitude)[1:] for magnitude in _MAGNITUDES}
    for magnitude in reversed(_MAGNITUDES):
        for again, words in ((transform, "the second time"), (fresh, "newly made")):
            if first_difference(first[magnitude][0], _applied(again, magnitude)[1]):
                found = f"a gradient of norm {magnitude:g} becomes another one when it is {words}"
                found = found.replace("when it is the second", "the second")
                fix = "keep nothing from one call to the next: a trial is resumed in another process"
                return found, fix, ""
    direction = _direction(1.0)
    held = [parameter.clone() for parameter in direction.parameters]
    with torch.no_grad():
        transform(direction)
    if first_difference(held, list(direction.parameters)):
        return "it changes the parameters", "change direction.vector, or its views, alone", ""
    return _HOLDS


# Both


def _resumes(rule: Callable[[], UpdateRule]) -> _Found:
    """Whether four steps are the same with and without a checkpoint amid them, on a small problem of clipsweep's."""

    def stepper() -> Stepper:
        problem = build_problem("deep_linear", {"width": 3, "noise": 0.1, "batch_size": 16}, seed=0)
        return Stepper(problem, rule(), total_steps=4, seed=0)

    whole = stepper()
    for step in range(2):
        whole.take(step)
    state = load(dump(whole.state(2, num_clipped=0, last_finite_loss=None)))
    resumed = stepper()
    resumed.restore(state)
    for step in (2, 3):
        (_, one), (_, other) = whole.take(step), resumed.take(step)
        if first_difference(one, other):
            found = f"step {step} after a resume gave an update of norm {float(other[3]):.9g} in place of "
            return found + f"{float(one[3]):.9g}", _PURE, ""
    return _HOLDS
