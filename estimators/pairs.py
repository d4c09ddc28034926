"""Measuring saved pairs of weights from any source: no sweep, no Ray."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from estimators.probe.gradient import Loss
from estimators.probe.policy import ProbePolicy
from estimators.probe.probe import AuditAt, Probe
from estimators.registry import ESTIMATORS, require_known

__all__ = ["find_pairs", "load_weights", "measure_pairs"]

Pair = tuple[int, Mapping[str, Tensor] | Path, Mapping[str, Tensor] | Path]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_STEP = re.compile(r"(\d+)(?!.*\d)")


def measure_pairs(
    pairs: Path | str | Iterable[Pair],
    model: nn.Module,
    loss: Loss,
    batches: Iterable[Any],
    *,
    estimators: Mapping[str, Mapping[str, Any]] | None = None,
    audit: Iterable[Any] | None = None,
    audit_at: AuditAt = "snapshot",
    initial_carry: Callable[[], Any] = lambda: None,
    policy: ProbePolicy | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure pairs of consecutive weights with estimators.

    Args:
        pairs: A folder as :func:`find_pairs` reads it, or triples of a step, the weights before it and after it, as
            state dicts or files.
        model: The model; its parameters' names are looked up in the state dicts, its own values do not matter.
        loss: ``loss(model, batch, carry) -> (mean loss, carry)``.
        batches: The frozen probe batches, of equal size, on the model's device.
        estimators: Name in :data:`~estimators.registry.ESTIMATORS` to options; ``directional_smoothness`` by default.
        audit: Batches for the audit in float64; the probe's by default, which is exact and the most expensive.
        audit_at: As for :class:`~estimators.probe.probe.Probe`.
        initial_carry: Makes the state with which every probe batch starts; None where the loss needs none.
        policy: What f does about batch-norm.

    Yields:
        One row per pair and estimator: ``step``, ``estimator``, what the estimator says, ``probe`` and ``arithmetic``.

    Raises:
        ValueError: An estimator is unknown, a parameter is missing from the weights or has another shape, or a folder
            holds no pairs.
        UnfaithfulCopyError: The loss or the model's forward pass uses the model itself, where a copy is measured.
        RandomLossError: The same weights give two losses.
        SecondDerivativeError: An estimator needs the Hessian, and products with it leave out a part.
    """
    chosen = estimators if estimators is not None else {"directional_smoothness": {}}
    require_known(chosen)
    probe = Probe(model, loss, batches, audit=audit, audit_at=audit_at, initial_carry=initial_carry, policy=policy)
    probe.require_faithful_copy()
    for step, before, after in find_pairs(pairs) if isinstance(pairs, (str, Path)) else pairs:
        iterates = torch.stack([_flat(model, before), _flat(model, after)])
        with probe.require_repeats(iterates[0]):
            rows = {name: ESTIMATORS[name](probe, iterates, **options) for name, options in chosen.items()}
        for name, row in rows.items():
            described = {"probe": probe.policy.words, "arithmetic": probe.arithmetic}
            yield {"step": step, "estimator": name} | row | described


def find_pairs(folder: Path | str) -> list[tuple[int, Path, Path]]:
    """Files of a folder whose last numbers are k and k + 1.

    Args:
        folder: Holds ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` files. The step is the last number of each name:
            ``step-0007.pt`` and ``step-0008.pt`` are a pair.

    Returns:
        Step and both files, in the order of the steps.

    Raises:
        ValueError: There are no two consecutive steps, or two files of one step.
    """
    found: dict[int, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        number = _STEP.search(path.stem)
        if path.suffix not in _SUFFIXES or number is None:
            continue
        step = int(number[1])
        if step in found:
            raise ValueError(f"{folder}: {found[step].name} and {path.name} are both of step {step}")
        found[step] = path
    pairs = [(k, found[k], found[k + 1]) for k in sorted(found) if k + 1 in found]
    if not pairs:
        steps = ", ".join(map(str, itertools.islice(sorted(found), 5))) or "none"
        raise ValueError(
            f"{folder}: no two files of consecutive steps; the step is the last number of a name ending in "
            f"{', '.join(_SUFFIXES)}; found steps: {steps}"
        )
    return pairs


def load_weights(path: Path | str) -> Mapping[str, Tensor]:
    """A state dict from a file, without running anything that the file may hold.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote: a state dict, or a mapping that holds one under
            ``state_dict``, ``model_state_dict`` or ``model``.

    Returns:
        Name to tensor, on the CPU.

    Raises:
        ValueError: The file holds no state dict.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        weights: dict[str, Tensor] = load_file(path)
        return weights
    held = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{path}: holds no state dict; save model.state_dict()")
    return held


def _flat(model: nn.Module, weights: Mapping[str, Tensor] | Path) -> Tensor:
    """The weights as one vector in the order of the model's parameters."""
    if isinstance(weights, Path):
        weights = load_weights(weights)
    pieces = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # DistributedDataParallel and torch.compile add prefixes.
        known = next((key for key in (name, f"module.{name}", f"_orig_mod.{name}") if key in weights), None)
        if known is None:
            raise ValueError(f"the weights have no {name!r}; there are: {_listed(list(weights))}")
        tensor = weights[known]
        if tensor.shape != parameter.shape:
            raise ValueError(f"{name!r} has shape {tuple(tensor.shape)}, and the model's {tuple(parameter.shape)}")
        pieces.append(tensor.reshape(-1).to(dtype=parameter.dtype, device=parameter.device))
    return torch.cat(pieces)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
