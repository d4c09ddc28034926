"""Bounded noise of the gradient, Assumption 5: a pure function of seed and step, shared by all trials of one seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["NOISES", "NoiseStream"]

Array = NDArray[np.float64]

_CHUNK_STEPS = 256


def _sphere(generator: np.random.Generator, steps: int, dimension: int) -> Array:
    """Directions of length 1; in one dimension a fair coin."""
    if dimension == 1:
        return np.asarray(generator.integers(0, 2, (steps, 1)) * 2.0 - 1.0)
    directions = generator.standard_normal((steps, dimension))
    return np.asarray(directions / np.sqrt((directions * directions).sum(axis=1, keepdims=True)))


def _ball(generator: np.random.Generator, steps: int, dimension: int) -> Array:
    """Points of the unit ball, uniformly."""
    directions = _sphere(generator, steps, dimension)
    radii: Array = directions * generator.random((steps, 1)) ** (1 / dimension)
    return radii


NOISES: dict[str, Callable[[np.random.Generator, int, int], Array]] = {"sphere": _sphere, "ball": _ball}
"""Name to ``(generator, steps, dimension) -> (steps, dimension)``, of norm at most 1 and mean 0."""


class NoiseStream:
    """The noise of several seeds, step by step.

    Args:
        kind: One of :data:`NOISES`.
        seeds: One for each lane; equal seeds see equal noise.
        dimension: Of the points.
        device: Where the noise is wanted; it is drawn on the CPU, so that it is the same everywhere.

    Example:
        >>> stream = NoiseStream("sphere", [3, 4, 3], 1)
        >>> noise = stream.at(7)
        >>> noise.shape, bool(noise[0, 0] == noise[0, 2]), set(noise[0].abs().tolist())
        (torch.Size([1, 3]), True, {1.0})
    """

    def __init__(self, kind: str, seeds: Sequence[int], dimension: int, device: str = "cpu") -> None:
        self._draw = NOISES[kind]
        self._dimension = dimension
        self._device = device
        self._seeds, lane_seed = np.unique(np.asarray(seeds, dtype=np.int64), return_inverse=True)
        self._lane_seed = torch.from_numpy(lane_seed).to(device)
        self._chunk = -1
        self._held = torch.empty(0)

    def at(self, step: int) -> Tensor:
        """The noise of one step, shape (dimension, lanes), float64."""
        chunk, offset = divmod(step, _CHUNK_STEPS)
        if chunk != self._chunk:
            draws = [self._chunk_of(int(seed), chunk) for seed in self._seeds]
            self._held = torch.from_numpy(np.stack(draws, axis=-1)).to(self._device)
            self._chunk = chunk
        return self._held[offset].index_select(1, self._lane_seed)

    def take(self, lanes: Tensor) -> NoiseStream:
        """The same noise for some lanes, chosen by their places, shape (chosen,)."""
        taken = copy.copy(self)
        taken._lane_seed = self._lane_seed[lanes]
        return taken

    def _chunk_of(self, seed: int, chunk: int) -> Array:
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, chunk])))
        return self._draw(generator, _CHUNK_STEPS, self._dimension)
