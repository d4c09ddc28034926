"""Problems of a spec: where, what, and how to fix it; collected, and shown all at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.errors import SpecError
from sweeper.labels import printable
from sweeper.spec.syntax.tree import Mark, Node, Path, format_path

__all__ = ["MAX_PROBLEMS", "Diagnostic", "at", "choices", "nearest", "raise_if_any", "show", "shown"]

MAX_PROBLEMS = 1_000
"""The most problems that are collected: nobody reads more."""

_MAX_SHOWN = 40
_MAX_WIDTH = 100
_MAX_CHOICES = 12

_ALSO_CALLED = {
    "learning_rate": ("lr", "eta", "step_size", "learningrate", "base_lr"),
    "clip_norm": ("max_norm", "clip", "max_grad_norm", "grad_clip", "gradient_clip_val", "clip_grad_norm", "threshold"),
    "clip_threshold": ("autoclip", "zclip", "adaptive_clipping", "clip_schedule", "dynamic_threshold"),
    "clip_groups": ("param_groups", "parameter_groups", "groups", "clip_per_group"),
    "percentile": ("autoclip", "quantile", "clip_percentile"),
    "z_score": ("zclip", "zscore", "z"),
    "moving_average": ("ema", "running_mean", "ewma"),
    "when_exceeded": ("skip", "skip_step", "on_exceed"),
    "weight_decay": ("wd", "l2"),
    "steps": ("epochs", "num_steps", "max_steps", "iterations", "num_epochs", "max_epochs", "iters"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule"),
    "optimizer": ("optim", "opt", "optimiser"),
    "batch_size": ("bs", "batch", "batchsize", "train_batch_size"),
    "count": ("num_workers", "workers", "replicas", "num"),
    "cpus": ("cpu", "num_cpus"),
    "gpus": ("gpu", "num_gpus"),
    "evaluate_every": ("eval_every", "eval_interval"),
    "checkpoint_every": ("save_every", "checkpoint_interval"),
    "sequence_length": ("bptt", "seq_len", "block_size"),
    "hidden": ("hidden_size", "nhid", "n_hidden"),
    "embedding": ("emsize", "embedding_size", "n_embd"),
    "layers": ("num_layers", "nlayers", "n_layer", "depth"),
    "seeds": ("seed", "num_seeds", "repeats", "num_samples"),
}
"""What other tools call what a spec has by another name."""


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """One problem.

    Attributes:
        mark: Its place; None if it is at no particular place in the text.
        path: The key, () for the spec as a whole.
        message: What is wrong, with the value found.
        hint: What is accepted, or how to fix it; "" if the message says it all.
        found: A name that is not known.
        known: The names that are; listed with the nearest one, in place of a hint.
        elsewhere: Dotted paths that may be meant, which are not listed.
    """

    mark: Mark | None
    path: Path
    message: str
    hint: str = ""
    found: str = ""
    known: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()

    def render(self) -> str:
        """File, line, column, key and message; then the line with a caret and the hint."""
        key = f"{show(format_path(self.path))}: " if self.path else ""
        message, hint = printable(self.message), printable(self._hint())
        if self.mark is None or not self.mark.source.shows_lines:
            name = "" if self.mark is None else f"{printable(self.mark.source.name)}: "
            return f"{name}{key}{message}" + (f"\n      {hint}" if hint else "")
        line, column = self.mark.line, self.mark.column
        head = f"{printable(self.mark.source.name)}:{line + 1}:{column + 1}: {key}{message}"
        text = self.mark.source.lines[line] if line < len(self.mark.source.lines) else ""
        shown, caret = _crop(text.rstrip(), column)
        number = f"{line + 1:5}"
        return f"{head}\n{number} | {shown}\n{' ' * len(number)} | {' ' * caret}^ {hint}".rstrip()

    def document(self) -> dict[str, Any]:
        """The same for a program.

        Returns:
            ``file``, ``line`` and ``column`` from 1, ``path`` as it is written in messages, ``message`` and ``hint``.
            Line and column are None for what has no place in a file, as an override or what is missing.
        """
        placed = self.mark is not None and self.mark.source.shows_lines
        return {
            "file": self.mark.source.name if self.mark is not None else None,
            "line": self.mark.line + 1 if self.mark is not None and placed else None,
            "column": self.mark.column + 1 if self.mark is not None and placed else None,
            "path": format_path(self.path),
            "message": self.message,
            "hint": self._hint(),
        }

    def _hint(self) -> str:
        # Searching for the nearest name is slow, so only problems that are told do it.
        return choices(self.found, self.known, self.elsewhere) if self.known else self.hint


def at(
    node: Node,
    message: str,
    hint: str = "",
    *,
    key: bool = False,
    found: object = "",
    known: Iterable[str] = (),
    elsewhere: Iterable[str] = (),
) -> Diagnostic:
    """A problem of a node.

    Args:
        node: The value at fault.
        message: What is wrong.
        hint: How to fix it.
        key: Whether the key is at fault, and not the value.
        found: A name that is not known.
        known: The names that are.
        elsewhere: Dotted paths that may be meant, which are not listed.

    Returns:
        The problem, marked at the value or at its key.
    """
    mark = node.key_mark if key and node.key_mark is not None else node.mark
    return Diagnostic(
        mark=mark,
        path=node.path,
        message=message,
        hint=hint,
        found=str(found),
        known=tuple(dict.fromkeys(known)),
        elsewhere=tuple(elsewhere),
    )


def choices(found: object, known: Iterable[str], elsewhere: Sequence[str] = ()) -> str:
    """The known names, and the nearest one.

    Args:
        found: What the spec says.
        known: Accepted names.
        elsewhere: Dotted paths that may be meant, which are not listed.

    Returns:
        A hint.

    Example:
        >>> choices("momentun", ["momentum", "nesterov"])
        "known: momentum, nesterov; did you mean 'momentum'?"
    """
    names = list(known)
    listed = ", ".join(names[:_MAX_CHOICES]) + (", ..." if len(names) > _MAX_CHOICES else "")
    closest = nearest(str(found), names) or nearest(f".{found}", elsewhere)
    return f"known: {listed}" + (f"; did you mean {closest!r}?" if closest else "")


def nearest(found: str, known: Sequence[str]) -> str | None:
    """The known name most similar to another, or None if none is similar.

    Args:
        found: A name.
        known: Accepted names; of dotted paths, one with the same last part wins, whatever its case, and after that one
            that other tools call so.

    Returns:
        The nearest name.

    Example:
        >>> nearest("problem.hiden", ["problem.model.hidden", "problem.use"])
        'problem.model.hidden'
        >>> nearest("lr", ["learning_rate", "clip_norm"]), nearest("SGD", ["sgd", "adam"])
        ('learning_rate', 'sgd')
        >>> rates = ["update_rule.learning_rate", "update_rule.rest.learning_rate"]
        >>> nearest("update_rule.lr", rates), nearest("update_rule.rest.learning_rat", rates)
        ('update_rule.learning_rate', 'update_rule.rest.learning_rate')
    """
    # Imported here, so that only a broken spec pays for it.
    import difflib

    found = found[:200]
    ending = found.rsplit(".", 1)[-1]
    # Of several with the same ending, that of the same section, else of the outermost.
    likely = sorted(known, key=lambda name: (_num_shared(found, name), -name.count(".")))
    by_ending = {name.rsplit(".", 1)[-1]: name for name in likely}
    alike = next((name for name in by_ending if name.lower() == ending.lower()), None)
    also = next((name for name, others in _ALSO_CALLED.items() if name in by_ending and ending.lower() in others), None)
    if alike is not None or also is not None:
        return by_ending[alike or also or ""]
    if "." in found and (close := difflib.get_close_matches(ending, by_ending, n=1, cutoff=0.75)):
        return by_ending[close[0]]
    close = difflib.get_close_matches(found, known, n=1, cutoff=0.6 if "." not in found else 0.85)
    return close[0] if close else None


def _num_shared(one: str, other: str) -> int:
    """How many sections two dotted paths have in common, from the left."""
    pairs = zip(one.split(".")[:-1], other.split(".")[:-1], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def raise_if_any(diagnostics: Iterable[Diagnostic]) -> None:
    """Raise all problems as one error.

    Args:
        diagnostics: The problems; the same one may appear more than once.

    Raises:
        SpecError: There is a problem.
    """
    found = sorted(dict.fromkeys(diagnostics), key=_order)
    if not found:
        return
    lines = [diagnostic.render() for diagnostic in found[:_MAX_SHOWN]]
    if len(found) > _MAX_SHOWN:
        least = "at least " if len(found) >= MAX_PROBLEMS else ""
        lines.append(f"... and {least}{len(found) - _MAX_SHOWN} more problems")
    raise SpecError("\n".join(lines), found)


def show(value: object) -> str:
    """A value as messages quote it: printable, on one line, not too long."""
    text = printable(str(value)).replace("\n", " ")
    return text if len(text) <= _MAX_WIDTH else f"{text[:_MAX_WIDTH]}..."


def _order(diagnostic: Diagnostic) -> tuple[bool, str, int, int]:
    mark = diagnostic.mark
    return (
        (False, "", 0, 0) if mark is None else (not mark.source.shows_lines, mark.source.name, mark.line, mark.column)
    )


def _crop(text: str, column: int) -> tuple[str, int]:
    """The part of a line that is worth showing, fit for a terminal, and the caret's place in it."""
    start = max(0, column - _MAX_WIDTH // 2) if len(text) > _MAX_WIDTH else 0
    part = text[start : start + _MAX_WIDTH]
    shown = "".join(character if character.isprintable() else " " for character in part)
    before, after = "..." if start else "", "..." if start + _MAX_WIDTH < len(text) else ""
    return f"{before}{shown}{after}", len(before) + column - start


def shown(value: object) -> str:
    """A value as the spec would write it.

    Args:
        value: A plain value.

    Returns:
        Its text, shortened.

    Example:
        >>> [shown(value) for value in (None, True, 0.5, "x", [1, 2])]
        ['null', 'true', '0.5', "'x'", 'a list of 2']
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        case float():
            return repr(value).removesuffix(".0")
        case str():
            return repr(value if len(value) <= 60 else f"{value[:60]}...")
        case dict():
            return "a section"
        case list() | tuple():
            return f"a list of {len(value)}"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
