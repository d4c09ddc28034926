"""What an audit says: one answer per question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainers.clip_audit.cases import Outcome, Spot

__all__ = ["QUESTIONS", "Answer", "Verdict", "trouble"]

Verdict = Literal["ok", "note", "finding", "cannot tell"]

QUESTIONS = (
    "runs",
    "accumulation",
    "what is clipped",
    "threshold",
    "which weights",
    "how often",
    "second step",
    "inf",
    "NaN",
    "frozen layer",
    "Adam, all",
    "Adam, one",
    "ranks agree",
)
"""What is asked, in this order; the last one on two ranks only."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found.

    Attributes:
        question: One of :data:`QUESTIONS`.
        verdict: ``ok``; ``note``, for what is worth knowing and may be meant so; ``finding``, for what is wrong; or
            ``cannot tell``.
        key: What was found in a few words that stay the same, for programs.
        found: The same in a sentence.
        evidence: The numbers that show it, predicted and seen.
        fix: How to mend it; empty where nothing is to be mended.
        spot: The user's line that it is about; None where none is known.
    """

    question: str
    verdict: Verdict
    key: str
    found: str
    evidence: str = ""
    fix: str = ""
    spot: Spot | None = None


def trouble(outcomes: list[Outcome]) -> tuple[str, str, Spot | None]:
    """What kept ranks from coming to the end of a case.

    Args:
        outcomes: One for each rank.

    Returns:
        A key, ``raises``, ``hangs``, ``dies`` or empty; the same in words; and the user's line.
    """
    several = len(outcomes) > 1
    raised = [(rank, one) for rank, one in enumerate(outcomes) if one.raised]
    hung = [(rank, one) for rank, one in enumerate(outcomes) if one.hung_s]
    died = [(rank, one) for rank, one in enumerate(outcomes) if one.died]

    def on(rank: int) -> str:
        return f" on rank {rank}" if several else ""

    first = "; ".join(dict.fromkeys(f"{one.raised}{on(rank)}" for rank, one in raised[:1]))
    if len(raised) == len(outcomes) > 1:
        first = f"{raised[0][1].raised} on every rank"
    spot = next((one.spot for _, one in (*raised, *hung) if one.spot is not None), None)
    if hung:
        waits = " and ".join(f"rank {rank}" if several else "the step" for rank, _ in hung)
        after = f"{waits} had not come back after {hung[0][1].hung_s:.0f} s"
        return "hangs", f"{first}; {after}" if first else after, spot
    if died:
        return "dies", "; ".join(f"{one.died}{on(rank)}" for rank, one in died), spot
    if raised:
        return "raises", first, spot
    return "", "", None
