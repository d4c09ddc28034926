"""From which size on gradients are clipped, and the steps that tell how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trainers.clip_audit.answers import Answer, trouble
from trainers.clip_audit.cases import Case, Outcome, Play, Seen, gradients_of
from trainers.clip_audit.fit import Pair, relative_error
from trainers.clip_audit.layout import SIZE, TENSORS
from trainers.clip_audit.linear import Linear, linear_part

__all__ = ["Player", "Scan", "merged", "scan", "used_gradient"]

_DECADES = range(-10, 11)
_MICRO_BATCHES = 3
_EPSILON = 2.0**-23
"""Of float32."""


@dataclass(kw_only=True)
class Player:
    """Plays cases, and remembers whether ranks agreed after each.

    Attributes:
        play: Plays a case on every rank.
        ranks: Their number.
        worst: Largest difference between two ranks after a step, relative to how far it moved.
        apart: Cases after which ranks did not agree.
    """

    play: Play
    ranks: int
    worst: float = 0.0
    apart: list[str] = field(default_factory=list)

    def __call__(self, case: Case) -> list[Outcome]:
        """What it did on each rank."""
        outcomes = list(self.play(case))
        for seen in zip(*(one.seen for one in outcomes), strict=False):
            if len(seen) < 2:
                continue
            first, *others = seen
            for other in others:
                both = first.held & other.held
                if not both.any():
                    continue
                left, right = first.moved[both], other.moved[both]
                same = np.array_equal(left, right, equal_nan=True)
                difference = 0.0 if same else relative_error(left, right)
                if difference > 1e-6 and case.name not in self.apart:
                    self.apart.append(case.name)
                if math.isfinite(difference):
                    self.worst = max(self.worst, difference)
        return outcomes


def merged(seen: Sequence[Seen]) -> np.ndarray:
    """How far a step moved each weight, put together from the ranks that hold them.

    Args:
        seen: One for each rank.

    Returns:
        Shape (SIZE,).
    """
    moved = np.zeros(SIZE)
    for one in reversed(seen):
        moved[one.held] = one.moved[one.held]
    return moved


def used_gradient(seen: Sequence[Seen]) -> np.ndarray:
    """The gradient with which SGD moved the weights.

    Args:
        seen: One for each rank.

    Returns:
        Shape (SIZE,): how far weights moved down, each over its own learning rate.
    """
    used: np.ndarray = -merged(seen) / seen[0].rate
    return used


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the step does to gradients of every size.

    Attributes:
        linear: What it does to small ones.
        onset: Norm of the smallest average gradient that was clipped; infinite where none was.
        reversal: Whether clipping turns gradients around.
        tolerance: Relative error up to which numbers are the same.
        exempt: Which weights are never clipped although others are, shape (SIZE,).
        facts: What is known of the optimizer.
        rates: Learning rates that the optimizer stepped with.
        stopped: The answer that ends the audit; None where it goes on.
    """

    linear: Linear
    onset: float
    reversal: bool
    tolerance: float
    exempt: np.ndarray
    facts: dict[str, object]
    rates: tuple[float, ...]
    stopped: Answer | None = None

    @property
    def clips(self) -> bool:
        """Whether anything is clipped at all."""
        return math.isfinite(self.onset)

    def pair(self, gradients: np.ndarray, seen: Sequence[Seen]) -> Pair:
        """A step as it is compared with predictions."""
        return Pair(gradients=self.linear.contributions(gradients), used=used_gradient(seen))


_NOTHING = Linear(weights=np.zeros((len(TENSORS), 1, 1)), residual=0.0, loss_factor=1.0, num_updates=0)


def _stop(answer: Answer, facts: dict[str, object] | None = None) -> Scan:
    return Scan(
        linear=_NOTHING, onset=math.inf, reversal=False, tolerance=0.0, exempt=np.zeros(SIZE, dtype=bool),
        facts=facts or {}, rates=(), stopped=answer,
    )  # fmt: skip


