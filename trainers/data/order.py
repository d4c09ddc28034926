"""The order in which samples are visited, and the choice of the probe's samples: pure functions of a few integers."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from trainers.errors import TrainerError
from trainers.seeding import generator_for

__all__ = ["epoch_order", "probe_batches", "probe_share", "probe_subset"]


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
    _require_share(fraction)
    seed = int.from_bytes(hashlib.blake2b(fingerprint.encode(), digest_size=8).digest(), "big")
    count = max(1, round(fraction * num_samples))
    return torch.randperm(num_samples, generator=generator_for(seed))[:count]


def probe_batches(
    num_samples: int, fraction: float, *, batch_size: int, fingerprint: str, smaller: bool = False
) -> list[Tensor]:
    """The probe's samples in batches of one size, whatever the fraction, so that fractions define f in the same way.

    Where examples of a batch depend on one another, as under batch normalisation, f depends on the size of its batches;
    and only over batches of one size is the mean of their losses the mean over samples. So the share is rounded to
    whole batches: to the nearest number of them, at least one, at most those that the data hold.

    Args:
        num_samples: Number of samples to choose from.
        fraction: Share wanted, in (0, 1]; :func:`probe_share` says which it becomes.
        batch_size: Samples per batch.
        fingerprint: Of the data.
        smaller: Whether a share of less than one batch becomes one smaller batch instead of a whole one: for losses
            whose mean over samples does not depend on how they are cut into batches.

    Returns:
        Indices, a tensor of shape (batch_size,) per batch. One smaller batch where all data together do not fill one,
        or where ``smaller`` allows it. A larger fraction's samples contain the smaller one's.

    Raises:
        TrainerError: ``fraction`` lies outside (0, 1].

    Example:
        >>> [len(batch) for batch in probe_batches(50, 0.5, batch_size=10, fingerprint="abc")]
        [10, 10]
        >>> [len(batch) for batch in probe_batches(50, 0.1, batch_size=10, fingerprint="abc")]
        [10]
        >>> [len(batch) for batch in probe_batches(50, 0.1, batch_size=10, fingerprint="abc", smaller=True)]
        [5]
    """
    count = _num_probed(num_samples, fraction, batch_size=batch_size, smaller=smaller)
    chosen = probe_subset(num_samples, 1.0, fingerprint=fingerprint)[:count]
    return list(torch.split(chosen, batch_size))


def probe_share(num_samples: int, fraction: float, *, batch_size: int, smaller: bool = False) -> float:
    """The share of the samples that :func:`probe_batches` takes where a fraction is asked for.

    Args:
        num_samples: As there; so are the others.
        fraction: See there.
        batch_size: See there.
        smaller: See there.

    Returns:
        The share, in (0, 1].

    Raises:
        TrainerError: ``fraction`` lies outside (0, 1].

    Example:
        >>> probe_share(50, 0.5, batch_size=10), probe_share(50, 0.1, batch_size=10)
        (0.4, 0.2)
    """
    return _num_probed(num_samples, fraction, batch_size=batch_size, smaller=smaller) / num_samples


def _num_probed(num_samples: int, fraction: float, *, batch_size: int, smaller: bool) -> int:
    """How many samples the probe has."""
    _require_share(fraction)
    wanted = max(1, round(fraction * num_samples))
    if num_samples < batch_size or (smaller and wanted < batch_size):
        return wanted
    return min(max(1, round(wanted / batch_size)), num_samples // batch_size) * batch_size


def _require_share(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise TrainerError(f"the probe's share of the training data must lie in (0, 1], not {fraction!r}")
