"""Estimators of the user's own: made by a factory by import path, called beside the registered ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from estimators import Probe
from trainers.errors import TrainerError
from trainers.imports import find_factory

__all__ = ["OwnMeasure", "measure_own", "own_estimator"]

_LONGEST = 100

OwnMeasure: TypeAlias = Callable[[Probe, torch.Tensor], Mapping[str, float]]
"""From the probe, which defines f, and x_k and x_{k+1}, shape (2, n), to numbers by name."""


def own_estimator(entry: Mapping[str, Any], *, search: Sequence[str] = ()) -> OwnMeasure:
    """The estimator of an entry of the measure section.

    Args:
        entry: ``use`` and options.
        search: Folders that contain the user's own modules.

    Returns:
        What the factory makes of the options.

    Raises:
        TrainerError: There is no such factory, it does not take the options, or makes nothing that can be called.
    """
    options = {key: value for key, value in entry.items() if key != "use"}
    factory = find_factory(entry["use"], search=search, kind="estimator")
    try:
        made = factory(**options)
    except TypeError as error:
        raise TrainerError(f"{entry['use']}: {error}") from error
    if not callable(made):
        raise TrainerError(
            f"{entry['use']} made {type(made).__name__}, which cannot be called with a probe and iterates"
        )
    return made  # type: ignore[no-any-return]


def measure_own(
    estimators: Mapping[str, OwnMeasure], entries: Sequence[Mapping[str, Any]], probe: Probe, iterates: torch.Tensor
) -> tuple[dict[str, list[Any]], dict[str, BaseException]]:
    """What the estimators of the user's own say of one snapshot.

    Args:
        estimators: Import path to estimator.
        entries: Those of the measure section.
        probe: Defines f.
        iterates: x_k and x_{k+1}, shape (2, n).

    Returns:
        The columns ``names`` and ``values`` of a row; and what those raised that failed, by import path.
    """
    names: list[str] = []
    values: list[float] = []
    errors: dict[str, BaseException] = {}
    for entry in entries:
        use = entry["use"]
        try:
            row = _checked(use, estimators[use](probe, iterates.clone()))
        except BaseException as error:
            # The user's code may raise SystemExit and its like, too.
            errors[use] = error
            continue
        names += [f"{use}.{name}" for name in row]
        values += row.values()
    return {"names": names, "values": values}, errors


def _checked(use: str, row: Any) -> dict[str, float]:
    """Its numbers as floats; a TypeError where it is no mapping of names to numbers."""
    if not isinstance(row, Mapping):
        raise TypeError(f"{use} returned {type(row).__name__}, not names with numbers, as in {{'ratio': 0.5}}")
    found: dict[str, float] = {}
    for name, value in row.items():
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST:
            raise TypeError(
                f"{use} returned the name {name!r:.60}: a visible text of at most {_LONGEST} characters is needed"
            )
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{use} returned {name} = {value!r:.60}, which is not a number")
        found[name] = float(value)
    return found
