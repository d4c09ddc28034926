"""The worker that examines problems, for ``clipsweep check`` and ``null-test``: it runs in a process of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from estimators import ESTIMATORS, NEED_HESSIAN, NEED_STEP, NullTest, Probe, null_test
from estimators.probe.copies import UnfaithfulCopyError
from estimators.probe.copy_test import FIX
from estimators.probe.repeats import DRAWS
from estimators.probe.second_derivatives import SecondDerivativeError
from sweeper.blame import Shipped, line_of, remedy
from sweeper.errors import error_line, left_advice
from sweeper.labels import counted
from sweeper.workers.device import Device
from sweeper.workers.estimator import build_probe
from sweeper.workers.findings import Told, finding_row
from sweeper.workers.own_estimators import measure_own, own_estimator
from sweeper.workers.process_state import OwnState
from sweeper.workers.step_facts import facts_of, step_options
from sweeper.workers.worker import import_all, is_users, update_rule_of
from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.one_device import DeviceMismatchError, dry_run
from trainers.training.selftest import PROMISES, Finding, UntestableError, examine, require_examples
from trainers.training.stepper import Stepper
from trainers.trees import first_difference, holds_nothing
from trainers.update.clip_groups import matched
from trainers.update.flat import flat_parameters, parameter_shapes

__all__ = ["check_problem", "null_test_problem"]

_SLOW_S = 120

_PROBE_BATCHES = 2
"""Of the probe, for a check in seconds: an estimator that cannot measure these cannot measure all."""


@dataclass(frozen=True, kw_only=True)
class _Code:
    """A problem and its code, as a worker has it."""

    problem: Mapping[str, Any]
    shipped: Shipped | None
    estimators: tuple[str, ...] = ()
    folder: str | None = None
    device: str = "cpu"

    @property
    def search(self) -> tuple[str, ...]:
        return () if self.folder is None else (self.folder,)

    def load(self, own: OwnState) -> None:
        """Import the user's modules, if there are any, and note what that sets."""
        uses = {self.problem["use"]: "problem"} if is_users(self.problem) else {}
        import_all(own, uses | dict.fromkeys(self.estimators, "estimator"), self.search)

    @contextmanager
    def in_force(self, own: OwnState) -> Iterator[None]:
        """As an attempt of its own: with what the import has set, and without what was set before."""
        with own.whole(keep=False), own.in_force(keep=False):
            yield

    def build(self, seed: int, device: str | None = None) -> Problem:
        options = {key: value for key, value in self.problem.items() if key != "use"}
        return build_problem(self.problem["use"], options, seed=seed, device=device or self.device, search=self.search)


def _code(
    problem: Mapping[str, Any],
    shipped: Sequence[str] | None,
    measure: Mapping[str, Any] | None = None,
    folder: str | None = None,
    device: str = "cpu",
) -> _Code:
    Device(name=device).prepare()
    folders = None if shipped is None else Shipped(folder=Path(shipped[0]), origin=Path(shipped[1]))
    entries = measure["estimators"] if measure is not None and folder is not None else ()
    uses = tuple(entry["use"] for entry in entries if is_users(entry))
    return _Code(
        problem=problem,
        shipped=folders,
        estimators=uses,
        folder=folder or (None if shipped is None else shipped[0]),
        device=device,
    )


# clipsweep check


