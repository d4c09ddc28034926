"""Copies of a model, since measuring must not change the one that a caller trains, and what to put back if it did."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["UnfaithfulCopyError", "copy_of", "left_as_it_was", "tensors_in"]


class UnfaithfulCopyError(ValueError):
    """A copy of the model does not have the model's own loss and gradient; the text says why and how to fix it."""


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that holds results of its last pass.

    What layers compute and keep as attributes, as the older ``torch.nn.utils.weight_norm`` and pruning do with their
    weights, has a graph, which ``copy.deepcopy`` refuses. It is copied without one; the next pass makes it again.

    Args:
        model: The model.

    Returns:
        The copy, which shares no tensor with the model.

    Raises:
        UnfaithfulCopyError: ``copy.deepcopy`` raises, or gives a model that shares parameters with this one.
    """
    results = {
        id(tensor): tensor.detach().clone()
        for module in model.modules()
        for tensor in tensors_in(vars(module), depth=3)
        if not tensor.is_leaf
    }
    try:
        copied = copy.deepcopy(model, results)
    except Exception as error:
        raise UnfaithfulCopyError(
            f"copy.deepcopy of the model raises {type(error).__name__}: {error}: estimators measure a copy; keep what "
            "cannot be copied (locks, files, generators) out of the model"
        ) from error
    shared = {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in copied.parameters()}
    if shared:
        names = [name for name, parameter in model.named_parameters() if id(parameter) in shared]
        raise UnfaithfulCopyError(
            f"copy.deepcopy of the model shares its parameter {names[0]!r} with it: estimators measure a copy, which "
            "would change the model; leave __deepcopy__ as nn.Module has it"
        )
    return copied


def tensors_in(held: Any, *, depth: int) -> Iterator[Tensor]:
    """Tensors in nested plain containers.

    Args:
        held: A tensor, a container, or anything else.
        depth: How many containers deep is looked.

    Yields:
        The tensors, in order.

    Example:
        >>> import torch
        >>> held = {"inputs": [torch.ones(1)], "name": "x"}
        >>> list(tensors_in(held, depth=2)), list(tensors_in(held, depth=1))
        ([tensor([1.])], [])
    """
    if isinstance(held, Tensor):
        yield held
    elif depth and isinstance(held, Mapping | list | tuple):
        for value in held.values() if isinstance(held, Mapping) else held:
            yield from tensors_in(value, depth=depth - 1)


_MODES = ("training", "dropout", "track_running_stats", "momentum", "sparse")


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Let a model be used in place: afterwards modes, buffers, parameters and gradients are what they were.

    Args:
        model: The model.

    Yields:
        Nothing.
    """
    modules = list(model.modules())
    modes = [{name: vars(module)[name] for name in _MODES if name in vars(module)} for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    values = [(buffer, buffer.detach().clone()) for held in buffers for buffer in held.values() if buffer is not None]
    registered = [dict(module._parameters) for module in modules]
    parameters = [(parameter, parameter.data, parameter.grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, mode, held, own in zip(modules, modes, buffers, registered, strict=True):
            vars(module).update(mode)
            module._buffers.update(held)
            module._parameters.update(own)
        for buffer, value in values:
            buffer.detach().copy_(value)
        for parameter, data, slope in parameters:
            parameter.grad = None
            parameter.data = data
            parameter.grad = slope