def scan(player: Player) -> Scan:
    """Play gradients of all sizes.

    Args:
        player: Plays them.

    Returns:
        What was found; with ``stopped``, where nothing else can be asked.
    """
    direction = gradients_of(1, ranks=player.ranks, micro_batches=_MICRO_BATCHES)
    used: dict[int, np.ndarray] = {}
    seen: dict[int, list[Seen]] = {}
    facts: dict[str, object] = {}
    for decade in _DECADES:
        given = (direction * 10.0**decade).astype(np.float32).astype(np.float64)
        outcomes = player(Case(name=f"gradients of norm 1e{decade}", steps=[given]))
        key, words, spot = trouble(outcomes)
        if key and (not used or key != "raises"):
            size = f", at gradients of norm 1e{decade}" if used else ""
            return _stop(_unrun(key, f"{words}{size}", spot), facts)
        if key:
            break  # something overflows: what is known is enough
        facts = dict(outcomes[0].facts)
        if (refused := _not_plain(facts)) is not None:
            return _stop(refused, facts)
        seen[decade] = [one.seen[0] for one in outcomes]
        used[decade] = used_gradient(seen[decade])
    if not any(np.abs(one).max() > 0 for one in used.values() if np.isfinite(one).all()):
        return _stop(_unmoved(seen))
    # Gradients are given in float32, even where weights are more precise.
    tolerance = 256 * max(float(facts["epsilon"]), _EPSILON)  # type: ignore[arg-type]
    first, second = sorted(used)[:2]
    is_linear = relative_error(used[first] * 10, used[second]) <= tolerance
    rates = tuple(sorted({rate for one in seen[first][0].rates for rate in one}))
    num_updates = len(seen[first][0].rates)
    at = first if is_linear else max(used)
    given = direction * 10.0**at
    linear = linear_part(given, used[at], seen[at], num_updates=num_updates)
    if not is_linear:
        linear = _average(linear, player.ranks)
        onset = 10.0**first
        exempt = np.zeros(SIZE, dtype=bool)
    else:
        differs = {
            decade: relative_error(used[first] * 10.0 ** (decade - first), one) > tolerance
            for decade, one in used.items()
        }
        onset = min((10.0**decade for decade, does in differs.items() if does), default=math.inf)
        exempt = _unclipped(used, first, tolerance) & linear.moves
    straight = used[first] if is_linear else linear.contributions(direction).sum((0, 1))
    reversal = any(float(np.dot(straight, one)) < 0 for one in used.values())
    return Scan(
        linear=linear, onset=onset, reversal=reversal, tolerance=tolerance, facts=facts, rates=rates, exempt=exempt
    )


def _average(linear: Linear, ranks: int) -> Linear:
    """What cannot be measured where every gradient is scaled: an average, up to its scale."""
    share = 1 / (ranks * _MICRO_BATCHES)
    return replace(linear, weights=np.full((len(TENSORS), ranks, _MICRO_BATCHES), share), is_assumed=True)


def _unclipped(used: dict[int, np.ndarray], first: int, tolerance: float) -> np.ndarray:
    """Tensors on which even the largest gradient acts in full."""
    last = max(decade for decade, one in used.items() if np.isfinite(one).all())
    exempt = np.zeros(SIZE, dtype=bool)
    for place in TENSORS:
        whole = used[first][place.slice] * 10.0 ** (last - first)
        exempt[place.slice] = relative_error(whole, used[last][place.slice]) <= tolerance
    return exempt


def _unrun(key: str, words: str, spot: object) -> Answer:
    fixes = {
        "raises": "the step must run on a model that is called with a batch and returns its loss",
        "hangs": "a collective that not every rank reaches blocks the others; --timeout gives the step more time",
        "dies": "raise an error in place of exiting",
    }
    return Answer(
        question="runs", verdict="finding", key=key, found=f"it {key}: {words}", fix=fixes[key],
        spot=spot,  # type: ignore[arg-type]
    )  # fmt: skip


def _unmoved(seen: dict[int, list[Seen]]) -> Answer:
    updates = max(len(one.rates) for every in seen.values() for one in every)
    backwards = max(sum(factor != 0 for factor in one.factors) for every in seen.values() for one in every)
    if not backwards:
        found, fix = "no loss goes backward", "call model(batch) for each micro-batch, and backward() on its loss"
    elif not updates:
        found, fix = "the optimizer that it is given never steps", "call optimizer.step() on the argument"
    else:
        found = "the optimizer steps, but by nothing"
        fix = "look for zero_grad() between backward and step, for a threshold of 0, and for a learning rate of 0"
    return Answer(
        question="runs",
        verdict="finding",
        key="moves nothing",
        found=f"it comes back, but moves no weight: {found}",
        evidence=f"losses that went backward: {backwards}; steps of the optimizer: {updates}; displacement: 0",
        fix=fix,
    )


def _not_plain(facts: dict[str, object]) -> Answer | None:
    """Where the displacement is not the gradient."""
    if facts["kind"] != "SGD":
        return Answer(
            question="runs",
            verdict="cannot tell",
            key="own optimizer",
            found=f"prepare builds {facts['kind']} of its own, whose displacement is not the gradient",
            fix="build it with the make_optimizer that prepare is given",
        )
    if float(facts["epsilon"]) > _EPSILON:  # type: ignore[arg-type]
        return Answer(
            question="runs", verdict="cannot tell", key="low precision",
            found="prepare makes weights of less precision than float32, whose rounding hides what a clip does",
            fix="leave the model's weights float32 for the audit; autocast may stay",
        )  # fmt: skip
    return None
