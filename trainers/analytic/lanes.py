r"""Thousands of trials on functions with known constants, side by side in float64.

A lane is one trial: one function, start, rule and seed. All lanes of a group take step k together, so a step is a
dozen calls of torch whatever their number; those that have hit, diverged or reached their cap are dropped. What a lane
returns depends on itself alone, never on the other lanes.

Lanes take a block of steps without anybody looking; from the smallest gradient norm in it follows which of them hit,
and those alone take the block again, watched step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.analytic.lane import Lane, LaneResult
from trainers.analytic.state import State, norms, start_state

__all__ = ["Block", "run_lanes", "watch_lanes"]

_BLOCK_STEPS = 64
"""Steps between two checks for finished lanes."""

_MAX_LANES, _MAX_LANES_ON_GPU = 16_384, 1 << 20
"""Lanes that advance together: on the CPU few enough that their numbers stay in its cache."""


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
    lanes: Sequence[Lane], *, should_stop: Callable[[], bool] = lambda: False, device: str = "cpu"
) -> Iterator[tuple[int, LaneResult] | Block]:
    """The same, with a heartbeat after every block of steps.

    Args:
        lanes: The trials.
        should_stop: Called between blocks; once it returns True, unfinished lanes are abandoned.
        device: Where they run. It must have float64; its exponential may differ in the last bit.

    Yields:
        Blocks, and index and result of each lane as they end.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, lane in enumerate(lanes):
        noise = lane.noise_kind if lane.noise else None
        groups.setdefault((type(lane.function), lane.dimension, lane.mode, lane.log_every, noise), []).append(index)
    together = _MAX_LANES if device == "cpu" else _MAX_LANES_ON_GPU
    for members in groups.values():
        for begin in range(0, len(members), together):
            chosen = members[begin : begin + together]
            group = _Group([lanes[index] for index in chosen], chosen, device)
            yield from group.run(should_stop)


