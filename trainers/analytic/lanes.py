r"""Thousands of trials on functions with known constants, side by side in float64.

A lane is one trial: one function, start, rule and seed. All lanes of a group take step k together, so a step is a
dozen NumPy calls whatever their number; those that have hit, diverged or reached their cap are dropped. What a lane
returns depends on itself alone, never on the other lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.analytic.function import Array
from trainers.analytic.lane import Lane, LaneResult
from trainers.analytic.state import Mask, State, norms, start_state

__all__ = ["Block", "run_lanes", "watch_lanes"]

_BLOCK_STEPS = 64
"""Steps between two checks for finished lanes."""

_MAX_LANES = 16_384
"""Lanes that advance together: few enough that their arrays stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A heartbeat.

    Attributes:
        step: Steps that every lane of the group has taken.
        lane_steps: Steps that its lanes took in this block together.
    """

    step: int
    lane_steps: int


def run_lanes(lanes: Sequence[Lane]) -> Iterator[tuple[int, LaneResult]]:
    """Run trials to their end.

    Args:
        lanes: The trials.

    Returns:
        Index and result of each lane, as they end.

    Example:
        Gradient descent with h = 1/2 on x^2/2 halves x: from 1, the fourth iterate is 1/16.

        >>> from trainers.analytic.functions import Quadratic
        >>> from trainers.analytic.theory import StepRule
        >>> lane = Lane(
        ...     function=Quadratic(eigenvalues=(1.0,)), start=1.0, epsilon=0.0625, rule=StepRule(eta=0.5), steps=100
        ... )
        >>> [(index, result.status, result.hitting_time) for index, result in run_lanes([lane])]
        [(0, 'hit', 4)]
    """
    return (item for item in watch_lanes(lanes) if isinstance(item, tuple))


def watch_lanes(
    lanes: Sequence[Lane], *, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, LaneResult] | Block]:
    """The same, with a heartbeat after every block of steps.

    Args:
        lanes: The trials.
        should_stop: Called between blocks; once it returns True, unfinished lanes are abandoned.

    Yields:
        Blocks, and index and result of each lane as they end.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, lane in enumerate(lanes):
        noise = lane.noise_kind if lane.noise else None
        groups.setdefault((type(lane.function), lane.dimension, lane.mode, lane.log_every, noise), []).append(index)
    for members in groups.values():
        for begin in range(0, len(members), _MAX_LANES):
            chosen = members[begin : begin + _MAX_LANES]
            group = _Group([lanes[index] for index in chosen], chosen)
            yield from group.run(should_stop)


