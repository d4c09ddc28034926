"""Seeds as pure functions of what they are for, so that no generator state has to be kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["generator_for", "mix", "seed_generators", "seed_other_generators", "seeded"]

_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """A 64-bit number that differs, for all practical purposes, between different sequences of integers.

    Each part is folded in with the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), whose every output bit
    depends on every input bit: torch's CPU generator uses only the lower 32 of them.

    Args:
        parts: Integers, of which the lower 64 bits count.

    Returns:
        An integer in [0, 2^64).

    Example:
        >>> mix(0, 1) == mix(0, 1), mix(0, 1) == mix(1, 0)
        (True, False)
    """
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & _MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
        value ^= value >> 31
    return value


def generator_for(*parts: int) -> torch.Generator:
    """A CPU generator seeded with ``mix(*parts)``: the same numbers on every device."""
    return torch.Generator().manual_seed(mix(*parts))


def seed_generators(device: torch.device, *parts: int) -> None:
    """Seed the global generators that layers like dropout draw from, on the CPU and on ``device``.

    Args:
        device: Where the model computes.
        parts: What the seed is a function of, for example the trial's seed and the step.
    """
    # Not torch.manual_seed: it visits every back end, which costs more than a small model's forward pass.
    torch.default_generator.manual_seed(mix(*parts))
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(mix(*parts))


def seed_other_generators(*parts: int) -> None:
    """Seed the global generators of Python and NumPy.

    Not before every step, since that takes longer than many a step: nothing of clipsweep's draws from them, and what a
    step draws, a resumed trial could not repeat.

    Args:
        parts: What the seed is a function of.
    """
    seed = mix(*parts)
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])


@contextmanager
def seeded(device: torch.device, *parts: int) -> Iterator[None]:
    """Seed all global generators, torch's, Python's and NumPy's, for a while; then they go on where they were.

    Args:
        device: Where the model computes.
        parts: What the seed is a function of.

    Yields:
        Nothing.

    Example:
        >>> with seeded(torch.device("cpu"), 7):
        ...     first = random.random(), float(np.random.rand()), float(torch.rand(()))
        >>> with seeded(torch.device("cpu"), 7):
        ...     first == (random.random(), float(np.random.rand()), float(torch.rand(())))
        True
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seed_generators(device, *parts)
            seed_other_generators(*parts)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
