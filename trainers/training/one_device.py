"""Whether a problem would run on a GPU, told without one: on the meta device, with shapes but no values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.training.stepper import Stepper
from trainers.trees import tensors_of
from trainers.update.rule import UpdateRule

__all__ = ["DeviceMismatchError", "DryRun", "Reads", "dry_run", "one_device"]


class DeviceMismatchError(TrainerError):
    """An operation takes tensors of two devices."""


@dataclass(kw_only=True)
class Reads:
    """How often a value of the device was read, for each of which a GPU is waited for.

    Attributes:
        count: So far.
    """

    count: int = 0


@contextmanager
def one_device() -> Iterator[Reads]:
    """Refuse what a GPU would refuse, an operation on tensors of two devices; and make up values that are read.

    The meta device by itself lets some such operations pass, a product of matrices or a look-up in an embedding, and
    ends where a value is read. Here every number that is read is 1.

    Yields:
        How often that was.

    Example:
        >>> with one_device() as reads:
        ...     float(torch.ones(2, device="meta").sum())
        1.0
        >>> reads.count
        1
        >>> with one_device():
        ...     torch.ones(2, 2, device="meta") @ torch.ones(2, 2)
        Traceback (most recent call last):
            ...
        trainers.training.one_device.DeviceMismatchError: mm takes tensors of two devices: one of shape (2, 2) is on ...
    """
    reads = Reads()
    with _MadeUp(reads), _OneDevice():  # type: ignore[no-untyped-call]
        yield reads


class _OneDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the tensors of every operation before it is done."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        # A number in a tensor may come from the CPU, and so may what picks rows of a tensor that is elsewhere.
        found = [tensor for tensor in tensors_of([list(args), dict(kwargs or {})]) if tensor.ndim]
        here = [tensor for tensor in found if tensor.device.type == "cpu"]
        picks = name in _PICKS and found and found[0].device.type != "cpu"
        if here and len(here) < len(found) and name not in _MOVES and not picks:
            raise DeviceMismatchError(
                f"{name} takes tensors of two devices: one of shape {tuple(here[0].shape)} is on the CPU, where it was "
                "made, and the model's are on the trainer's device"
            )
        return func(*args, **(kwargs or {}))


_MOVES = ("_to_copy", "copy_", "_foreach_copy_", "set_", "lift_fresh")
"""Operations that bring a tensor to another device."""

_PICKS = ("index", "index_put", "index_put_", "_index_put_impl_")


class _MadeUp(TorchFunctionMode):
    """Answers what reads a value on the meta device."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        tensor = args[0] if args else None
        if not (isinstance(tensor, Tensor) and tensor.is_meta):
            source = args[1] if len(args) > 1 else None
            if func is Tensor.copy_ and isinstance(source, Tensor) and source.is_meta:
                self._reads.count += 1
                return tensor.fill_(1)  # type: ignore[union-attr]
            return func(*args, **options)
        known = torch.ones(tensor.shape, dtype=tensor.dtype)
        to_cpu = func is Tensor.cpu or (func is Tensor.to and "cpu" in map(str, (*args[1:], options.get("device"))))
        if func is torch.equal:
            self._reads.count += 1
            return True
        if func not in _READS and not to_cpu:
            return func(*args, **options)
        self._reads.count += 1
        return known if to_cpu else func(known, *args[1:], **options)


_READS = frozenset({
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.__bool__,
    Tensor.__float__,
    Tensor.__int__,
    Tensor.__index__,
    Tensor.__contains__,
    Tensor.nonzero,
    torch.nonzero,
})


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a step on the meta device showed.

    Attributes:
        reads: How often a step reads a value, for which a GPU is waited for.
        unseen: Why it could not be seen to the end; empty where it could.
    """

    reads: int
    unseen: str = ""


def dry_run(build: Callable[[], Problem], rule: UpdateRule, *, seed: int, batches_per_step: int = 1) -> DryRun:
    """Take a step, evaluate, and test on the meta device.

    Args:
        build: Builds the problem with ``device="meta"``.
        rule: The update rule.
        seed: The seed.
        batches_per_step: Number of batches in a step.

    Returns:
        What was seen.

    Raises:
        DeviceMismatchError: A tensor is on the CPU that is needed on the trainer's device.
    """
    in_steps = 0
    try:
        with one_device() as reads:
            stepper = Stepper(build(), rule, total_steps=3, seed=seed, batches_per_step=batches_per_step)
            # What the first step sets up is not what every step costs.
            stepper.take(0)
            before = reads.count
            stepper.take(1)
            in_steps = reads.count - before
            stepper.evaluate(1)
            stepper.test(1)
    except DeviceMismatchError:
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        return DryRun(reads=in_steps, unseen=f"without values it ends at {type(error).__name__}: {text}")
    return DryRun(reads=in_steps)
