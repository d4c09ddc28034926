"""Directional smoothness of a training loop that somebody else has written."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from estimators.monitor.batches import describe_batch, fingerprint, frozen
from estimators.monitor.budget import Budget
from estimators.monitor.function import LossFn, MeasuredFunction, flat_parameters, unwrapped, words_of
from estimators.monitor.optimizer import (
    gradient_norm,
    options_of,
    parameters_of,
    rate_of,
    require_fit,
    settings_of,
    was_skipped,
)
from estimators.monitor.ranks import OVER_RANKS, ranks_of
from estimators.monitor.steps import Ledger, Step
from estimators.monitor.summary import MonitorSummary
from estimators.monitor.undisturbed import undisturbed
from estimators.monitor.writer import Block, Repeat, TrialDescription, TrialWriter, open_trial
from estimators.probe.policy import BatchNorm
from estimators.probe.vectors import length
from estimators.registry import NEED_STEP, require_known

__all__ = ["SmoothnessMonitor"]

_log = logging.getLogger(__name__)

DEFAULT: Mapping[str, Mapping[str, Any]] = {"directional_smoothness": {"method": "adaptive"}}
"""What is measured where nothing is said: eq. (20), with gradients only where the maximum may lie."""

_FIRST_BATCHES = 4
"""Batches of the loop that become the probe where none is handed over."""


class SmoothnessMonitor:
    """Measures the smoothness along the steps of an optimiser, and changes nothing about the training.

    It hooks into the optimiser: no line of the loop has to change. At every ``every``-th step, if the budget allows, it
    keeps x_k before the step and x_{k+1} after it, and measures f, the mean of ``loss_fn`` over a few frozen batches,
    along the way from one to the other, on a copy of the model. Parameters, buffers, gradients, modes, the optimiser's
    state and all random numbers are left as they were: the losses are the same to the last bit with and without it.

    Args:
        model: What is trained; also compiled by torch, or in DistributedDataParallel.
        optimizer: What trains it: any of torch's that takes one step per gradient. A scheduler or a gradient scaler
            around it does not matter.
        loss_fn: ``loss_fn(model, batch)``, the mean loss as a scalar; of the model that it is given, which is a copy.
        out: The run directory into which the rows go; several loops may share it. Or an object with the methods of
            :class:`~estimators.monitor.writer.TrialWriter`.
        every: A snapshot is taken at most at every so many steps: those whose number is a multiple.
        budget: The largest share of the loop's time that measuring may take; None for no limit, so that the same steps
            are measured in every run.
        probe: The frozen batches that define f, of equal size; or how many of the batches handed to :meth:`note` become
            it, the first ones.
        clip_norm: The threshold of clipping by norm, where the loop clips: it tells loops apart. Of every single step
            :meth:`clip_grad_norm_` tells it, too.
        values: What sets this loop apart from others in the same directory besides learning rate, threshold and seed,
            by name: ``{"width": 64}``. A name that begins with ``update_rule.`` belongs to the optimiser.
        seed: Which repetition this is; answers are averages over seeds.
        estimators: Name in :data:`~estimators.registry.ESTIMATORS` to options; eq. (20) with ``method="adaptive"`` by
            default.
        batch_norm: ``batch``: f normalises by each of its batches, as training does; ``frozen``: as evaluation does.
        audit: How many of the probe's batches are computed in float64 as well, which tells what is rounding.
        log_every: A row is written at every so many steps, with loss, gradient norm and learning rate.
        steps: How many steps the loop will take; None where it is not known.
        steps_per_epoch: Steps in one pass over the data; None where it is not known, and then epochs are null.
        first_step: Number of the first step, for a loop that resumes. Steps that are recorded already are not
            recorded again.
        repeat: Where the same values and seed were recorded before: ``refuse``, or ``replace``, which leaves the
            earlier trial out of every answer.
        distributed: Whether the processes of ``torch.distributed`` train this model together, so that f is the mean
            over the probe batches of all of them, and rank 0 writes; by default where the model is in
            DistributedDataParallel.
        flush_every_s: At most so many seconds of rows are lost if the process is killed.
        clock: Seconds, ever increasing.

    Raises:
        ValueError: An argument is wrong; the text says which and how to fix it.
        RandomLossError: ``loss_fn`` gives two losses for the same weights.
        UnfaithfulCopyError: ``loss_fn`` uses the model in another way than by its argument.

    Example:
        f(w) = w² / 2, whose smoothness is 1 wherever it is measured:

        >>> model = nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> def loss_fn(model, batch):
        ...     return model(batch).square().mean() / 2
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with SmoothnessMonitor(model, optimizer, loss_fn, out=f"{folder}/run", every=2, budget=None) as monitor:
        ...     for batch in [torch.ones(1, 1)] * 8:
        ...         optimizer.zero_grad()
        ...         loss = loss_fn(model, batch)
        ...         loss.backward()
        ...         monitor.note(loss, batch)
        ...         optimizer.step()
        >>> import pandas as pd
        >>> table = pd.read_parquet(f"{folder}/run/measurements/directional_smoothness.parquet")
        >>> table["step"].tolist(), table["smoothness"].round(6).tolist()
        ([4, 6], [1.0, 1.0])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: LossFn,
        *,
        out: str | Path | TrialWriter,
        every: int = 50,
        budget: float | None = 0.03,
        probe: Iterable[Any] | int = _FIRST_BATCHES,
        clip_norm: float | None = None,
        values: Mapping[str, Any] | None = None,
        seed: int = 0,
        estimators: Mapping[str, Mapping[str, Any]] | None = None,
        batch_norm: BatchNorm = "batch",
        audit: int = 1,
        log_every: int = 1,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        first_step: int = 0,
        repeat: Repeat = "refuse",
        distributed: bool | None = None,
        flush_every_s: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        for name, value, least in (
            ("every", every, 1),
            ("log_every", log_every, 1),
            ("audit", audit, 1),
            ("seed", seed, 0),
            ("first_step", first_step, 0),
            ("steps", steps, 1),
            ("steps_per_epoch", steps_per_epoch, 1),
            ("probe", probe if isinstance(probe, int) else None, 1),
        ):
            _require_whole(name, value, least=least, optional=name in {"steps", "steps_per_epoch", "probe"})
        self._budget = Budget(budget)
        self._model = unwrapped(model)
        self._ranks = ranks_of(model, self._device, distributed=distributed)
        require_fit(self._model, optimizer)
        _require_positive("clip_norm", clip_norm)
        if batch_norm not in ("batch", "frozen"):
            raise ValueError(f"batch_norm={batch_norm!r}: must be 'batch' or 'frozen'")
        chosen = DEFAULT if estimators is None else estimators
        require_known(chosen)
        if needy := [name for name in chosen if "preconditioner" in NEED_STEP.get(name, ())]:
            raise ValueError(
                f"{needy[0]} needs what the optimiser divided its step by, which a monitor does not know: sweeps "
                "measure it, and hessian_spectral_norm is measured here, too"
            )
        if not chosen:
            raise ValueError("estimators={}: nothing would be measured; leave it out for directional_smoothness")
        if self._ranks is not None and (not set(chosen) <= OVER_RANKS or batch_norm == "frozen"):
            raise ValueError(
                f"over several processes, {', '.join(sorted(OVER_RANKS))} can be measured, with batch_norm='batch'; "
                "measure anything else in a loop of one process, or with estimators.measure_pairs"
            )
        self._optimizer = optimizer
        self._every, self._log_every = every, log_every
        self._clip_norm = clip_norm
        self._has_threshold = clip_norm is not None
        self._clock, self._flush_every_s = clock, flush_every_s
        self._ledger = Ledger(steps_per_epoch=steps_per_epoch)
        self._make = functools.partial(
            MeasuredFunction,
            self._model,
            loss_fn,
            estimators=chosen,
            batch_norm=batch_norm,
            audit=audit,
            ranks=self._ranks,
        )
        self._snapshots = self._failed = self._seen = 0
        self._function: MeasuredFunction | None = None
        self._data: str | None = None
        self._batches: list[Any] = []
        self._wanted = probe if isinstance(probe, int) else 0
        if not isinstance(probe, int):
            # A loader shuffles with random numbers that are training's.
            with undisturbed(self._device):
                given = [frozen(batch, self._device) for batch in probe]
            self._take_probe(given)
        num_batches = self._wanted or len(self._batches)
        self._step_number = first_step
        self._losses: list[Tensor] = []
        self._raw_norm: Tensor | None = None
        self._before: Tensor | None = None
        self._rate: float | None = None
        self._block = self._new_block()
        description = TrialDescription(
            optimizer=type(optimizer).__name__.lower(),
            options=options_of(optimizer),
            settings=settings_of(optimizer),
            learning_rate=rate_of(optimizer, initial=True),
            clip_norm=clip_norm,
            values=dict(values or {}),
            seed=seed,
            first_step=first_step,
            steps=steps,
            measure={
                "by": "SmoothnessMonitor",
                "estimators": [{"use": name, **options} for name, options in chosen.items()],
                "probe": {"words": words_of(batch_norm), "batches": num_batches},
                "audit": {"batches": min(audit, num_batches), "at": "snapshot"},
            },
            threads=torch.get_num_threads(),
            gpus=self._device.type == "cuda",
        )
        self._writer: TrialWriter | None = None
        with self._all_or_none():
            if self._is_first:
                self._writer = open_trial(out, description, repeat=repeat) if isinstance(out, (str, Path)) else out
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._before_step()),
            optimizer.register_step_post_hook(lambda *_: self._after_step()),
        ]
        self._closed = False
        self._flushed = (0.0, 0.0, 0.0)
        self._pid = os.getpid()
        atexit.register(self._forgotten)
        self._mark = self._flushed_at = clock()

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters(), torch.empty(0)).device

    @property
    def _is_first(self) -> bool:
        """Whether this process measures and writes."""
        return self._ranks is None or self._ranks.is_first

    def _all_or_none(self) -> contextlib.AbstractContextManager[None]:
        """What one process of several raises within, all do."""
        return contextlib.nullcontext() if self._ranks is None else self._ranks.all_or_none()

    # What the loop says

    def note(self, loss: Tensor | float | None = None, batch: Any = None) -> None:
        """Tell the monitor what the loop knows, before the optimiser's step.

        Args:
            loss: The training loss of a batch, or of a micro-batch; of several before one step, the mean is recorded.
            batch: The batch; the first ones become the probe, where none was handed over.
        """
        with self._own_time():
            if loss is not None:
                value = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
                if value.numel() != 1:
                    raise ValueError(
                        f"note(loss) takes the mean loss, one number; found a tensor of shape {tuple(value.shape)}"
                    )
                self._losses.append(value.clone())
            if batch is not None and self._function is None and len(self._batches) < self._wanted:
                self._collect(batch)

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clip the gradients of the optimiser's parameters as torch does, and note norm and threshold.

        Args:
            max_norm: The threshold.

        Returns:
            The norm before, shape ().
        """
        norm: Tensor = nn.utils.clip_grad_norm_(parameters_of(self._optimizer), max_norm)
        self.note_clipping(norm, max_norm)
        return norm

    def note_clipping(self, norm: Tensor | float, max_norm: float | None) -> None:
        """Tell the monitor of clipping that the loop did itself, before the optimiser's step.

        Args:
            norm: The norm of the gradient before it was clipped.
            max_norm: The threshold; None where nothing is clipped.
        """
        with self._own_time():
            _require_positive("max_norm", max_norm)
            if max_norm is not None and not self._has_threshold and self._is_first:
                self._has_threshold = True
                _log.warning(
                    "this loop clips, and the monitor was made without clip_norm: its threshold is in no table, and "
                    "tells it from no other loop; hand over clip_norm=%g",
                    max_norm,
                )
            value = norm.detach().clone() if isinstance(norm, Tensor) else torch.tensor(float(norm))
            self._raw_norm, self._clip_norm = value, max_norm

    # What the optimiser says

    def _before_step(self) -> None:
        with self._own_time(synchronize=self._is_due()):
            # Of a step that raised, if any.
            self._before = None
            self._rate = rate_of(self._optimizer)
            if self._is_due():
                self._require_batches()
                if self._all_agree() and self._is_ready():
                    self._before = flat_parameters(self._model)

    def _after_step(self) -> None:
        measuring = self._before is not None
        with self._own_time(measuring=measuring, synchronize=measuring):
            if was_skipped(self._optimizer):
                self._before = self._raw_norm = None
                return
            step = Step(
                number=self._step_number,
                learning_rate=self._rate,
                losses=self._losses,
                raw_norm=self._raw_norm,
                clip_norm=self._clip_norm,
            )
            logged = self._is_first and self._step_number % self._log_every == 0
            if (logged or measuring) and self._raw_norm is None:
                step.used_norm = gradient_norm(parameters_of(self._optimizer))
            if self._before is not None:
                after = flat_parameters(self._model)
                step.update_norm = length(after - self._before)
                self._measure(torch.stack([self._before, after]), step)
            if logged or (measuring and self._is_first):
                self._ledger.append(step)
            self._losses, self._raw_norm, self._before = [], None, None
            self._step_number += 1
            self._seen += 1
        if self._clock() - self._flushed_at >= self._flush_every_s or (measuring and self._snapshots == 1):
            self.flush()

    def _is_due(self) -> bool:
        return self._step_number % self._every == 0

    def _all_agree(self) -> bool:
        """Whether the time is there, and in every process the batches, too."""
        if self._ranks is None:
            return self._budget.allows()
        # Its own clock says another time in every process, but the measurement is one.
        has_time = self._budget.allows() or not self._is_first
        has_batches = self._function is not None or len(self._batches) >= self._wanted
        return self._ranks.agree(has_time and has_batches)

    def _is_ready(self) -> bool:
        """Whether there is a function to measure; made of the first batches as soon as there are enough."""
        if self._function is None and len(self._batches) >= self._wanted:
            self._take_probe(self._batches)
        return self._function is not None

    def _require_batches(self) -> None:
        """Tell a loop that hands over nothing, when it could have."""
        if self._function is None and self._seen >= max(self._every, self._wanted) and not self._batches:
            raise ValueError(
                "there are no batches to measure on: hand some to SmoothnessMonitor(probe=[...]), or each batch of the "
                "loop to monitor.note(loss, batch), whose first ones are used"
            )

    def _collect(self, batch: Any) -> None:
        """Keep a batch of the loop, if it is as large as the first."""
        if not describe_batch(batch):
            raise ValueError(f"note(batch=...) holds no tensor: {type(batch).__name__}")
        kept = frozen(batch, self._device)
        if not self._batches or describe_batch(kept) == describe_batch(self._batches[0]):
            self._batches.append(kept)

    def _take_probe(self, batches: Sequence[Any]) -> None:
        if not batches:
            raise ValueError("probe=[]: f would be the mean of nothing; hand over a few batches")
        self._batches = list(batches)
        with self._all_or_none():
            self._function = self._make(self._batches, begun=self._seen > 0)
        ranks = self._ranks
        self._data = fingerprint(self._batches) if ranks is None else ranks.joint_fingerprint(self._batches)

    def _measure(self, iterates: Tensor, step: Step) -> None:
        assert self._function is not None
        self._snapshots += 1
        if not self._is_first:
            self._function.serve()
            return
        bare = type(self._optimizer) is torch.optim.SGD and not options_of(self._optimizer)
        rows, errors = self._function.measure(
            iterates, learning_rate=step.learning_rate, clip_norm=step.clip_norm if bare else None
        )
        self._failed += bool(errors)
        block = self._block
        block.num_snapshots += 1
        for name, row in rows.items():
            described = {"step": step.number, "epoch": self._ledger.epoch(step.number)}
            block.measurements.setdefault(name, []).append(described | row)
        for text in dict.fromkeys(rows[name]["error"] for name in errors):
            block.unmeasured[text] = block.unmeasured.get(text, 0) + 1
        if errors and self._failed == 1:
            error = next(iter(errors.values()))
            _log.warning("step %d could not be measured; training goes on: %s", step.number, error, exc_info=error)

    # Time and rows

    @contextlib.contextmanager
    def _own_time(self, *, measuring: bool = False, synchronize: bool = False) -> Iterator[None]:
        """Count the time within as the monitor's, and that since the last time as the loop's."""
        if synchronize:
            _finish(self._device)
        begun = self._clock()
        self._budget.passes(begun - self._mark)
        try:
            yield
        finally:
            if synchronize:
                _finish(self._device)
            self._mark = self._clock()
            self._budget.spend(self._mark - begun, measuring=measuring)

    def _new_block(self) -> Block:
        return Block(start=self._step_number, stop=self._step_number, started_at=time.time())

    def _complete(self) -> Block:
        """The rows since the last flush, with their times."""
        block = self._block
        self._ledger.read_into(block)
        block.stop = self._step_number
        block.ended_at = time.time()
        before, budget = self._flushed, self._budget
        block.loop_s = budget.loop_s - before[0]
        block.own_s = budget.own_s - before[1]
        block.measured_s = budget.measured_s - before[2]
        block.data = self._data
        return block

    def flush(self) -> None:
        """Make all rows so far safe; happens by itself every ``flush_every_s`` seconds."""
        with self._own_time():
            block = self._complete()
            self._flushed_at = self._clock()
            if self._writer is not None and block.stop > block.start and self._writer.write(block):
                self._flushed = (self._budget.loop_s, self._budget.own_s, self._budget.measured_s)
                self._block = self._new_block()

    # The end

    def summary(self) -> MonitorSummary:
        """What was measured so far, and which share of the time that took.

        Returns:
            The summary; its text is one line.
        """
        return MonitorSummary(
            steps=self._seen,
            snapshots=self._snapshots,
            failed=self._failed,
            loop_s=self._budget.loop_s,
            own_s=self._budget.own_s,
            budget=self._budget.share,
        )

    def close(self) -> None:
        """End the trial: write its last rows, and let go of the optimiser. Twice does nothing."""
        self._end(None)

    def __enter__(self) -> SmoothnessMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        atexit.unregister(self._forgotten)
        with self._own_time():
            block = self._complete()
        outcome: Literal["done", "diverged", "stopped"] = "done" if block.diverged_step is None else "diverged"
        text = None
        if error is not None:
            outcome = "stopped"
            if isinstance(error, Exception):
                text = f"{type(error).__name__}: {error}"
        if self._writer is None:
            return
        try:
            self._writer.end(block, outcome=outcome, error=text)
        except Exception:
            if error is None:
                raise
            # What the loop has raised is what its author wants to see.
            _log.exception("the last rows could not be written")
        _log.info("%s", self.summary())

    def _forgotten(self) -> None:
        """Save what a loop that never called :meth:`close` has left."""
        # Not in a process that was forked from the loop's.
        if not self._closed and os.getpid() == self._pid:
            with contextlib.suppress(Exception):
                self.flush()


def _require_whole(name: str, value: object, *, least: int, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        or_none = ", or None" if optional and name != "probe" else ""
        raise ValueError(f"{name}={value!r}: must be a whole number of at least {least}{or_none}")


def _require_positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: must be positive, or None where nothing is clipped")


def _finish(device: torch.device) -> None:
    """Wait for what was launched on a GPU, so that its time counts where it belongs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
