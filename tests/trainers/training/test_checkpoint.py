"""A training state comes back from its bytes as it was, and other bytes are refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.errors import CheckpointError
from trainers.training.checkpoint import TrainingState, dump, load

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]

tensors = st.builds(
    lambda shape, dtype: torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(DTYPES),
)
leaves = tensors | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    leaves,
    lambda parts: (
        st.lists(parts, max_size=3) | st.lists(parts, max_size=3).map(tuple) | st.dictionaries(st.text(), parts)
    ),
    max_leaves=8,
)


def state_of(carry: Any = None, **other: Any) -> TrainingState:
    fields: dict[str, Any] = {
        "step": 3,
        "layout": (("w", (2,)),),
        "parameters": torch.tensor([1.0, -0.0]),
        "buffers": {"mean": torch.tensor(0.5)},
        "optimizer": {"step": torch.tensor(3.0), "momentum_buffer": None},
        "num_clipped": 2,
        "last_finite_loss": 0.1,
    }
    return TrainingState(**(fields | other), carry=carry)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.shape == second.shape and torch.equal(first, second)
    if isinstance(first, tuple | list):
        pairs = zip(first, second, strict=True)
        return type(first) is type(second) and all(equal(a, b) for a, b in pairs)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return type(first) is type(second) and first == second


@given(carry=trees)
def test_what_was_dumped_loads_as_it_was_and_dumps_to_the_same_bytes(carry: Any) -> None:
    data = dump(state_of(carry))
    loaded = load(data)
    assert equal(carry, loaded.carry)
    assert equal(vars(state_of(carry)), vars(loaded))
    assert dump(loaded) == data


@given(cut=st.integers(0, 10_000))
def test_truncated_bytes_are_refused(cut: int) -> None:
    data = dump(state_of((torch.ones(3), torch.zeros(2))))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load(data[: cut % len(data)])


@given(data=st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load(data)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_gives_another_state_or_an_error_of_ours(position: int, value: int) -> None:
    data = bytearray(dump(state_of()))
    data[position % len(data)] = value
    with contextlib.suppress(CheckpointError):
        assert isinstance(load(bytes(data)), TrainingState)


def test_a_foreign_safetensors_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load(safetensors.torch.save({"w": torch.ones(2)}))
    document = json.dumps({"format": "clipsweep-training-state-0", "state": {}})
    with pytest.raises(CheckpointError, match="format 'clipsweep-training-state-0'"):
        load(safetensors.torch.save({}, metadata={"clipsweep": document}))


@pytest.mark.parametrize("leaf", [object(), {1, 2}, {1: "a"}])
def test_a_carry_of_another_kind_is_refused_with_its_place(leaf: Any) -> None:
    with pytest.raises(CheckpointError, match="carry/1 holds a "):
        dump(state_of([None, leaf]))
