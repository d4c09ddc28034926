"""The worker that measures: one row per estimator from each snapshot."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from estimators import ESTIMATORS, NEED_STEP, SAMPLED, Probe, ProbePolicy
from estimators.probe.copies import UnfaithfulCopyError
from estimators.probe.graphed import Recorder, record_cuda_graph
from sweeper.errors import IntegrityError, error_line, error_traceback, left_on_gpu, out_of_memory, spoils_gpu
from sweeper.protocol.events import SnapshotId
from sweeper.protocol.messages import OWN_TABLE, KeptSnapshot, Raised, Rows, SnapshotHeader
from sweeper.workers.own_estimators import OwnMeasure, measure_own, own_estimator
from sweeper.workers.process_state import OwnState
from sweeper.workers.snapshots import read_header, read_iterates
from sweeper.workers.step_facts import step_options
from sweeper.workers.worker import Worker, import_all, is_users
from trainers.problem import Batch, Carry, Loss, Problem
from trainers.seeding import seed_generators, seed_other_generators

__all__ = ["EstimatorWorker", "ZeroGradientError", "build_probe"]

_log = logging.getLogger(__name__)

_Measured: TypeAlias = tuple[dict[str, dict[str, Any]], dict[str, str]]
"""Estimator to row, and estimator to traceback for those that failed; their rows say why."""


class ZeroGradientError(ValueError):
    """f is flat where training's loss is not, so that nothing measured of it says anything about training."""


@dataclass(frozen=True, kw_only=True)
class _Built:
    """A probe, ready to be measured on.

    Attributes:
        probe: The probe.
        others: Further probes of the same share, without a sample in common.
        share: Share of the training data that it holds; None where the problem does not tell.
        fingerprint: Of its data.
        own: What the user's code has set for the process; None if it is ours.
        unfaithful: Why the probe must not be used, if so.
    """

    probe: Probe
    others: tuple[Probe, ...]
    share: float | None
    fingerprint: str
    own: OwnState | None
    own_estimators: Mapping[str, OwnMeasure]
    unfaithful: UnfaithfulCopyError | None


