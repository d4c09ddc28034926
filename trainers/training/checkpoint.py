"""The whole state of training at one step, to and from bytes: safetensors with a JSON tree, never pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from trainers.errors import CheckpointError

__all__ = ["TrainingState", "dump", "load"]

_FORMAT = "clipsweep-training-state-1"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """What a trial needs to continue from x_k as if it had never stopped; random numbers are functions of the step.

    Attributes:
        step: k, the next step to take.
        layout: Names and shapes of the trained parameters.
        parameters: x_k as one vector, shape (n,), on the CPU.
        buffers: The model's buffers by name, for example batch-norm's running averages.
        optimizer: The update rule's state for the one flat parameter: of its optimiser, momentum and average.
        carry: What step k - 1 passed on.
        num_clipped: Number of clipped steps before k.
        last_finite_loss: The last finite training loss before k; None if there was none.
    """

    step: int
    layout: tuple[tuple[str, tuple[int, ...]], ...]
    parameters: Tensor
    buffers: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    carry: Any
    num_clipped: int
    last_finite_loss: float | None


def dump(state: TrainingState) -> bytes:
    """A training state as bytes; equal states give equal bytes.

    Args:
        state: Its trees may hold tensors, numbers, booleans, text, None, tuples, lists and dicts with text keys.

    Returns:
        A safetensors file: the tensors, and under the metadata key ``clipsweep`` the rest as JSON.

    Raises:
        CheckpointError: A tree holds something else.
    """
    tensors: dict[str, Tensor] = {}
    tree = {field.name: _pack(getattr(state, field.name), field.name, tensors) for field in fields(state)}
    text = json.dumps({"format": _FORMAT, "state": tree}, sort_keys=True)
    data: bytes = safetensors.torch.save(tensors, metadata={"clipsweep": text})
    return data


def load(data: bytes) -> TrainingState:
    """The training state that :func:`dump` wrote.

    Args:
        data: The bytes. Their form is checked, but not their integrity: whoever stores them keeps a hash.

    Returns:
        The state, its tensors on the CPU.

    Raises:
        CheckpointError: The bytes are truncated, of another format or no checkpoint at all.
    """
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        document = json.loads(header["__metadata__"]["clipsweep"])
        if document["format"] != _FORMAT:
            raise CheckpointError(f"a checkpoint of format {document['format']!r}, where {_FORMAT!r} is read")
        state = {field.name: _unpack(document["state"][field.name], tensors) for field in fields(TrainingState)}
    except CheckpointError:
        raise
    except _MALFORMED as error:
        raise CheckpointError(f"not a checkpoint ({len(data)} bytes): {type(error).__name__}: {error}") from error
    for name, is_right in _FORMS.items():
        if not is_right(state[name]):
            raise CheckpointError(f"not a checkpoint: {name} cannot be {state[name]!r:.80}")
    return TrainingState(**state)


_MALFORMED = (
    safetensors.SafetensorError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_layout(value: Any) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(entry, tuple)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], tuple)
        and all(map(_is_count, entry[1]))
        for entry in value
    )


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "step": _is_count,
    "layout": _is_layout,
    "parameters": lambda value: isinstance(value, Tensor) and value.dim() == 1,
    "buffers": lambda value: isinstance(value, dict) and all(isinstance(one, Tensor) for one in value.values()),
    "optimizer": lambda value: isinstance(value, dict),
    "num_clipped": _is_count,
    "last_finite_loss": lambda value: value is None or isinstance(value, float),
}
"""What each field may hold when it is read; the carry is up to the problem."""


def _pack(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The tree as JSON, its tensors moved into ``tensors`` under their paths."""
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": path}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, tuple | list):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_pack(part, f"{path}/{index}", tensors) for index, part in enumerate(tree)]}
    if isinstance(tree, Mapping) and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _pack(part, f"{path}/{key}", tensors) for key, part in tree.items()}}
    raise CheckpointError(
        f"{path} holds a {type(tree).__name__}, which cannot be kept in a checkpoint; accepted: tensors, numbers, "
        "text, None, tuples, lists, dicts with text keys"
    )


def _unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`_pack`."""
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_unpack(part, tensors) for part in content)
    if kind == "list":
        return [_unpack(part, tensors) for part in content]
    if kind == "dict":
        return {key: _unpack(part, tensors) for key, part in content.items()}
    raise CheckpointError(f"not a checkpoint: unknown node {kind!r}")