def check_problem(
    *,
    problem: Mapping[str, Any],
    shipped: Sequence[str] | None,
    seed: int,
    threads: int,
    rule: Mapping[str, Any],
    clip_groups: Sequence[Sequence[Mapping[str, Any]]],
    steps: int,
    accumulate: int,
    measure: Mapping[str, Any] | None,
    arithmetic: str = "ieee",
    folder: str | None = None,
    device: str = "cpu",
    gpu: bool = False,
) -> Iterator[dict[str, Any]]:
    """Test every promise of a problem.

    Args:
        problem: The resolved section.
        shipped: The folder that its own code is imported from, and the one that it came from; None for none.
        seed: The seed to test with.
        threads: Threads of each numerical kernel.
        rule: The update rule of the step that is measured.
        clip_groups: The groups of parameters by which its trials are clipped, each list of them once.
        steps: Number of steps of a trial.
        accumulate: Number of batches in a step.
        measure: The resolved measure section; None where nothing is measured.
        arithmetic: What a step computes float32 by.
        folder: The folder that all of the user's own code is imported from; None for none.
        device: Where model and batches are.
        gpu: Whether it is to be trained on a GPU.

    Yields:
        First ``promises``, all of them in order, then for each of them what was found: ``status`` (``ok``, ``broken``
        or ``untested``), ``broken``, ``line``, ``fix``, ``note`` and ``untested``. An error that breaks several is
        told once; the others are untested because of it.
    """
    torch.set_num_threads(threads)
    code = _code(problem, shipped, measure, folder, device)
    own = OwnState()
    estimators = [] if measure is None else measure["estimators"]
    measured = [f"a snapshot can be measured: {entry['use']}" for entry in estimators]
    function = [] if measure is None else [_FUNCTION]
    grouped = [_GROUPED] if clip_groups else []
    on_gpu = [_ON_GPU] if gpu else []
    yield {"promises": [_IMPORTABLE, *grouped, *PROMISES, *on_gpu, *function, *measured]}
    told = Told()
    first = _importable(code, own, seed)
    yield finding_row(first, code.shipped, told)
    if first.raised is not None:
        for promise in (*grouped, *PROMISES, *on_gpu, *function, *measured):
            yield finding_row(Finding(promise=promise, untested="it cannot be built"), code.shipped, told)
        return
    if clip_groups:
        with code.in_force(own):
            matches = _grouped(code, clip_groups, seed=seed)
        yield finding_row(matches, code.shipped, told)
    share = 0.1 if measure is None else measure["data_fraction"]
    shares = [share] if measure is None else [share, share * measure["audit"]["share"]]
    findings = examine(code.build, seed=seed, shares=shares, draws=1 if measure is None else measure.get("probes", 1))
    while True:
        with code.in_force(own):
            finding = next(findings, None)
        if finding is None:
            break
        yield finding_row(finding, code.shipped, told)
    if gpu:
        with code.in_force(own):
            moved = _on_gpu(code, rule, accumulate=accumulate, seed=seed)
        yield finding_row(moved, code.shipped, told)
    if measure is None:
        return
    with code.in_force(own):
        of_f = _is_function(code, measure, seed=seed)
    yield finding_row(of_f, code.shipped, told)
    wrong_hessian = False
    for promise, entry in zip(measured, estimators, strict=True):
        try:
            if of_f.broken:
                raise UntestableError("what would be measured is not a function of the parameters")
            with code.in_force(own):
                finding = _measured(
                    code, rule, measure, entry, steps=steps, accumulate=accumulate, arithmetic=arithmetic, seed=seed
                )
        except UntestableError as why:
            finding = Finding(promise=promise, untested=str(why))
        except SecondDerivativeError as error:
            finding = Finding(promise=promise, untested="its Hessian-vector products are wrong in the same way")
            if not wrong_hessian:
                finding = Finding(promise=promise, broken=str(error))
            wrong_hessian = True
        except BaseException as error:  # an exit, too, is what the problem did
            fix = "try it with the estimator's other options, or leave it out; `clipsweep null-test` says more"
            finding = Finding(promise=promise, raised=error, fix=fix)
        yield finding_row(replace(finding, promise=promise), code.shipped, told)


_IMPORTABLE = "a worker can import and build it from what is shipped"


def _importable(code: _Code, own: OwnState, seed: int) -> Finding:
    """Whether a process that has only what is shipped can build the problem."""
    started = time.monotonic()
    try:
        code.load(own)
        with code.in_force(own):
            code.build(seed)
    except BaseException as error:
        return Finding(promise=_IMPORTABLE, raised=error)
    took = time.monotonic() - started
    if took > _SLOW_S:
        fix = "load less in the factory: every attempt of every trial calls it"
        return Finding(promise=_IMPORTABLE, broken=f"building took {took:.0f} s", fix=fix)
    note = "" if own.left_behind is None else f"but it {left_advice(own.left_behind)}"
    return Finding(promise=_IMPORTABLE, note=note)


_GROUPED = "every pattern of clip_groups matches a parameter"


def _grouped(code: _Code, clip_groups: Sequence[Sequence[Mapping[str, Any]]], *, seed: int) -> Finding:
    """Whether every trial finds the parameters that it is to clip."""
    names = [name for name, _ in parameter_shapes(code.build(seed).model)]
    for groups in clip_groups:
        try:
            matched([group["match"] for group in groups], names)
        except TrainerError as error:
            return Finding(promise=_GROUPED, broken=str(error), fix="correct the pattern in update_rule.clip_groups")
    return Finding(promise=_GROUPED)


_ON_GPU = "a step and its metrics find all tensors on the trainer's device (tried without a GPU, on shapes alone)"