class _Group:
    """Lanes of one kind, from their starts to their ends."""

    def __init__(self, lanes: Sequence[Lane], indices: Sequence[int], device: str) -> None:
        self._state = start_state(lanes, indices, device)
        self._log_every = lanes[0].log_every or self._state.mode.steps
        self._finite_loss = torch.full_like(self._state.epsilon, torch.nan)
        self._indices = np.asarray(indices)
        thresholds = [lane.rule.threshold for lane in lanes]
        self._thresholds = np.array([np.nan if threshold is None else threshold for threshold in thresholds])
        # The columns of each moment; ``index`` says which trial a value belongs to, in rising order.
        self._log: list[dict[str, np.ndarray[Any, Any]]] = []
        self._num_rows = np.zeros(len(lanes), dtype=np.int64)

    def run(self, should_stop: Callable[[], bool]) -> Iterator[tuple[int, LaneResult] | Block]:
        """Advance all lanes until none is left."""
        step, steps = 0, self._state.mode.steps
        while self._state.num_lanes:
            if should_stop():
                return
            state = self._state
            if step % self._log_every == 0:
                self._note(state, step)
            loss = state.function.value(state.x)
            self._finite_loss = torch.where(torch.isfinite(loss), loss, self._finite_loss)
            stop = min(step + _BLOCK_STEPS, step - step % self._log_every + self._log_every, steps)
            before = earlier = state.copy()
            for k in range(step, stop):
                if k == stop - 2:
                    earlier = state.copy()
                state.advance_unwatched(k)
            self._watch_again(step, stop, before)
            yield Block(step=stop, lane_steps=(stop - step) * state.num_lanes)
            yield from self._end_finished(step, stop, before)
            if stop - step > 2:
                yield from self._end_cycling(stop, earlier)
            step = stop

    def _watch_again(self, begin: int, stop: int, before: State) -> None:
        """Take a block again with the lanes that hit in it, or whose gradient was not finite."""
        state = self._state
        # False for NaN, too.
        chosen = state.above & (~(state.lowest > state.epsilon) | ~state.is_finite())
        state.age = torch.where(state.above, stop, state.age)
        if chosen.any():
            watched = before.take(chosen)
            for k in range(begin, stop):
                watched.advance(k)
            state.put(chosen, watched)

    def _end_finished(self, begin: int, step: int, before: State) -> Iterator[tuple[int, LaneResult]]:
        """Drop the lanes that have hit, diverged, or reached the cap."""
        state = self._state
        at_cap = step == state.mode.steps
        if at_cap:
            norm = state.grad_norm()
            # The last iterate may have hit as well.
            torch.fmin(state.lowest, norm, out=state.lowest)
            state.above &= norm > state.epsilon
            state.age += state.above
        sound = state.is_finite()
        ended = torch.full_like(sound, at_cap) | ~sound
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
        if earlier.num_lanes != state.num_lanes:
            earlier = earlier.take(torch.isin(earlier.index, state.index))
        cycling = (state.x == earlier.x).all(0)
        if not cycling.any():
            return
        caught, rest = state.take(cycling), steps - step
        caught.num_clipped += rest // 2 * (caught.num_clipped - earlier.num_clipped[cycling])
        if rest % 2:
            caught.advance(step)
        yield from self._results(caught, steps, self._finite_loss[cycling])
        self._state = state.take(~cycling)
        self._finite_loss = self._finite_loss[~cycling]

    def _diverged(self, begin: int, before: State, lanes: Tensor, loss: Tensor) -> Iterator[tuple[int, LaneResult]]:
        """Take the block's steps again, one by one, to find where each lane's gradient was no longer finite."""
        lost, loss = before.take(lanes), loss[lanes]
        step = begin
        while lost.num_lanes:
            value = lost.function.value(lost.x)
            loss = torch.where(torch.isfinite(value), value, loss)
            finite = lost.is_finite()
            yield from self._results(lost.take(~finite), step, loss[~finite], diverged=True)
            lost, loss = lost.take(finite), loss[finite]
            lost.advance(step)
            step += 1

    def _results(
        self, state: State, step: int, finite_loss: Tensor, *, diverged: bool = False
    ) -> Iterator[tuple[int, LaneResult]]:
        """Results of the lanes that end, each after ``step`` steps or at its earlier hit."""
        steps, stops = state.mode.steps, state.mode.stops_at_hit
        hits = state.lowest <= state.epsilon
        taken = torch.where(hits, state.age, step) if stops else torch.full_like(state.age, step)
        value = state.function.value(state.x)
        finite_loss = torch.where(torch.isfinite(value), value, finite_loss)
        columns = (state.index, hits, state.age, taken, state.num_clipped, finite_loss, state.lowest, state.tail)
        for index, hit, age, num_steps, num_clipped, loss, lowest, tail, rows in zip(
            *(column.tolist() for column in columns), self._rows_of(state, taken), strict=True
        ):
            yield (
                index,
                LaneResult(
                    status="hit" if hit else "diverged" if diverged else "capped",
                    hitting_time=age if hit else None,
                    num_steps=num_steps,
                    num_clipped=int(num_clipped),
                    diverged_step=step if diverged else None,
                    last_finite_loss=None if math.isnan(loss) else loss,
                    min_grad_norm=lowest,
                    tail_grad_norm=None if stops or diverged else tail / max(1, steps // 2),
                    rows=rows,
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
        columns = _columns(
            state, torch.full_like(state.age, step), norm, noisy_norm, size=size, clipped=size < state.eta, moved=moved
        )
        running = state.above & (norm > state.epsilon) if state.mode.stops_at_hit else torch.ones_like(state.above)
        chosen = running.cpu().numpy()
        self._log.append({name: column[chosen] for name, column in columns.items()})
        self._num_rows[np.searchsorted(self._indices, self._log[-1]["index"])] += 1

    def _rows_of(self, state: State, steps: Tensor) -> list[dict[str, np.ndarray[Any, Any]]]:
        """The rows of each lane that ends, with one for its last iterate, from which no step was taken."""
        nothing, no = torch.full_like(state.eta, torch.nan), torch.zeros_like(state.above)
        last = _columns(state, steps, state.grad_norm(), nothing, size=nothing, clipped=no, moved=nothing)
        ids = last.pop("index")
        places = np.searchsorted(self._indices, ids)
        rows: list[dict[str, np.ndarray[Any, Any]]] = [{}] * len(ids)
        # A lane has a row of every moment until it hits.
        counts = self._num_rows[places]
        for count in np.unique(counts).tolist():
            (chosen,) = np.nonzero(counts == count)
            moments = [(moment, np.searchsorted(moment["index"], ids[chosen])) for moment in self._log[:count]]
            columns = {
                name: np.stack([*(moment[name][at] for moment, at in moments), column[chosen]], axis=1)
                for name, column in last.items()
            }
            columns["threshold"] = np.repeat(self._thresholds[places[chosen]][:, None], count + 1, axis=1)
            columns["threshold"][:, -1] = np.nan
            for at, lane in enumerate(chosen.tolist()):
                rows[lane] = {name: column[at] for name, column in columns.items()}
        return rows


def _columns(
    state: State, steps: Tensor, norm: Tensor, noisy_norm: Tensor, *, size: Tensor, clipped: Tensor, moved: Tensor
) -> dict[str, np.ndarray[Any, Any]]:
    """A row for each lane, and which trial it is."""
    value = state.function.value(state.x)
    columns = {
        "index": state.index,
        "step": steps,
        "epoch": steps.double(),
        "train_loss": value,
        "grad_norm": noisy_norm,
        "step_size": size,
        "clipped": clipped,
        "update_norm": moved,
        "learning_rate": state.eta,
        "gap": value - state.function.minimum,
        "full_grad_norm": norm,
    }
    return {name: column.cpu().numpy() for name, column in columns.items()}
