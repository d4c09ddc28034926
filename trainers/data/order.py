"""The order in which samples are visited, and the choice of the probe's samples: pure functions of a few integers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from trainers.errors import TrainerError
from trainers.seeding import generator_for

__all__ = ["epoch_order", "epochs_on", "merged", "probe_batches", "probe_share", "probe_subset"]


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


def epochs_on(device: torch.device, plan: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """What steps need of their epoch, on the device: brought there once an epoch, not at every step.

    A copy from ordinary memory makes a GPU be waited for.

    Args:
        device: Where it is needed.
        plan: From an epoch to a tensor on the CPU, a pure function.

    Returns:
        The same function, with its result on the device; those of two epochs are held.

    Example:
        >>> orders = epochs_on(torch.device("cpu"), lambda epoch: epoch_order(3, 0, epoch))
        >>> orders(1) is orders(1), len(orders(0))
        (True, 3)
    """
    return lru_cache(maxsize=2)(lambda epoch: plan(epoch).to(device))


def probe_subset(num_samples: int, fraction: float, *, fingerprint: str, draw: int = 0) -> Tensor:
    """The samples that define f: a random subset that depends on the data alone, never on a trial's seed.

    A larger fraction contains the smaller one's samples.

    Args:
        num_samples: Number of samples to choose from.
        fraction: Share to choose, in (0, 1]; at least one sample is chosen.
        fingerprint: Of the data.
        draw: Which of the disjoint subsets of this size.

    Returns:
        Different indices in random order, shape (round(fraction num_samples),).

    Raises:
        TrainerError: ``fraction`` lies outside (0, 1], or there are not enough samples for so many draws.

    Example:
        >>> len(probe_subset(50, 0.1, fingerprint="abc"))
        5
        >>> one, other = (set(probe_subset(50, 0.4, fingerprint="abc", draw=k).tolist()) for k in range(2))
        >>> len(one), len(other), one & other
        (20, 20, set())
    """
    _require_share(fraction)
    seed = int.from_bytes(hashlib.blake2b(fingerprint.encode(), digest_size=8).digest(), "big")
    count = max(1, round(fraction * num_samples))
    return _drawn(torch.randperm(num_samples, generator=generator_for(seed)), count, draw)


def probe_batches(
    num_samples: int, fraction: float, *, batch_size: int, fingerprint: str, smaller: bool = False, draw: int = 0
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
        draw: Which of the disjoint choices of this size.

    Returns:
        Indices, a tensor of shape (batch_size,) per batch. One smaller batch where all data together do not fill one,
        or where ``smaller`` allows it. The first draw of a larger fraction contains the smaller one's.

    Raises:
        TrainerError: ``fraction`` lies outside (0, 1], or there are not enough samples for so many draws.

    Example:
        >>> [len(batch) for batch in probe_batches(50, 0.5, batch_size=10, fingerprint="abc")]
        [10, 10]
        >>> [len(batch) for batch in probe_batches(50, 0.1, batch_size=10, fingerprint="abc")]
        [10]
        >>> [len(batch) for batch in probe_batches(50, 0.1, batch_size=10, fingerprint="abc", smaller=True)]
        [5]
    """
    count = _num_probed(num_samples, fraction, batch_size=batch_size, smaller=smaller)
    chosen = _drawn(probe_subset(num_samples, 1.0, fingerprint=fingerprint), count, draw)
    return list(torch.split(chosen, batch_size))


def merged(batches: Sequence[Tensor], largest: int) -> list[Tensor]:
    """The samples of batches of one size in fewer, larger ones, still of one size.

    For a loss whose mean over samples does not depend on how they are cut into batches, on a device that computes more
    of them in the same time.

    Args:
        batches: Indices, as :func:`probe_batches` gives them.
        largest: Samples that a batch may have at most.

    Returns:
        The same indices in the same order; the batches as they are where no such size is larger.

    Example:
        >>> batches = probe_batches(90, 1.0, batch_size=10, fingerprint="abc")
        >>> [len(batch) for batch in merged(batches, 40)], [len(batch) for batch in merged(batches, 19)][:2]
        ([30, 30, 30], [18, 18])
    """
    total = sum(len(batch) for batch in batches)
    for count in range(max(1, -(-total // largest)), len(batches)):
        if total % count == 0:
            return list(torch.split(torch.cat(list(batches)), total // count))
    return list(batches)


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


def _drawn(order: Tensor, count: int, draw: int) -> Tensor:
    """The draw-th part of a permutation."""
    if (draw + 1) * count > len(order):
        raise TrainerError(
            f"{draw + 1} probes of {count} samples each need {(draw + 1) * count}, and the training data hold "
            f"{len(order)}: at most {len(order) // count} can be drawn without a sample in two of them; lower "
            "measure.probes or measure.data_fraction"
        )
    return order[draw * count : (draw + 1) * count]


def _require_share(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise TrainerError(f"the probe's share of the training data must lie in (0, 1], not {fraction!r}")
