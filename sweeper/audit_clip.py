"""``clipsweep audit-clip``: what does a user's own training step do to gradients?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import ClipsweepError
from sweeper.labels import counted
from sweeper.spec.user_code import user_code
from sweeper.workers.clip_ranks import Ranks
from trainers.clip_audit.answers import Answer
from trainers.clip_audit.audit import audit

__all__ = ["AuditedStep", "audit_step"]


@dataclass(frozen=True, kw_only=True)
class AuditedStep:
    """One answer.

    Attributes:
        ranks: On how many ranks.
        answer: The answer.
    """

    ranks: int
    answer: Answer


def _unsaid(text: str) -> None:
    """Nobody reads it."""


def audit_step(
    step: str,
    *,
    folder: Path,
    prepare: str | None = None,
    ranks: Sequence[int] = (1, 2),
    max_norm: float | None = None,
    timeout_s: float = 30.0,
    say: Callable[[str], None] = _unsaid,
) -> Generator[AuditedStep, None, None]:
    """Audit a training step in processes of their own, one for each rank.

    Args:
        step: ``module:function``, or ``file.py:function``.
        folder: Searched for the module first; ranks run in the current folder.
        prepare: Name of the function in the same module that wraps the model and builds the optimizer; by default
            ``prepare``, if the module has one.
        ranks: On how many ranks, one audit after the other; each 1 or 2.
        max_norm: The threshold that is meant; by default the one that torch's functions are seen to be given.
        timeout_s: How long each case may take, a fraction of a second usually.
        say: Is told what is waited for, where that takes long.

    Yields:
        One answer after the other.

    Raises:
        ClipsweepError: There is no such function, it cannot be imported, or takes other arguments than
            ``(model, optimizer, micro_batches)``.
    """
    use, searched = _use(step, folder)
    found = user_code(use, searched)
    assert found is not None
    if max_norm is not None and not 0 < max_norm < float("inf"):
        raise ClipsweepError(f"--max-norm {max_norm:g}: the threshold that is meant is a positive number")
    if not 0 < timeout_s <= 3600:
        raise ClipsweepError(f"--timeout {timeout_s:g}: give seconds, more than 0 and at most 3600")
    for number in ranks:

        def waits(case: str, seconds: float, number: int = number) -> None:
            say(f"{step} on {counted(number, 'rank')}: {case}: {seconds:.0f} s so far; Ctrl-C ends it")

        with Ranks(use, prepare, found.root.parent, ranks=number, timeout_s=timeout_s, waits=waits) as processes:
            for answer in audit(processes.play, ranks=number, max_norm=max_norm):
                yield AuditedStep(ranks=number, answer=answer)


def _use(step: str, folder: Path) -> tuple[str, Path]:
    """Import path of the function, and the folder that it is looked for in."""
    module, colon, function = step.rpartition(":")
    if not (colon and module and function.isidentifier()):
        raise ClipsweepError(f"{step!r}: write module:function, for example train:train_step")
    if module.endswith(".py"):
        file = folder / module
        if not file.is_file():
            raise ClipsweepError(f"{module}: no such file")
        return f"{file.stem}:{function}", file.resolve().parent
    if not all(part.isidentifier() for part in module.split(".")):
        raise ClipsweepError(f"{step!r}: write module:function, for example train:train_step, or train.py:train_step")
    return step, folder