class EstimatorWorker(Worker):
    """Measures one snapshot after another; its rows depend only on the snapshot.

    Args:
        run_dir: As for every worker; so are ``threads`` and ``device``.
        threads: Threads of each numerical kernel.
        device: ``cpu`` or ``cuda``.
        cuda_graphs: Whether the gradient is recorded as a CUDA graph and replayed at every point.
        options: ``search`` and ``begin``, as for every worker.
    """

    def __init__(self, *, run_dir: str, threads: int, device: str, cuda_graphs: bool = False, **options: Any) -> None:
        super().__init__(run_dir=run_dir, threads=threads, device=device, **options)
        self._record = self._beating_record if cuda_graphs else None
        self._probe = lru_cache(maxsize=4)(self._build_probe)
        self._beats = 0
        self._turn: tuple[str, ...] | None = None
        self._end_of_turn = ExitStack()
        self._left_behind: str | None = None

    def beats(self) -> int:
        """Evaluations of the loss plus estimators begun so far: while this grows, the worker makes progress."""
        return self._beats

    def measure(self, slot: int, snapshot: SnapshotId, header: SnapshotHeader, payload: Any) -> Rows | Raised:
        """Let every estimator of the spec measure one snapshot.

        Args:
            slot: This worker's slot, returned in the verdict.
            snapshot: The snapshot's id, also returned.
            header: What it belongs to.
            payload: The iterates, float32 or float64, shape (2, n); the preconditioner may be a third row.

        Returns:
            A row per estimator, or what was raised. An estimator that raises fails alone: its row says why.
        """
        return self._verdict(slot, snapshot, lambda: self._rows(header, np.asarray(payload)))

    def measure_kept(self, slot: int, snapshot: SnapshotId, kept: KeptSnapshot) -> Rows | Raised:
        """Let estimators measure a snapshot in the run directory.

        Args:
            slot: This worker's slot, returned in the verdict.
            snapshot: The snapshot's id, also returned.
            kept: Which one, and what to measure on it.

        Returns:
            A row per estimator, or what was raised, even if the file is damaged or names code that it must not.
        """
        return self._verdict(slot, snapshot, lambda: self._rows(*self._read(kept)))

    def _verdict(self, slot: int, snapshot: SnapshotId, measure: Callable[[], _Measured]) -> Rows | Raised:
        self._set_num_threads()
        started = time.perf_counter()
        try:
            rows, tracebacks = measure()
        except BaseException as error:
            # The user's loss may raise SystemExit and its like, too.
            self._left_behind = left_on_gpu(error) or self._left_behind
            return Raised(
                slot=slot,
                snapshot=snapshot,
                error=error_line(error),
                traceback=error_traceback(error),
                left_behind=self._left_behind,
            )
        return Rows(
            slot=slot,
            snapshot=snapshot,
            rows=rows,
            estimate_s=time.perf_counter() - started,
            tracebacks=tracebacks,
            left_behind=self._left_behind,
            device=self._hardware.facts.get("device", self._device),
        )

    def _read(self, kept: KeptSnapshot) -> tuple[SnapshotHeader, np.ndarray[Any, Any]]:
        """A kept snapshot; its file names the problem, but may only name user code that the driver has named, too."""
        path = self._run_dir.snapshot(kept.trial, kept.step)
        header = read_header(path, kept.measure)
        use = header.problem["use"]
        if ":" in use and use != kept.use:
            raise IntegrityError(f"{path}: would run {use}, but its trial was not trained with that")
        return header, read_iterates(path)

    def _rows(self, header: SnapshotHeader, payload: np.ndarray[Any, Any]) -> _Measured:
        built = self._turn_to(header)
        if header.data not in {None, built.fingerprint}:
            raise IntegrityError(
                f"the data changed since the trial was trained (then {header.data}, now {built.fingerprint}); "
                "restore it"
            )
        if built.unfaithful is not None:
            raise built.unfaithful
        if built.own is None:
            return self._estimate(built, header, payload)
        # Set again from where the factory left it, every time: rows depend only on the snapshot.
        with built.own.in_force(keep=False):
            seed_generators(torch.device(self._device), header.seed, header.step)
            seed_other_generators(header.seed, header.step)
            # A copy: Ray's arrays are read-only views of memory that the object store may reclaim.
            with built.probe.require_repeats(torch.from_numpy(payload[0].copy()).to(self._device)):
                return self._estimate(built, header, payload)

    def _turn_to(self, header: SnapshotHeader) -> _Built:
        """The probe of a snapshot, with what its trial's code has set; that of the trial before is put back first."""
        problem = json.dumps(dict(header.problem), sort_keys=True)
        definition = _definition_of_f(header.measure)
        turn = (header.trial, problem, str(header.seed), definition)
        seed = header.seed if _depends_on_seed(header) else 0
        if turn == self._turn:
            return self._probe(problem, seed, definition)
        self._turn = None
        self._end_of_turn.close()
        self._hardware.free()
        self._begin(f"measuring trial {header.trial}")
        built = self._probe(problem, seed, definition)
        if built.own is not None:
            self._end_of_turn.callback(self._note, built.own)
            self._end_of_turn.enter_context(built.own.whole(keep=False))
        self._turn = turn
        return built

    def _note(self, own: OwnState) -> None:
        """Take down what a trial has left behind, for the next verdict."""
        self._left_behind = own.left_behind or self._left_behind

    def _estimate(self, built: _Built, header: SnapshotHeader, payload: np.ndarray[Any, Any]) -> _Measured:
        measure = header.measure
        # A copy: Ray's arrays are read-only views of memory that the object store may reclaim.
        kept = torch.from_numpy(payload.copy()).to(self._device)
        described = {"trial_id": header.trial, "step": header.step, "epoch": header.epoch}
        conditions = {
            "data_fraction": measure["data_fraction"],
            "probe_share": built.share,
            "probe": built.probe.policy.words,
            "arithmetic": built.probe.arithmetic,
        }
        rows: dict[str, dict[str, Any]] = {}
        errors: dict[str, BaseException] = {}
        entries = list(measure["estimators"])
        own = [entry for entry in entries if is_users(entry)]
        if own:
            self._beats += 1
            found, failures = measure_own(built.own_estimators, own, built.probe, kept[:2])
            for error in failures.values():
                if spoils_gpu(error):
                    raise error
            errors |= failures
            told = "; ".join(f"{name}: {error_line(error)}" for name, error in failures.items())
            rows[OWN_TABLE] = (
                described | found | conditions | ({"error": told} if told else {})
                if found["names"]
                else described | {"error": told, "data_fraction": measure["data_fraction"]}
            )
        for entry in entries:
            if is_users(entry):
                continue
            name = entry["use"]
            try:
                rows[name] = described | self._on_every_probe(built, kept, entry, header) | conditions
            except BaseException as error:
                if spoils_gpu(error):
                    raise  # the others would fail, too, and another worker may measure them all
                # The user's loss may raise SystemExit and its like, too. The other estimators may do without it.
                errors[name] = error
                failed = {"error": f"{name}: {error_line(error)}", "data_fraction": measure["data_fraction"]}
                rows[name] = described | failed
        if len(errors) == len(entries) and len({error_line(error) for error in errors.values()}) == 1:
            # Then it is f that cannot be measured, whoever measures it.
            raise next(iter(errors.values()))
        return rows, {name: error_traceback(error) for name, error in errors.items()}

    def _on_every_probe(
        self, built: _Built, payload: torch.Tensor, entry: Mapping[str, Any], header: SnapshotHeader
    ) -> dict[str, Any]:
        """What one estimator says, with its numbers on further probes as lists."""
        row = self._measured(built.probe, payload, entry, header)
        if not built.others or entry["use"] not in SAMPLED:
            return row
        others = [self._measured(probe, payload, entry, header) for probe in built.others]
        return row | {f"{name}_by_probe": [one[name] for one in (row, *others)] for name in SAMPLED[entry["use"]]}

    def _measured(
        self, probe: Probe, payload: torch.Tensor, entry: Mapping[str, Any], header: SnapshotHeader
    ) -> dict[str, Any]:
        """What one estimator says; tried again where memory was short, without what the failed try holds."""
        options = {key: value for key, value in entry.items() if key != "use"}
        options |= step_options(NEED_STEP.get(entry["use"], ()), vars(header), payload)
        iterates = payload[:2]
        self._beats += 1
        try:
            row = ESTIMATORS[entry["use"]](probe, iterates, **options)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            # Without the frames, which hold a graph.
            error.__traceback__ = None
            gc.collect()
            self._hardware.free()
            row = ESTIMATORS[entry["use"]](probe, iterates, **options)
        if row.get("grad_norm") == 0 and header.grad_norm is not None and header.grad_norm > 0:
            raise ZeroGradientError(
                "the gradient of f is exactly 0, where training's at the same weights has the norm "
                f"{header.grad_norm:.3g}: f does not depend on the weights there; `clipsweep check` tests whether the "
                "loss uses the model that it is given"
            )
        return row

    def _build_probe(self, problem_json: str, seed: int, definition_json: str) -> _Built:
        section = json.loads(problem_json)
        entries = json.loads(definition_json).get("own", [])
        uses = {section["use"]: "problem"} if is_users(section) else {}
        uses |= {entry["use"]: "estimator" for entry in entries}
        if not uses:
            return self._built(section, seed, definition_json, None)
        own = OwnState()
        try:
            import_all(own, uses, self._search)
            with own.whole(), own.in_force():
                estimators = {entry["use"]: own_estimator(entry, search=self._search) for entry in entries}
                return replace(self._built(section, seed, definition_json, own), own_estimators=estimators)
        finally:
            self._note(own)

    def _built(self, section: Mapping[str, Any], seed: int, definition_json: str, own: OwnState | None) -> _Built:
        built = self._build(section, seed)
        measured = built.measured_loss
        problem = replace(
            built, loss=self._beating(built.loss), measured_loss=None if measured is None else self._beating(measured)
        )
        # The registered ones are right: the conformance tests hold them to it.
        definition = json.loads(definition_json)
        probe = build_probe(problem, definition, record=self._record, known=own is None)
        others = tuple(
            build_probe(problem, definition, record=self._record, known=True, draw=draw)
            for draw in range(1, definition.get("probes", 1))
        )
        share = problem.probe_share(definition["data_fraction"]) if problem.probe_share is not None else None
        unfaithful = None
        if own is not None:
            try:
                probe.require_faithful_copy()
            except UnfaithfulCopyError as error:
                unfaithful = error.with_traceback(None)
            except Exception:
                _log.debug("f raised while its copy was compared; the estimators will say what", exc_info=True)
        return _Built(
            probe=probe,
            others=others,
            share=share,
            fingerprint=problem.fingerprint,
            own=own,
            own_estimators={},
            unfaithful=unfaithful,
        )

    def _beating_record(self, work: Callable[[], object]) -> Callable[[], object]:
        """A CUDA graph whose every replay counts as a heartbeat: replays do not call the loss."""
        replay = record_cuda_graph(work)

        def beating() -> None:
            self._beats += 1
            replay()

        return beating

    def _beating(self, loss: Loss) -> Loss:
        """A loss whose every evaluation counts as a heartbeat."""

        def beating(model: nn.Module, batch: Batch, carry: Carry) -> tuple[torch.Tensor, Carry]:
            self._beats += 1
            return loss(model, batch, carry)

        beating.__wrapped__ = loss  # type: ignore[attr-defined]
        return beating


