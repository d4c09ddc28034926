"""Calling a factory with options from a spec, with messages that say what would have been accepted."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from trainers.errors import TrainerError

__all__ = ["call_factory", "choose", "nearest"]

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names, and the one that may have been meant.

    Args:
        name: What was found.
        known: What would have been accepted.

    Returns:
        Text to follow a semicolon.

    Example:
        >>> nearest("lmst", ["lstm", "gpt"])
        "known: lstm, gpt; did you mean 'lstm'?"
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"known: {', '.join(names) or 'none'}" + (f"; did you mean {close[0]!r}?" if close else "")


def choose(registry: Mapping[str, T], name: str, kind: str) -> T:
    """The entry of a registry.

    Args:
        registry: Names to entries.
        name: The wanted one.
        kind: What the registry holds, for the message.

    Returns:
        ``registry[name]``.

    Raises:
        TrainerError: There is no such entry.
    """
    if name not in registry:
        raise TrainerError(f"unknown {kind} {name!r}; {nearest(name, registry)}")
    return registry[name]


def call_factory(
    factory: Callable[..., T], options: Mapping[str, Any], offered: Mapping[str, Any], *, called: str
) -> T:
    """Call a factory with the user's options and with those of ``offered`` that it takes.

    Args:
        factory: Any callable.
        options: Keyword arguments that it must accept.
        offered: Keyword arguments that are passed if its signature has them; the user cannot set them.
        called: What the factory is called in messages.

    Returns:
        What the factory returned.

    Raises:
        TrainerError: An option is not accepted, set although it is offered, or missing.
    """
    parameters = inspect.signature(factory).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {p.name: p for p in parameters if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}}
    accepted = [name for name in named if name not in offered]
    for name in options:
        if name in offered:
            raise TrainerError(f"{called}: option {name!r} is given by clipsweep itself and cannot be set")
        if name not in named and not takes_any:
            raise TrainerError(f"{called}: unknown option {name!r}; {nearest(name, accepted)}")
    missing = [name for name in accepted if named[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise TrainerError(f"{called}: option {missing[0]!r} is required")
    return factory(**options, **{name: value for name, value in offered.items() if takes_any or name in named})