_MOVE = (
    "take `device` as an argument of the factory and move the data there, data.to(device); tensors of the model are "
    "its parameters, or buffers by register_buffer"
)


def _on_gpu(code: _Code, rule: Mapping[str, Any], *, accumulate: int, seed: int) -> Finding:
    """Whether it could be trained on a GPU."""
    try:
        followed = update_rule_of(rule, code.search)
        found = dry_run(partial(code.build, seed, "meta"), followed, seed=seed, batches_per_step=accumulate)
    except DeviceMismatchError as error:
        line = line_of(error, code.shipped)
        where = "" if line is None else f" ({line})"
        return Finding(promise=_ON_GPU, broken=f"{error}{where}", fix=_MOVE)
    except BaseException as error:  # an exit, too, is what the problem did
        return Finding(promise=_ON_GPU, raised=error)
    notes = [found.unseen] if found.unseen else []
    if found.reads:
        notes.append(f"a step reads {counted(found.reads, 'value')}, for each of which a GPU is waited for")
    return Finding(promise=_ON_GPU, note="; ".join(notes))


_FUNCTION = "what is measured is a function of the parameters alone, also in a copy of the model"


def _is_function(code: _Code, measure: Mapping[str, Any], *, seed: int) -> Finding:
    """Whether f is the same again at the same parameters, and on a copy of the model what it is on the model."""
    try:
        probe = build_probe(_small(code, measure, seed), measure)
        found = _compared(probe)
    except UntestableError as why:
        return Finding(promise=_FUNCTION, untested=str(why))
    except UnfaithfulCopyError as error:
        return Finding(promise=_FUNCTION, broken=str(error))
    except BaseException as error:  # an exit, too, is what the problem did
        return Finding(promise=_FUNCTION, raised=error)
    return replace(found, promise=_FUNCTION)


def _compared(probe: Probe) -> Finding:
    """What evaluating f twice, and on the model itself, says."""
    point = flat_parameters(probe.model)
    probe.settle(point)
    before = torch.get_rng_state()
    (value, slope), (other, again) = (probe.gradient.value_and_gradient(point) for _ in range(2))
    if difference := first_difference((torch.tensor(value), slope), (torch.tensor(other), again)):
        broken = f"the same parameters gave the losses {value!r} and {other!r}"
        if value == other:
            broken = f"the same parameters gave two gradients: {difference}"
        return Finding(promise="", broken=broken, fix=DRAWS)
    if not torch.equal(before, torch.get_rng_state()):
        return Finding(promise="", broken="evaluating the loss without dropout draws random numbers", fix=DRAWS)
    test = probe.compare_copy()
    return Finding(promise="", broken=test.words, fix=FIX if test.differs else "")


def _small(code: _Code, measure: Mapping[str, Any], seed: int) -> Problem:
    """A newly built problem with few batches in its probe."""
    probed = code.build(seed)
    small = list(islice(probed.probe(measure["data_fraction"]), _PROBE_BATCHES))
    if not small or any(map(holds_nothing, small)):
        raise UntestableError("the probe holds no example")
    return replace(probed, probe=lambda share: small)


def _measured(
    code: _Code,
    rule: Mapping[str, Any],
    measure: Mapping[str, Any],
    entry: Mapping[str, Any],
    *,
    steps: int,
    accumulate: int,
    arithmetic: str,
    seed: int,
) -> Finding:
    """Whether a snapshot of the sweep's first step can be measured by an estimator; the promise is left empty."""
    options = {key: value for key, value in entry.items() if key != "use"}
    trained = code.build(seed)
    require_examples(trained)
    probed = _small(code, measure, seed)
    followed = update_rule_of(rule, code.search)
    wanted = NEED_STEP.get(entry["use"], ())
    keeps = "preconditioner" in wanted
    stepper = Stepper(
        trained,
        followed,
        total_steps=steps,
        seed=seed,
        keep_preconditioner=keeps,
        batches_per_step=accumulate,
        arithmetic=arithmetic,
    )
    learning_rate, scalars = stepper.take(0, keep_iterates=True)
    assert stepper.iterates is not None
    payload = torch.from_numpy(stepper.iterates).to(code.device)
    facts = {"learning_rate": learning_rate, "batches_per_step": accumulate, **facts_of(followed)}
    options |= step_options(wanted, facts, payload)
    probe = build_probe(probed, measure)
    if is_users(entry):
        return _measured_by_own(entry, probe, payload[:2], code.search)
    row = ESTIMATORS[entry["use"]](probe, payload[:2], **options)
    slope, trained_slope = float(row["grad_norm"]), float(scalars[1])
    if slope == 0 and trained_slope > 0:
        return Finding(
            promise="",
            broken=f"its gradient is exactly 0, where that of training is {trained_slope:.3g}",
            fix="look at where the loss is flat: nothing measured there says anything about training",
        )
    if not math.isfinite(slope):
        return Finding(
            promise="",
            broken=f"the norm of its gradient is {slope} at the initial weights, that of training {trained_slope:.3g}",
            fix="look at the batches that probe returns, their values and their scale",
        )
    if probe.unaudited is None:
        return Finding(promise="")
    unaudited = (
        "without a float64 audit, so that rows say `unaudited`: the loss uses data that does not come through its batch"
    )
    return Finding(promise="", note=f"{unaudited} ({error_line(probe.unaudited)})")


