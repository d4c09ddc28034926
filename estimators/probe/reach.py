"""Which function reaches for a model that it was not given: by a closure, a global, a default, a method."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from torch import nn

__all__ = ["reaches_for"]


def reaches_for(function: Callable[..., Any], model: nn.Module) -> str:
    """Which function uses the model, or a part of it, without having been given it.

    Args:
        function: The loss.
        model: The model, whose own forward passes are looked through, too.

    Returns:
        In words, with the function's file and line and the variable; empty where none is found.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> reaches_for(model.forward, model)
        'the loss is a method of the model itself'
    """
    parts = {id(module) for module in model.modules()}
    parts |= {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    seen: set[int] = set()
    if found := _reached(function, parts, seen, "loss"):
        return found
    for module in model.modules():
        kind = type(module)
        if not kind.__module__.startswith("torch.") and (found := _reached(kind.forward, parts, seen, "forward")):
            return found
    return ""


def _reached(function: Any, parts: set[int], seen: set[int], called: str) -> str:
    """The first variable of a function, or of those that it uses, that holds a part of the model."""
    if id(function) in seen or len(seen) > 1000:
        return ""
    seen.add(id(function))
    if isinstance(function, functools.partial):
        if _holds((function.args, function.keywords), parts):
            return f"the {called} is a functools.partial that holds the model"
        return _reached(function.func, parts, seen, called)
    if inspect.ismethod(function):
        if id(function.__self__) in parts:
            return f"the {called} is a method of the model itself"
        if name := _attribute(function.__self__, parts):
            return f"{_named(function.__func__)} uses the model in self.{name}"
        return _reached(function.__func__, parts, seen, called)
    if (wrapped := getattr(function, "__wrapped__", None)) is not None and (
        found := _reached(wrapped, parts, seen, called)
    ):
        return found
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        if name := _attribute(function, parts):
            return f"{type(function).__name__} uses the model in self.{name}"
        call = vars(type(function)).get("__call__")
        return _reached(call, parts, seen, called) if hasattr(call, "__code__") else ""
    variables = dict(_variables(function, code))
    for name, value in variables.items():
        if _holds(value, parts):
            return f"{_named(function)} uses {name!r} from outside of it, which holds the model"
    for value in variables.values():
        if (inspect.isfunction(value) or inspect.ismethod(value)) and (found := _reached(value, parts, seen, called)):
            return found
    return ""


def _variables(function: Any, code: CodeType) -> Iterator[tuple[str, Any]]:
    """Variables from outside of a function: of the functions around it, defaults, and globals that it names."""
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # not set yet
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            yield name, parameter.default
    for name in _names(code):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _attribute(holder: Any, parts: set[int]) -> str:
    attributes = getattr(holder, "__dict__", {})
    return next((name for name, value in attributes.items() if _holds(value, parts)), "")


def _holds(value: Any, parts: set[int], depth: int = 3) -> bool:
    """Whether a value is a part of the model, or a container with one."""
    if id(value) in parts:
        return True
    if isinstance(value, nn.Module):
        return any(id(module) in parts for module in value.modules())
    if depth and isinstance(value, Mapping | list | tuple | set):
        return any(_holds(one, parts, depth - 1) for one in (value.values() if isinstance(value, Mapping) else value))
    return False


def _named(function: Any) -> str:
    code = function.__code__
    name = function.__qualname__.rpartition("<locals>.")[2]
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})"
