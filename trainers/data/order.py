"""The order in which samples are visited, and the choice of the probe's samples: pure functions of a few integers."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from trainers.errors import TrainerError
from trainers.seeding import generator_for

__all__ = ["epoch_order", "equal_chunks", "probe_subset"]


# Consecutive steps share an epoch; two epochs cover a look ahead.
@lru_cache(maxsize=2)
def epoch_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which one epoch visits the samples.

    Args:
        num_samples: Number of samples.
        seed: The trial's seed.
        epoch: Counted from 0.

    Returns:
        A permutation of 0..num_samples - 1, shape (num_samples,). Shared by all callers: not to be changed.
    """
    return torch.randperm(num_samples, generator=generator_for(seed, epoch))


def probe_subset(num_samples: int, fraction: float, *, fingerprint: str) -> Tensor:
    """The samples that define f: a random subset that depends on the data alone, never on a trial's seed.

    A larger fraction contains the smaller one's samples.

    Args:
        num_samples: Number of samples to choose from.
        fraction: Share to choose, in (0, 1]; at least one sample is chosen.
        fingerprint: Of the data.

    Returns:
        Different indices in random order, shape (round(fraction num_samples),).

    Raises:
        TrainerError: ``fraction`` lies outside (0, 1].

    Example:
        >>> len(probe_subset(50, 0.1, fingerprint="abc"))
        5
    """
    if not 0 < fraction <= 1:
        raise TrainerError(f"the probe's share of the training data must lie in (0, 1], not {fraction!r}")
    seed = int.from_bytes(hashlib.blake2b(fingerprint.encode(), digest_size=8).digest(), "big")
    count = max(1, round(fraction * num_samples))
    return torch.randperm(num_samples, generator=generator_for(seed))[:count]


def equal_chunks(indices: Tensor, chunk_size: int) -> list[Tensor]:
    """The indices in chunks of one size, so that the mean of the chunks' means is the mean of all.

    Args:
        indices: Shape (n,).
        chunk_size: The largest chunk; with fewer indices, one chunk holds them all.

    Returns:
        Chunks of equal size. As few as possible are left out at the end: fewer than there are chunks.

    Example:
        >>> [len(chunk) for chunk in equal_chunks(torch.arange(11), 4)]
        [3, 3, 3]
    """
    num_chunks = -(-len(indices) // chunk_size)
    size = len(indices) // num_chunks
    return list(torch.split(indices[: num_chunks * size], size))
