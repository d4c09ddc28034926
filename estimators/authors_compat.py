"""The arithmetic of the script that Zhang et al. (2020) published, flaws included: for comparison, never for results.

Everyone who has measured (L0, L1)-smoothness so far started from that script, so numbers in the literature can only be
compared through it. What it does, and what this module does about it:

==  =====================================================================================  ==========================
    the script                                                                              here
==  =====================================================================================  ==========================
1   Sums the gradients over the batches in the numerator, divides only the norm by their     the same: the value is
    number.                                                                                  ``num_batches`` too large
2   Draws new sequence lengths at each of the two points, so that the two gradients are       the same, if
    of different functions: the same weights twice do not give 0.                            ``redraw_lengths``; see
                                                                                             ``null_smoothness``
3   Looks at gamma = 1/2 only.                                                               the same
4   Keeps regularisers of activations inside f.                                              the same, where the
                                                                                             problem trains with any
5   Keeps the model in training mode: dropout draws anew, batch-norm normalises by the       the same
    batch.
6   Divides by gamma ||d||, not by the distance of the rounded parameters.                   the same
7   Adds a multiple of the squared norm of the gradient summed so far to the loss, as a      nothing: its gradient is
    plain number.                                                                            zero there as well
8   Takes the first tenth of the text in order and hands the hidden state on from batch to   not expressible: the probe
    batch.                                                                                   is a random subset with
                                                                                             state zero
9   Draws from the generators that training draws from, so that measuring changes training.  not reproduced: the draws
                                                                                             are seeded
==  =====================================================================================  ==========================

A redrawn length is expressed by cutting each batch along its first dimension, which is time for text. The script's
lengths may also exceed the nominal one by a few tokens, which a frozen batch does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from estimators.probe.arithmetic import full_float32
from estimators.probe.copies import copy_of
from estimators.probe.gradient import differentiate
from estimators.probe.probe import Probe
from estimators.probe.vectors import length

__all__ = ["authors_compat_row", "redrawn_length"]

_GAMMA = 0.5
_SPREAD = 5.0
_SHORTEST = 5
_FULL_LENGTH = 0.95
_PLAIN = (1e-12, 1e18)


def authors_compat_row(probe: Probe, iterates: Tensor, *, redraw_lengths: bool = True) -> dict[str, Any]:
    """Smoothness and gradient norm as the published script computes them. Not eq. (20); see the module.

    Costs three gradients, one of them for ``null_smoothness``.

    Args:
        probe: f; its batches, the training loss, and the model in training mode are used.
        iterates: x_k and x_{k+1}, shape (2, num_parameters).
        redraw_lengths: Whether batches are cut to a random length along their first dimension, drawn again at each
            point.

    Returns:
        ``grad_norm``, ``smoothness`` (null for a zero step), ``null_smoothness``, which is what the script would report
        for x_k against itself, where 0 is right, ``update_norm`` and ``num_batches``.
    """
    model = copy_of(probe.model).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    devices = [iterates.device] if iterates.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), full_float32():
        torch.manual_seed(0)
        lengths = torch.Generator().manual_seed(0) if redraw_lengths else None
        start = _summed_gradient(probe, model, parameters, iterates[0], lengths)
        middle = (1 - _GAMMA) * iterates[0] + _GAMMA * iterates[1]
        there = _summed_gradient(probe, model, parameters, middle, lengths)
        again = _summed_gradient(probe, model, parameters, iterates[0], lengths)
    count = len(probe.batches)
    update_norm = _norm(iterates[1] - iterates[0])
    step = _GAMMA * update_norm
    return {
        "grad_norm": _norm(start) / count,
        "smoothness": _norm(there - start) / step if step else None,
        "null_smoothness": _norm(again - start) / step if step else None,
        "update_norm": update_norm,
        "num_batches": count,
    }


def redrawn_length(full: int, generator: torch.Generator) -> int:
    """A sequence length as the script draws it (after Merity et al., 2018).

    Args:
        full: The nominal length.
        generator: Source of the draws.

    Returns:
        With probability 0.95 about ``full``, otherwise about half of it, each with a standard deviation of 5, between 5
        and ``full``.

    Example:
        >>> all(5 <= redrawn_length(35, torch.Generator().manual_seed(seed)) <= 35 for seed in range(100))
        True
    """
    centre = full if float(torch.rand((), generator=generator)) < _FULL_LENGTH else full / 2
    drawn = int(centre + _SPREAD * float(torch.randn((), generator=generator)))
    return min(full, max(_SHORTEST, drawn))


def _summed_gradient(
    probe: Probe, model: nn.Module, parameters: list[nn.Parameter], point: Tensor, lengths: torch.Generator | None
) -> Tensor:
    """Gradients of all batches, summed and not averaged, shape (num_parameters,)."""
    with torch.no_grad():
        for parameter, piece in zip(parameters, torch.split(point, [p.numel() for p in parameters]), strict=True):
            parameter.copy_(piece.view_as(parameter))
    model.zero_grad()
    for batch in probe.batches:
        shown = batch if lengths is None else _cut(batch, redrawn_length(_first_size(batch), lengths))
        loss, _ = probe.training_loss(model, shown, probe.initial_carry())
        differentiate(loss)
    return torch.cat([
        torch.zeros_like(p).reshape(-1) if p.grad is None else p.grad.to_dense().reshape(-1) for p in parameters
    ])


def _norm(vector: Tensor) -> float:
    """As the script adds it up, in float32; where that overflows or underflows, what it stands for."""
    plain = float(torch.linalg.vector_norm(vector))
    return plain if _PLAIN[0] < plain < _PLAIN[1] else length(vector)


def _first_size(tree: Any) -> int:
    """Size of the first dimension of the first tensor that has one; 1 if there is none."""
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.ndim else 1
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return max((_first_size(item) for item in tree), default=1)
    return 1


def _cut(tree: Any, length: int) -> Any:
    """The first ``length`` rows of every tensor of a batch."""
    if isinstance(tree, Tensor):
        return tree[:length] if tree.ndim else tree
    if isinstance(tree, Mapping):
        return {key: _cut(value, length) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_cut(value, length) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(_cut(value, length) for value in tree)
    return tree
