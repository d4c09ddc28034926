"""The iterates of a snapshot in CPU memory that belongs to whoever receives them.

From a GPU, a copy into fresh ordinary memory takes several times as long as one into pinned memory, which in turn takes
long to make. So pinned memory is used again, but only once nobody holds the array any more that was last handed out.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["HandOff"]


def _pinned(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)


class HandOff:
    """Copies vectors from a device into the rows of an array.

    Args:
        device: Where the vectors are.
        cuda: ``torch.cuda``, or what a test has in its place.
        pinned: Makes pinned memory of a shape and type; raises RuntimeError where there is none.

    Example:
        >>> hand_off = HandOff(torch.device("cpu"))
        >>> hand_off.begin([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
        >>> hand_off.finish().tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """

    def __init__(
        self,
        device: torch.device,
        *,
        cuda: Any = torch.cuda,
        pinned: Callable[[tuple[int, int], torch.dtype], Tensor] = _pinned,
    ) -> None:
        self._make = pinned
        self._cuda = cuda if device.type == "cuda" else None
        self._stream: Any = None
        self._pinned: list[tuple[Tensor, weakref.ref[Any]]] = []
        self._array: np.ndarray[Any, Any] | None = None
        # Until they are copied, their memory must not be given to others.
        self._copied: Sequence[Tensor] = ()

    def begin(self, vectors: Sequence[Tensor]) -> None:
        """Begin to copy vectors; on a GPU beside what is launched next.

        Args:
            vectors: Of one length and type; not to be changed before :meth:`finish`.
        """
        self.finish()
        wide = torch.float64 if vectors[0].dtype == torch.float64 else torch.float32
        shape = (len(vectors), vectors[0].numel())
        pinned = None if self._cuda is None else self._memory(shape, wide)
        if self._cuda is None or pinned is None:
            # Fresh memory: the receiver serialises it later, when training has moved on.
            self._array = np.empty(shape, dtype=np.float64 if wide == torch.float64 else np.float32)
            for row, vector in zip(self._array, vectors, strict=True):
                torch.from_numpy(row).copy_(vector)
            return
        if self._stream is None:
            self._stream = self._cuda.Stream()
        self._stream.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(self._stream):
            for target, vector in zip(pinned, vectors, strict=True):
                target.copy_(vector, non_blocking=True)
        self._copied = vectors

    def finish(self) -> np.ndarray[Any, Any] | None:
        """Wait until the copies are there.

        Returns:
            The array of the last :meth:`begin`, float64 for vectors in float64 and float32 for all others, shape
            (vectors, n); None if there was none. It is its holder's for as long as it is held.
        """
        if self._copied:
            self._stream.synchronize()
            self._copied = ()
        return self._array

    def _memory(self, shape: tuple[int, int], dtype: torch.dtype) -> Tensor | None:
        """Pinned memory that nobody holds, as the array that is handed out next; None where none can be had."""
        self._array = None
        fits = [(memory.shape, memory.dtype) == (shape, dtype) for memory, _ in self._pinned]
        self._pinned = [pair for pair, fit in zip(self._pinned, fits, strict=True) if fit]
        at = next((at for at, (_, held) in enumerate(self._pinned) if held() is None), None)
        if at is None:
            with contextlib.suppress(RuntimeError):
                memory = self._make(shape, dtype)
                at = len(self._pinned)
                self._pinned.append((memory, weakref.ref(memory.numpy())))
        if at is None:
            return None
        memory = self._pinned[at][0]
        # Whatever is made of it, a slice, a memoryview or a tensor, keeps this array.
        self._array = memory.numpy()
        self._pinned[at] = memory, weakref.ref(self._array)
        return memory
