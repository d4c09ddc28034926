"""Sequences of random length, as a pure function of seed and epoch, with the same number of steps in every epoch."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from trainers.seeding import generator_for

__all__ = ["epoch_starts", "num_sequences"]


def num_sequences(total: int, length: int, *, halved: float) -> int:
    """The number of sequences into which an epoch is cut: ``total`` over the mean length.

    Args:
        total: Tokens of a stream that are predicted in one epoch.
        length: The usual length.
        halved: Probability of half of it.

    Returns:
        A number below 1 if the stream is too short for one sequence.

    Example:
        >>> num_sequences(46_478, 70, halved=0.05)  # Penn Treebank in 20 streams
        680
    """
    return int(total / (length * (1 - halved / 2)))


# Consecutive steps share an epoch; two epochs cover a look ahead.
@lru_cache(maxsize=2)
def epoch_starts(total: int, length: int, *, halved: float, jitter: float, seed: int, epoch: int) -> Tensor:
    """Where the sequences of one epoch begin.

    The lengths are drawn as Merity et al. (2018), Section 5, draw them: normal around ``length``, with probability
    ``halved`` around half of it, rounded down. Those alone would give each epoch a different number of steps, so any
    surplus or shortfall is spread evenly over the epoch, about one token per sequence, and every token is visited
    once. No sequence is shorter than a token or longer than ``2 length``.

    Args:
        total: Tokens of a stream that are predicted in one epoch.
        length: The usual length.
        halved: Probability of half of it.
        jitter: Standard deviation of the lengths, in tokens.
        seed: The trial's seed.
        epoch: Counted from 0.

    Returns:
        Rising positions from 0 to ``total``, both included, int64, shape (num_sequences + 1,). Shared by all callers:
        not to be changed.

    Example:
        >>> starts = epoch_starts(100, 10, halved=0.1, jitter=2.0, seed=0, epoch=0)
        >>> len(starts), starts[0].item(), starts[-1].item()
        (11, 0, 100)
    """
    count = num_sequences(total, length, halved=halved)
    generator = generator_for(seed, epoch)
    short = torch.rand(count, generator=generator, dtype=torch.float64) < halved
    mean = torch.where(short, length / 2, float(length)).double()
    lengths = (mean + jitter * torch.randn(count, generator=generator, dtype=torch.float64)).floor().long()
    lengths = lengths.clamp(1, 2 * length)
    # The rest in equal shares, with the remainder placed at random; repeated where a limit is hit.
    while rest := total - int(lengths.sum()):
        sign = 1 if rest > 0 else -1
        free = (lengths < 2 * length if sign > 0 else lengths > 1).nonzero().flatten()
        share = abs(rest) // len(free)
        lengths[free] += sign * share
        chosen = free[torch.randperm(len(free), generator=generator)[: abs(rest) - share * len(free)]]
        lengths[chosen] += sign
        lengths = lengths.clamp(1, 2 * length)
    return torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