def build_probe(
    problem: Problem, measure: Mapping[str, Any], *, record: Recorder | None = None, known: bool = False, draw: int = 0
) -> Probe:
    """The function that a measure section defines on a problem.

    Args:
        problem: The problem, its model with the initial weights.
        measure: ``data_fraction``, ``probe`` and ``audit`` of the resolved section.
        record: As for :class:`~estimators.probe.probe.Probe`; so is ``known``.
        known: See there.
        draw: Which of the probes of this share, from 0.

    Returns:
        The probe that defines f, ready to be measured on.
    """
    fraction, audit = measure["data_fraction"], measure["audit"]
    policy = ProbePolicy(**measure["probe"])
    # f has no penalties; a problem that trains without any has only one loss.
    bare = problem.measured_loss or problem.loss

    def training_batches(count: int, per_step: int) -> Iterator[Any]:
        steps = problem.steps_per_epoch // per_step
        count = min(count, steps)
        return (problem.batch(k * steps // count * per_step + j) for k in range(count) for j in range(per_step))

    return Probe(
        problem.model,
        bare if policy.regulariser == "out" else problem.loss,
        problem.drawn_probe(fraction, draw),
        audit=problem.probe(fraction * audit["share"]) if audit["share"] < 1 else None,
        audit_at=audit["at"],
        initial_carry=problem.initial_carry,
        policy=policy,
        training_batches=training_batches,
        steps_per_epoch=problem.steps_per_epoch,
        training_loss=problem.loss,
        record=record,
        known=known,
    )


_NEED_SEED = frozenset({"gradient_noise", "authors_compat"})
"""Estimators of training's batches, and of the model as it is trained."""


def _depends_on_seed(header: SnapshotHeader) -> bool:
    """Whether a row depends on the trial's seed but for its snapshot: if not, trials share a probe and its graphs."""
    entries = header.measure["estimators"]
    own = any(map(is_users, [header.problem, *entries]))
    needed = any(entry["use"] in _NEED_SEED for entry in entries)
    return own or needed or header.measure["audit"]["at"] == "start"


def _definition_of_f(measure: Mapping[str, Any]) -> str:
    """The part of a measure section that determines f and its audit, as a key."""
    kept = {key: measure[key] for key in ("data_fraction", "probe", "audit")}
    # Not of f, but of the process that measures it: what is imported there.
    own = [entry for entry in measure["estimators"] if is_users(entry)]
    return json.dumps(kept | {"probes": measure.get("probes", 1)} | ({"own": own} if own else {}), sort_keys=True)
