"""Short names of swept paths, and words for numbers, durations, problems and what others have written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

__all__ = [
    "appearance",
    "counted",
    "describe_problem",
    "duration",
    "not_measured",
    "plain_value",
    "printable",
    "short_names",
]


_OWN = {
    "update_rule.learning_rate": "learning_rate",
    "update_rule.clip_norm": "clip_norm",
    "update_rule.optimizer": "optimizer",
    "train.steps": "steps",
    "problem.function": "function",
    "problem.noise": "noise",
    "problem.epsilon": "epsilon",
    "problem.function.L0": "L0",
    "problem.function.L1": "L1",
    "problem.function.M": "M",
    "run": "run",
}
"""Paths whose values are in a column of their own name."""

_TAKEN = frozenset([
    *_OWN.values(),
    # Of trials.
    *("trial_id cell_id arm case seed status superseded code_id committed_step attempts started_at ended_at").split(),
    *("train_s estimate_s diverged_step last_finite_loss clipped_fraction error environment_id device drift").split(),
    *("function_name hitting_time hitting_status initial_gap iteration_bound min_grad_norm tail_grad_norm").split(),
    # Of what the commands print, beside the values of cells.
    *("is_best seeds trials done diverged failed lost left_out points rank_correlation correlation label").split(),
    *("spearman slope unidentifiable range_low range_high tau decades count T bound slack reached capped hit").split(),
    *("function clipped rule queued paused running").split(),
    # Of what a figure draws.
    *("transform threshold drawn quantity step grad_norm smoothness is_unstable mean low high").split(),
])
"""Columns of tables, answers and figures: no option of a user's own is called like them."""

_TAKEN_BEGINNINGS = (
    "best_",
    "final_",
    "test_",
    "not_finite_",
    "correlation_",
    "rank_correlation_",
    "smoothness_",
    "grad_norm_",
    "L0_",
    "L1_",
)
"""Beginnings of the names of columns."""


def short_names(paths: list[str]) -> dict[str, str]:
    """The last part of each dotted path, or as many more parts as it takes to tell them apart.

    Args:
        paths: Swept paths.

    Returns:
        Path to short name.

    Example:
        >>> short_names(["update_rule.clip_norm", "problem.model.use", "problem.use"])
        {'update_rule.clip_norm': 'clip_norm', 'problem.model.use': 'model.use', 'problem.use': 'problem.use'}
        >>> list(short_names(["problem.status", "problem.best_of", "problem.steps", "problem.depth"]).values())
        ['problem.status', 'problem.best_of', 'problem.steps', 'depth']
    """
    names = {}
    for path in paths:
        parts = path.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[-length:])
            if _OWN.get(path) == name:
                break
            is_taken = name in _TAKEN or name.startswith(_TAKEN_BEGINNINGS)
            if not is_taken and sum(other == name or other.endswith(f".{name}") for other in paths) == 1:
                break
        names[path] = name
    return names


def counted(number: float, noun: str) -> str:
    """A number of things.

    Args:
        number: How many.
        noun: What they are, in the singular; its plural ends in s.

    Returns:
        Both, with the noun in the right form.

    Example:
        >>> counted(1, "trial"), counted(2, "trial"), counted(0.5, "CPU")
        ('1 trial', '2 trials', '0.5 CPUs')
    """
    shown = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration in readable form.

    Returns:
        At most two units.

    Example:
        >>> duration(4.2), duration(75), duration(7325)
        ('4 s', '1 min 15 s', '2 h 02 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def printable(text: str) -> str:
    r"""Text from an untrusted source, made safe for a terminal: no escape sequence gets through.

    Args:
        text: One or several lines.

    Returns:
        The text, with anything unprintable escaped; line breaks stay.

    Example:
        >>> printable("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


_BLANK = frozenset([0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810)])
_SELECTORS = (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
"""Code points that show nothing, although they are letters, marks or symbols."""


def appearance(text: str) -> str:
    r"""What people see of a text: equal for texts that look the same however they are encoded.

    Args:
        text: Any text.

    Returns:
        The text in Unicode's form NFC, without characters that show nothing.

    Example:
        >>> appearance("e\u0301\u200b") == appearance("\u00e9\u3164") == "\u00e9"
        True
    """
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFC", text) if not _shows_nothing(c))


def _shows_nothing(character: str) -> bool:
    point = ord(character)
    return unicodedata.category(character) == "Cf" or point in _BLANK or any(point in range_ for range_ in _SELECTORS)


def _one_line(value: Any) -> str:
    """A value as text that cannot pretend to be a line of its own."""
    return str(value).replace("\n", "\\n")


def describe_problem(problem: Mapping[str, Any]) -> str:
    """One line for a problem.

    Args:
        problem: The resolved section.

    Returns:
        Its name, with its options in brackets.

    Example:
        >>> describe_problem({"use": "deep_linear", "layers": 2})
        'deep_linear (layers=2)'
    """
    options = ", ".join(f"{key}={_one_line(value)}" for key, value in problem.items() if key != "use")
    return printable(f"{problem['use']} ({options})" if options else str(problem["use"]))


def plain_value(value: Any) -> Any:
    """A table's value for JSON: null for NaN, Python's numbers for NumPy's.

    Args:
        value: A value from pandas.

    Returns:
        The plain value.

    Example:
        >>> plain_value(float("nan")) is None, plain_value(0.5)
        (True, 0.5)
    """
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


_ESTIMATOR = re.compile(r"([a-z]+(?:_[a-z]+)+): ")


def not_measured(error: str) -> str:
    """What became of a snapshot, as the end of a sentence.

    Args:
        error: What a row says; begins with the estimator's name if only that one failed.

    Returns:
        That it could not be measured, by what, and why.

    Example:
        >>> not_measured("gradient_noise: RuntimeError: no")
        'could not be measured by gradient_noise: RuntimeError: no'
    """
    return f"could not be measured{' by ' if _ESTIMATOR.match(error) else ': '}{error}"