def _measured_by_own(entry: Mapping[str, Any], probe: Probe, iterates: torch.Tensor, search: Sequence[str]) -> Finding:
    """Whether an estimator of the user's own says numbers, and the same when it is asked again."""
    use = entry["use"]
    made = {use: own_estimator(entry, search=search)}
    rows = []
    for _ in range(2):
        row, errors = measure_own(made, [entry], probe, iterates)
        if use in errors:
            raise errors[use]
        rows.append(row)
    # As text, in which nan equals nan.
    if repr(rows[0]) != repr(rows[1]):
        return Finding(
            promise="",
            broken=f"it says {rows[0]} of a snapshot, and {rows[1]} of the same one when it is asked again",
            fix="draw from a generator with a seed of its own, and keep nothing from one snapshot to the next",
        )
    return Finding(promise="")


# clipsweep null-test


_NUMBERS = ("again", "rebuilt", "hessian", "copied", "grad_norm")


def null_test_problem(
    *,
    problem: Mapping[str, Any],
    shipped: Sequence[str] | None,
    seed: int,
    threads: int,
    measure: Mapping[str, Any],
    device: str = "cpu",
) -> Iterator[dict[str, Any]]:
    """The null test of one problem at its initial weights.

    Args:
        problem: As for :func:`check_problem`; so are ``shipped``, ``seed`` and ``threads``.
        shipped: See there.
        seed: See there.
        threads: See there.
        measure: The resolved measure section.
        device: Where model and batches are.

    Yields:
        One row: ``passed``, ``verdict`` and the differences, null where the problem raised or f is not finite.
    """
    torch.set_num_threads(threads)
    code = _code(problem, shipped, device=device)
    build, own = partial(code.build, seed), OwnState()
    try:
        code.load(own)
        with code.in_force(own):
            second = any(entry["use"] in NEED_HESSIAN for entry in measure["estimators"])
            point = flat_parameters(build().model)
            found = null_test(lambda: build_probe(build(), measure), point, second=second)
    except BaseException as error:
        if code.shipped is None and not isinstance(error, TrainerError):
            raise
        line = line_of(error, code.shipped)
        verdict = f"raised {error_line(error)}" + (f" ({line})" if line is not None else "")
        fix = remedy(error)
        yield {"passed": False, "verdict": f"{verdict}; {fix}" if fix else verdict, **dict.fromkeys(_NUMBERS)}
        return
    if not all(math.isfinite(getattr(found, name)) for name in _NUMBERS):
        verdict = "the gradient of f is not finite at the initial weights; `clipsweep check` looks for the reason"
        yield {"passed": False, "verdict": verdict, **dict.fromkeys(_NUMBERS)}
        return
    if found.grad_norm == 0 and found.passed:
        verdict = (
            "the gradient of f is exactly 0 at the initial weights, so nothing is told by it; `clipsweep check` looks "
            "for the reason"
        )
        yield {"passed": False, "verdict": verdict} | {name: getattr(found, name) for name in _NUMBERS}
        return
    yield {"passed": found.passed, "verdict": _verdict(found)} | {name: getattr(found, name) for name in _NUMBERS}


def _verdict(found: NullTest) -> str:
    if found.passed:
        return f"the same weights twice differ by 0, of a gradient of {found.grad_norm:.4g}"
    if found.again == 0 and found.generator and found.copy_test.differs:
        return found.diagnosis
    if found.diagnosis == found.second_test.words:
        return found.diagnosis
    worst = max(found.again, found.rebuilt, found.hessian)
    return f"{found.diagnosis} (off by {worst:.3g}, of a gradient of {found.grad_norm:.4g})"
