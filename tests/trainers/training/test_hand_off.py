"""Snapshots leave a GPU through pinned memory that is used again, but not while somebody holds it; no GPU needed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.training.hand_off import HandOff


class Gpu:
    """In place of torch.cuda, and of pinned memory; copies are done at once."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.made: list[Tensor] = []
        self.side = SimpleNamespace(
            wait_stream=lambda other: self.events.append("side waits"),
            synchronize=lambda: self.events.append("synchronized"),
        )

    def Stream(self) -> Any:
        return self.side

    def current_stream(self) -> str:
        return "current"

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.events.append("on side")
        yield
        self.events.append("off side")

    def pinned(self, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        self.made.append(torch.empty(shape, dtype=dtype))
        return self.made[-1]


def hand_off(gpu: Gpu) -> HandOff:
    return HandOff(torch.device("cuda"), cuda=gpu, pinned=gpu.pinned)


def pair(value: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.full((4,), value, dtype=dtype), torch.full((4,), value + 1, dtype=dtype)]


def test_copies_run_beside_the_step_and_are_waited_for_once() -> None:
    gpu = Gpu()
    one = hand_off(gpu)
    one.begin(pair(1.0))
    assert gpu.events == ["side waits", "on side", "off side"]
    for _ in range(2):
        found = one.finish()
        assert found is not None
        assert found.tolist() == [[1.0] * 4, [2.0] * 4]
    assert gpu.events[3:] == ["synchronized"]


def test_vectors_are_held_until_they_are_copied() -> None:
    one = hand_off(Gpu())
    vectors = pair(1.0)
    one.begin(vectors)
    assert one._copied is vectors
    one.begin(pair(2.0))
    assert one._copied is not vectors
    one.finish()
    assert not one._copied


@pytest.mark.parametrize(
    "keep", [lambda array: array, lambda array: array[0], memoryview, torch.from_numpy, pickle.PickleBuffer]
)
def test_what_somebody_holds_in_any_form_is_not_written_again(keep: Any) -> None:
    gpu = Gpu()
    one = hand_off(gpu)
    one.begin(pair(1.0))
    held = keep(one.finish())
    one.begin(pair(5.0))
    one.finish()
    first = held if not isinstance(held, pickle.PickleBuffer) else memoryview(held)
    assert np.asarray(first).reshape(-1)[:4].tolist() == [1.0] * 4
    assert len(gpu.made) == 2


def test_memory_that_nobody_holds_is_used_again() -> None:
    gpu = Gpu()
    one = hand_off(gpu)
    for value in range(5):
        one.begin(pair(float(value)))
        found = one.finish()
        assert found is not None
        assert found[0, 0] == value
        del found
    assert len(gpu.made) == 1


@pytest.mark.parametrize(
    ("dtype", "wide"), [(torch.float64, "float64"), (torch.float32, "float32"), (torch.bfloat16, "float32")]
)
def test_a_type_is_kept_or_widened(dtype: torch.dtype, wide: str) -> None:
    for one in (hand_off(Gpu()), HandOff(torch.device("cpu"))):
        one.begin([*pair(1.5, dtype), torch.ones(4, dtype=dtype)])
        found = one.finish()
        assert found is not None
        assert (found.dtype, found.shape) == (np.dtype(wide), (3, 4))
        assert found[1].tolist() == [2.5] * 4


def test_where_no_memory_can_be_pinned_ordinary_memory_does() -> None:
    def refuse(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    gpu = Gpu()
    one = HandOff(torch.device("cuda"), cuda=gpu, pinned=refuse)
    one.begin(pair(1.0))
    found = one.finish()
    assert found is not None
    assert found.tolist() == [[1.0] * 4, [2.0] * 4]
    assert gpu.events == []