class _Group:
    """Lanes of one kind, from their starts to their ends."""

    def __init__(self, lanes: Sequence[Lane], indices: Sequence[int]) -> None:
        self._state = start_state(lanes, indices)
        self._log_every = lanes[0].log_every or self._state.mode.steps
        self._finite_loss = np.full(len(lanes), np.nan)
        self._thresholds = {index: lane.rule.threshold for index, lane in zip(indices, lanes, strict=True)}
        # One list of columns per moment; ``index`` says which trial a value belongs to.
        self._log: list[dict[str, np.ndarray[Any, Any]]] = []
        self._rows: dict[int, list[tuple[int, int]]] = {}

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, LaneResult] | Block]:
        """Advance all lanes until none is left."""
        step, steps = 0, self._state.mode.steps
        # Diverging lanes overflow, which is what they are meant to show.
        with np.errstate(all="ignore"):
            while self._state.index.size:
                if should_stop():
                    return
                state = self._state
                if step % self._log_every == 0:
                    self._note(state, step)
                loss = state.function.value(state.x)
                self._finite_loss = np.where(np.isfinite(loss), loss, self._finite_loss)
                stop = min(step + _BLOCK_STEPS, step - step % self._log_every + self._log_every, steps)
                before = earlier = state.copy()
                for k in range(step, stop):
                    if k == stop - 2:
                        earlier = state.copy()
                    state.advance(k)
                yield Block(step=stop, lane_steps=(stop - step) * state.index.size)
                yield from self._end_finished(step, stop, before)
                if stop - step > 2:
                    yield from self._end_cycling(stop, earlier)
                step = stop

    def _end_finished(self, begin: int, step: int, before: State) -> Iterator[tuple[int, LaneResult]]:
        """Drop the lanes that have hit, diverged, or reached the cap."""
        state = self._state
        norm = state.grad_norm()
        at_cap = step == state.mode.steps
        if at_cap:
            # The last iterate may have hit as well.
            np.fmin(state.lowest, norm, out=state.lowest)
            state.above &= norm > state.epsilon
            state.age += state.above
        sound = np.isfinite(norm) & np.isfinite(state.x).all(axis=0)
        ended = np.full(sound.size, at_cap) | ~sound
        if state.mode.stops_at_hit:
            ended |= state.lowest <= state.epsilon
        if not ended.any():
            return
        finite_loss = self._finite_loss
        yield from self._diverged(begin, before, ended & ~sound, finite_loss)
        yield from self._results(state.take(ended & sound), step, finite_loss[ended & sound])
        self._state = state.take(~ended)
        self._finite_loss = finite_loss[~ended]

    def _end_cycling(self, step: int, earlier: State) -> Iterator[tuple[int, LaneResult]]:
        """Lanes that are where they were two steps ago will cycle forever: their state at the cap is known now."""
        # Beyond the largest stable rate of a clipped rule most lanes end like this, exact to the last bit.
        state, steps = self._state, self._state.mode.steps
        if not state.mode.stops_at_hit or state.mode.momentum or state.noise is not None or self._log_every < steps:
            return
        earlier = earlier.take(np.isin(earlier.index, state.index))
        cycling = (state.x == earlier.x).all(axis=0)
        if not cycling.any():
            return
        caught, rest = state.take(cycling), steps - step
        caught.num_clipped += rest // 2 * (caught.num_clipped - earlier.num_clipped[cycling])
        if rest % 2:
            caught.advance(step)
        yield from self._results(caught, steps, self._finite_loss[cycling])
        self._state = state.take(~cycling)
        self._finite_loss = self._finite_loss[~cycling]

    def _diverged(self, begin: int, before: State, lanes: Mask, loss: Array) -> Iterator[tuple[int, LaneResult]]:
        """Take the block's steps again, one by one, to find where each lane's gradient was no longer finite."""
        lost, loss = before.take(lanes), loss[lanes]
        step = begin
        while lost.index.size:
            value = lost.function.value(lost.x)
            loss = np.where(np.isfinite(value), value, loss)
            finite = np.isfinite(lost.grad_norm()) & np.isfinite(lost.x).all(axis=0)
            yield from self._results(lost.take(~finite), step, loss[~finite], diverged=True)
            lost, loss = lost.take(finite), loss[finite]
            lost.advance(step)
            step += 1

    def _results(
        self, state: State, step: int, finite_loss: Array, *, diverged: bool = False
    ) -> Iterator[tuple[int, LaneResult]]:
        """Results of the lanes that end, each after ``step`` steps or at its earlier hit."""
        steps, stops = state.mode.steps, state.mode.stops_at_hit
        hit = state.lowest <= state.epsilon
        taken = np.where(hit, state.age, step) if stops else np.full(hit.size, step)
        value = state.function.value(state.x)
        finite_loss = np.where(np.isfinite(value), value, finite_loss)
        self._note_last(state, taken)
        for lane, index in enumerate(state.index.tolist()):
            yield (
                index,
                LaneResult(
                    status="hit" if hit[lane] else "diverged" if diverged else "capped",
                    hitting_time=int(state.age[lane]) if hit[lane] else None,
                    num_steps=int(taken[lane]),
                    num_clipped=int(state.num_clipped[lane]),
                    diverged_step=step if diverged else None,
                    last_finite_loss=None if np.isnan(finite_loss[lane]) else float(finite_loss[lane]),
                    min_grad_norm=float(state.lowest[lane]),
                    tail_grad_norm=None if stops or diverged else float(state.tail[lane] / max(1, steps // 2)),
                    rows=self._take_rows(index),
                ),
            )

    # Rows

    def _note(self, state: State, step: int) -> None:
        """One row per running lane: x_k, and the step from it."""
        norm, _, noisy_norm = state.noisy_gradient(step)
        size = state.step_size(noisy_norm)
        here = state.copy()
        here.advance(step)
        moved = norms(here.x - state.x)
        clipped = size < state.eta if state.mode.scaled else np.zeros(size.size, dtype=np.bool_)
        running = state.above & (norm > state.epsilon) if state.mode.stops_at_hit else np.ones(size.size, np.bool_)
        steps = np.full(size.size, step)
        self._append(state, steps, norm, noisy_norm, size.copy(), clipped, moved, running)

    def _note_last(self, state: State, steps: np.ndarray[Any, Any]) -> None:
        """One row for the last iterate of each lane; no step was taken from it."""
        norm, nothing = state.grad_norm(), np.full(steps.size, np.nan)
        everything = np.ones(steps.size, dtype=np.bool_)
        self._append(state, steps, norm, nothing, nothing, ~everything, nothing, everything)

    def _append(
        self,
        state: State,
        steps: np.ndarray[Any, Any],
        norm: Array,
        noisy_norm: Array,
        size: Array,
        clipped: Mask,
        moved: Array,
        lanes: Mask,
    ) -> None:
        value = state.function.value(state.x)
        self._log.append({
            "step": steps,
            "epoch": steps.astype(np.float64),
            "train_loss": value,
            "grad_norm": noisy_norm,
            "step_size": size,
            "clipped": clipped,
            "update_norm": moved,
            "learning_rate": np.broadcast_to(state.eta, value.shape),
            "gap": value - state.function.minimum,
            "full_grad_norm": norm,
        })
        moment = len(self._log) - 1
        for lane in np.flatnonzero(lanes).tolist():
            self._rows.setdefault(int(state.index[lane]), []).append((moment, lane))

    def _take_rows(self, index: int) -> dict[str, np.ndarray[Any, Any]]:
        """The rows of one trial."""
        places = self._rows.pop(index)
        rows = {name: np.array([self._log[moment][name][lane] for moment, lane in places]) for name in self._log[0]}
        threshold = self._thresholds[index]
        rows["threshold"] = np.full(len(places), np.nan if threshold is None else threshold)
        rows["threshold"][-1] = np.nan
        return rows
