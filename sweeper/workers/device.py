"""What a worker's process sets for its device before CUDA starts, and what it knows of it."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from sweeper.errors import error_line
from sweeper.planning.environment import driver_version

__all__ = ["Device", "examine_device"]

_WORKSPACE = ":4096:2"
"""With it cuBLAS, on which cuDNN's recurrent layers rest, adds in the same order every time; ``:16:8`` does, too."""

_RNN_WEIGHTS = "RNN module weights are not part of single contiguous chunk of memory"
"""They are views of one vector of all parameters, and cuDNN compacts them; nothing that a user could do about."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that a process computes on.

    Attributes:
        name: As torch names it, for example ``cpu`` or ``cuda``; Ray has already chosen which one is visible.
        share: The share of a GPU's memory that this process may use.
        cuda: ``torch.cuda``, or what a test has in its place.
        cudnn: ``torch.backends.cudnn``, or the same.
        environ: This process's environment.
    """

    name: str
    share: float = 1.0
    cuda: Any = field(default=torch.cuda, repr=False)
    cudnn: Any = field(default=torch.backends.cudnn, repr=False)
    environ: MutableMapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    @property
    def is_cuda(self) -> bool:
        """Whether it is one of NVIDIA's."""
        return self.name.partition(":")[0] == "cuda"

    def prepare(self) -> None:
        """Set what has to be set before anything of this process uses CUDA, and holds for all of it.

        A process on the CPU sees no GPU. One on a GPU computes the same bits every time, on the same model of GPU with
        the same driver and torch, and keeps to its share of the memory.

        Example:
            >>> seen = {}
            >>> Device(name="cpu", environ=seen).prepare()
            >>> seen
            {'CUDA_VISIBLE_DEVICES': ''}
        """
        if self.name == "cpu":
            # Not left to Ray, which hides them from no process on a cluster that it has joined.
            self.environ["CUDA_VISIBLE_DEVICES"] = ""
        if not self.is_cuda:
            return
        self.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACE)
        self.cudnn.deterministic = True
        self.cudnn.benchmark = False
        warnings.filterwarnings("ignore", message=re.escape(_RNN_WEIGHTS), category=UserWarning)
        if self.share < 1:
            # Starts CUDA, so it comes last.
            self.cuda.set_per_process_memory_fraction(self.share)

    def free(self) -> None:
        """Give memory that is cached for later back to others on the same GPU."""
        if self.is_cuda:
            # After an error that has come late this may be the first call to raise it; so does the next that matters.
            with contextlib.suppress(RuntimeError):
                self.cuda.empty_cache()

    @cached_property
    def facts(self) -> dict[str, str]:
        """What bits depend on, of a GPU: its name, and the versions of driver, CUDA, cuDNN and torch; none of a CPU."""
        if not self.is_cuda:
            return {}
        known = {
            "device": self.cuda.get_device_name(),
            "driver": driver_version(),
            "cuda": torch.version.cuda,
            "cudnn": self.cudnn.version(),
            "torch": torch.__version__,
        }
        return {name: str(value) for name, value in known.items() if value is not None}


def examine_device(*, name: str) -> Iterator[dict[str, str]]:
    """Whether one of NVIDIA's devices can be used.

    Args:
        name: As torch names it.

    Yields:
        One row: ``unusable`` says why not; empty if it can.
    """
    yield {"unusable": _unusable(torch.device(name), torch.cuda)}


def _unusable(device: torch.device, cuda: Any) -> str:
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} here is built without CUDA; install one that is, or leave --device out"
    if not cuda.is_available():
        return "PyTorch finds no GPU on this machine; `nvidia-smi` and CUDA_VISIBLE_DEVICES say which ones there are"
    if device.index is not None and device.index >= cuda.device_count():
        return f"this machine has {cuda.device_count()} GPUs, from cuda:0 to cuda:{cuda.device_count() - 1}"
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:
        return f"it cannot be used: {error_line(error)}"
    return ""
