"""Cells as pictures show them: their rule and its threshold, what is swept besides, and labels that tell them apart."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sweeper import cell_labels
from sweeper.cell_labels import CASE, RULE
from sweeper.errors import ClipsweepError
from sweeper.labels import plain_value, short_names
from sweeper.report.select import outside_the_rule
from sweeper.store.resolved import resolved_settings
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run
from sweeper.value_texts import NO_CLIPPING, Rule

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NO_CLIPPING", "THRESHOLDS", "DrawnCell", "axis_words", "drawn_cells", "records", "tell_apart", "wrapped"]

THRESHOLDS = {
    "clip_norm": "threshold on the gradient norm",
    "normalize": "normalize offset",
    "clip_value": "clip_value threshold",
    "clip_layer_norm": "clip_layer_norm threshold",
    "clip_adaptive": "clip_adaptive threshold",
    "clip_threshold": "threshold that changes",
    "clip_groups": "thresholds of groups",
}
"""What may be done to a gradient, and what its number is called on an axis."""

_NUMBERS = {
    "percentile": ("percentile", "percentile of the gradient norms"),
    "z_score": ("z", "standard deviations above the mean norm"),
    "moving_average": ("factor", "multiple of the mean norm"),
}
"""The option of each ``clip_threshold`` that stands in the place of a threshold, and its words on an axis."""


_WHEN = "update_rule.when_exceeded"
"""What the transform in the arm says, too."""


def axis_words(transform: str) -> str:
    """What the number of a transform is called on an axis.

    Args:
        transform: As it is in the arm.

    Returns:
        Words.

    Example:
        >>> axis_words("clip_norm"), axis_words("clip_norm(skip)"), axis_words("clip_threshold(percentile, skip)")
        ('threshold on the gradient norm', 'clip_norm(skip) threshold', 'percentile of the gradient norms')
    """
    name, _, details = transform.partition("(")
    if name == "clip_threshold" and (use := _use_of(details)) in _NUMBERS:
        return _NUMBERS[use][1]
    return THRESHOLDS[name] if name == transform else f"{transform} threshold"


def _use_of(details: str) -> str:
    """The kind of ``clip_threshold``, from what an arm has in parentheses."""
    return details.partition(",")[0].rstrip(")")


@dataclass(frozen=True, kw_only=True)
class DrawnCell:
    """A cell and its trials.

    Attributes:
        cell_id: Its id.
        trials: Its chosen trials, as :func:`sweeper.report.select.select` returns them.
        context: Values swept outside the update rule, by short name.
        options: Values of the update rule that are swept besides the rate, the transform and the optimiser.
        optimizer: The arm without its transform.
        transform: The transform in the arm, for example ``clip_norm`` or ``clip_norm(momentum)``; empty for none.
        threshold: The transform's number; of ``clip_threshold`` the percentile, z or factor. None without a transform,
            or where the run does not say.
        learning_rate: The rate; None if a theorem sets it.
        details: What a transform is set to besides its number, where it is swept as a whole: for example the window of
            a percentile, or all groups of ``clip_groups``; None otherwise.
        swept: The name of its case, if the spec gives one, and values by short name in the order of the spec, with one
            entry for the whole transform.
    """

    cell_id: str
    trials: pd.DataFrame
    context: dict[str, Any]
    options: dict[str, Any]
    optimizer: str
    transform: str
    threshold: float | None
    learning_rate: float | None
    details: Any
    swept: dict[str, Any]

    @cached_property
    def rule(self) -> str:
        """The transform and its number, in words."""
        return _rule_words(self.transform, self.threshold)

    @property
    def columns(self) -> dict[str, Any]:
        """What the cell is, as columns of a table."""
        return {
            "cell_id": self.cell_id,
            **({CASE: self.swept[CASE]} if CASE in self.swept else {}),
            **self.context,
            "optimizer": self.optimizer,
            **self.options,
            "transform": self.transform or None,
            "threshold": self.threshold,
            "learning_rate": self.learning_rate,
        }


def _rule_words(transform: str, threshold: float | None) -> str:
    """A transform with its number."""
    if not transform:
        return NO_CLIPPING
    return transform if threshold is None else f"{transform}={threshold:g}"


def drawn_cells(run: Run, trials: pd.DataFrame) -> list[DrawnCell]:
    """The cells of trials.

    Args:
        run: The run.
        trials: Trials, as :func:`sweeper.report.select.select` returns them.

    Returns:
        The cells, in the order of the plan.
    """
    names = short_names(run.swept)
    return [_cell(run, names, str(name), group) for name, group in trials.groupby("cell_id", sort=False)]


def _cell(run: Run, names: Mapping[str, str], cell_id: str, group: pd.DataFrame) -> DrawnCell:
    first = group.iloc[0]
    optimizer, transform = _parts(str(first["arm"]))
    values = {path: plain_value(first[path]) for path in names}
    name, _, details = transform.partition("(")
    section: Any = None
    if not transform:
        threshold = None
    elif name == "clip_norm":
        threshold = plain_value(first["clip_norm"])
    else:
        path = f"update_rule.{name}"
        section = values[path] if path in values else _unswept_threshold(run, str(first["trial_id"]), name)
        threshold = _number_of(section, _use_of(details), values)
    transforms = {f"update_rule.{one}" for one in THRESHOLDS}
    transforms |= {f"update_rule.clip_threshold.{number}" for number, _ in _NUMBERS.values()}
    of_the_rule = {"update_rule.learning_rate", "update_rule.optimizer", _WHEN, *transforms}
    case = plain_value(first["case"])
    swept: dict[str, Any] = {} if case is None else {CASE: case}
    is_whole = values.get(f"update_rule.{name}") is not None and isinstance(section, dict | list)
    for path, value in values.items():
        if path in transforms:
            # A theorem has a threshold of its own.
            if values.get("update_rule.from_theory") is None:
                swept[RULE] = Rule(name, section) if is_whole else Rule(transform, threshold)
        elif path != _WHEN or (value == "skip" and is_whole):
            swept[names[path]] = value
    return DrawnCell(
        cell_id=cell_id,
        trials=group,
        context={short: values[path] for path, short in outside_the_rule(names).items()},
        options={
            names[path]: value
            for path, value in values.items()
            if path.startswith("update_rule.") and path not in of_the_rule
        },
        optimizer=optimizer,
        transform=transform,
        threshold=threshold,
        learning_rate=plain_value(first["learning_rate"]),
        details=_without_number(section) if is_whole else None,
        swept=swept,
    )


def _parts(arm: str) -> tuple[str, str]:
    """The arm without its transform, and the transform."""
    parts = arm.split(" + ")
    transforms = [part for part in parts if part.partition("(")[0] in THRESHOLDS]
    return " + ".join(part for part in parts if part not in transforms), " + ".join(transforms)


def _number_of(section: Any, use: str, values: Mapping[str, Any]) -> float | None:
    """The number of a transform: its threshold, or what stands in its place."""
    if use in _NUMBERS and not isinstance(section, int | float):
        number, _ = _NUMBERS[use]
        path = f"update_rule.clip_threshold.{number}"
        section = values[path] if path in values else section.get(number) if isinstance(section, dict) else None
    return float(section) if isinstance(section, int | float) else None


def _without_number(section: Any) -> Any:
    """What a transform is set to, without the number that has an axis of its own."""
    if not isinstance(section, dict) or section.get("use") not in _NUMBERS:
        return section
    return {key: value for key, value in section.items() if key != _NUMBERS[section["use"]][0]}


def _unswept_threshold(run: Run, trial: str, name: str) -> Any:
    """The number, section or list of a transform that all cells have alike."""
    try:
        section = resolved_settings(RunDir(run.folder_of(trial))).get("update_rule")
    except ClipsweepError:
        return None
    return section.get(name) if isinstance(section, dict) else None


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame.

    Args:
        frame: Any frame.

    Returns:
        Column to value, for each row.
    """
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def tell_apart(things: Sequence[Mapping[str, Any]]) -> list[str]:
    r"""Labels as in tables, see :func:`sweeper.cell_labels.tell_apart`, in which a ``$`` does not begin mathematics.

    Args:
        things: Name to value, for each thing.

    Returns:
        One label for each.

    Example:
        >>> tell_apart([{"corpus": "$x$"}]), tell_apart([{}])
        (['corpus=\\$x\\$'], ['the only cell'])
    """
    return [label.replace("$", "\\$") for label in cell_labels.tell_apart(things)]


def wrapped(text: str, width: int) -> str:
    r"""A text on several lines, broken between pairs.

    Args:
        text: Lines, whose breaks are kept.
        width: Characters that fit next to each other.

    Returns:
        The text; a pair that is longer than a line is broken after its name. Of more lines than there is room for in
        a title, those in the middle are left out.

    Example:
        >>> wrapped("a=1 b=2 c=3", 7)
        'a=1 b=2\nc=3'
        >>> wrapped("long=valued", 7)
        'long=\nvalued'
    """
    # "no clipping" must not be broken, or its halves would look like names.
    words = text.replace(NO_CLIPPING, NO_CLIPPING.replace(" ", _HARD_SPACE)).split("\n")
    lines = [
        textwrap.fill(
            " ".join(pair if len(pair) <= width else pair.replace("=", "= ", 1) for pair in line.split(" ")),
            width,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in words
    ]
    lines = "\n".join(lines).replace(_HARD_SPACE, " ").split("\n")
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES // 2], "…", *lines[-(_MOST_LINES // 2) :]]
    return "\n".join(lines)


_HARD_SPACE = "\u00a0"
_MOST_LINES = 8
