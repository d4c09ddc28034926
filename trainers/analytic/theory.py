r"""The step sizes that the theorems prescribe, and the numbers of iterations that they guarantee.

All rules take steps x - h g with h = min(eta, numerator / (||g|| + offset)):

- gradient descent, eq. (4): h = eta;
- clipped, eq. (5): numerator = gamma eta, where gamma is the threshold on the gradient;
- normalised, eq. (6): eta = infinity, numerator = eta_n, offset = beta.

Zhang et al. (2020), "Why gradient clipping accelerates training"; Vankov et al. (2024), "Optimizing (L0, L1)-smooth
functions by gradient methods".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trainers.errors import TrainerError

__all__ = [
    "THEORIES",
    "Setting",
    "StepRule",
    "bound_of",
    "iteration_lower_bound",
    "proven_theorem7_bound",
    "rule_of",
    "theorem7_gap",
]


@dataclass(frozen=True, kw_only=True)
class StepRule:
    """h = min(eta, numerator / (||g|| + offset)).

    Attributes:
        eta: Largest step size.
        numerator: Longest step, where ``offset`` is 0.
        offset: Added to the gradient's norm.
        clip_norm: The threshold as it was given, where it was: ``numerator / eta`` has been rounded.
    """

    eta: float
    numerator: float = math.inf
    offset: float = 0.0
    clip_norm: float | None = None

    @property
    def threshold(self) -> float | None:
        """The gradient norm above which the step is shortened; None where it never or always is."""
        if self.clip_norm is not None:
            return self.clip_norm
        if math.isinf(self.eta) or math.isinf(self.numerator):
            return None
        return self.numerator / self.eta - self.offset


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the theorems' parameters and bounds are made of.

    Attributes:
        L0: Of Definition 1.
        L1: Of Definition 1.
        gap: f(x0) - f*.
        epsilon: The gradient norm that is to be reached.
        M: Largest gradient norm on the sublevel set of x0, Assumption 4.
        tau: Bound on the noise of the gradient, Assumption 5; 0 for none.
        horizon: T, for how many iterations a stochastic rule is set.
        gradient_bound: Largest gradient norm on the whole space; None where there is none.
    """

    L0: float
    L1: float
    gap: float
    epsilon: float
    M: float
    tau: float
    horizon: int
    gradient_bound: float | None = None


def _theorem3(s: Setting) -> StepRule:
    """eta = 1/(10 L0); the threshold on the gradient is min(10 L0, L0/L1)."""
    _need("theorem3", s, L0=s.L0)
    eta = 1 / (10 * s.L0)
    return StepRule(eta=eta, numerator=eta * min(10 * s.L0, _over(s.L0, s.L1)))


def _theorem3_bound(s: Setting) -> float:
    """20 L0 gap / epsilon^2 + 20 max(1, L1^2) gap / L0."""
    return 20 * s.L0 * s.gap / s.epsilon**2 + 20 * max(1.0, s.L1**2) * s.gap / s.L0


def _theorem6(s: Setting) -> StepRule:
    """eta = 1/(2 (M L1 + L0))."""
    return StepRule(eta=1 / (2 * (s.M * s.L1 + s.L0)))


def _theorem6_bound(s: Setting) -> float:
    """4 (M L1 + L0) gap / epsilon^2."""
    return 4 * (s.M * s.L1 + s.L0) * s.gap / s.epsilon**2


def _theorem7(s: Setting) -> StepRule:
    """h = min(1/(16 L1 (||g|| + tau)), eta), eta = min(1/(20 L0), 1/(128 L1 tau), 1/sqrt(T)).

    The text prints 1/(16 eta L1 (||g|| + tau)). With that eta its own proof fails, which needs
    4 L1 ||g|| h <= 1/4; and the units do not match.

    Returns:
        The rule as the proof uses it.
    """
    _need("theorem7", s, L1=s.L1)
    eta = min(_over(1, 20 * s.L0), _over(1, 128 * s.L1 * s.tau), 1 / math.sqrt(s.horizon))
    return StepRule(eta=eta, numerator=1 / (16 * s.L1), offset=s.tau)


def theorem7_gap(s: Setting) -> float:
    """D of Theorem 7: gap + (5 L0 + 2 L1 tau) tau^2 + 9 tau L0^2/L1.

    Args:
        s: With a positive L1.

    Returns:
        The gap with what noise adds to it.
    """
    return s.gap + (5 * s.L0 + 2 * s.L1 * s.tau) * s.tau**2 + 9 * s.tau * s.L0**2 / s.L1


def proven_theorem7_bound(s: Setting) -> float:
    r"""What Theorem 7's proof gives where every factor is carried through.

        D max(512 L1/epsilon, 4096 D/epsilon^4, (1280 L0 + 8192 L1 tau)/epsilon^2)

    The proof has E[sum h_k ||grad f||^2 / 4] <= D and goes on without the 4; and it ends with a mean of at most
    2 epsilon, of which Markov's inequality says nothing, where it needs epsilon/2.

    Args:
        s: With a positive L1.

    Returns:
        The number of iterations; the text prints 4 to 1,024 times less.

    Example:
        >>> unit = Setting(L0=1, L1=1, gap=1, epsilon=0.1, M=1, tau=0, horizon=1)
        >>> round(proven_theorem7_bound(unit) / bound_of("theorem7", unit))
        1024
    """
    D, epsilon = theorem7_gap(s), s.epsilon
    return D * max(512 * s.L1 / epsilon, 4096 * D / epsilon**4, (1280 * s.L0 + 8192 * s.L1 * s.tau) / epsilon**2)


def _theorem7_bound(s: Setting) -> float:
    """D max(128 L1/epsilon, 4 D/epsilon^4, (80 L0 + 512 L1 tau)/epsilon^2), as printed; not what its proof gives."""
    D, epsilon = theorem7_gap(s), s.epsilon
    return D * max(128 * s.L1 / epsilon, 4 * D / epsilon**4, (80 * s.L0 + 512 * s.L1 * s.tau) / epsilon**2)


def _theorem8(s: Setting) -> StepRule:
    """eta = min(1/sqrt(T), 1/(L1 (M + tau))), with an M that bounds the gradient everywhere."""
    if s.gradient_bound is None:
        raise TrainerError(
            "theorem8 needs a gradient that is bounded on the whole space: with noise the iterates leave the sublevel "
            "set on which Assumption 4 has its M; take logistic or theorem4_flat"
        )
    return StepRule(eta=min(1 / math.sqrt(s.horizon), _over(1, s.L1 * (s.gradient_bound + s.tau))))


def _theorem8_bound(s: Setting) -> float:
    """16 (gap + (5 L0 + 4 L1 M)(M + tau)^2)^2 / epsilon^4, with the same M."""
    assert s.gradient_bound is not None
    M = s.gradient_bound
    return 16 * (s.gap + (5 * s.L0 + 4 * s.L1 * M) * (M + s.tau) ** 2) ** 2 / s.epsilon**4


def _normalized(s: Setting) -> StepRule:
    """Eq. (6) matched to Theorem 3 as Section 3.1 does it: eta_n = gamma eta_c and beta = gamma."""
    clipped = _theorem3(s)
    return StepRule(eta=math.inf, numerator=clipped.numerator, offset=clipped.numerator / clipped.eta)


def _vankov2024(s: Setting) -> StepRule:
    """eta = 1/(2 L0), threshold 2 L0/(3 L1): h = min(1/(2 L0), 1/(3 L1 ||g||))."""
    _need("vankov2024", s, L0=s.L0)
    return StepRule(eta=1 / (2 * s.L0), numerator=_over(1, 3 * s.L1))


def _vankov2024_bound(s: Setting) -> float:
    r"""gap max(4 L0/epsilon^2, 6 L1/epsilon).

    With t = L1 h ||g||, f falls by at least h ||g||^2 (1 - (L0 + L1 ||g||) h / (2 (1 - t/3))). For h up to
    1/(L0 + 3/2 L1 ||g||), and this rule's h is, (L0 + L1 ||g||) h <= 1 - t/3, so that f falls by h ||g||^2 / 2 =
    min(||g||^2/(4 L0), ||g||/(6 L1)).

    Returns:
        The number of iterations.
    """
    return s.gap * max(4 * s.L0 / s.epsilon**2, 6 * s.L1 / s.epsilon)


THEORIES: dict[str, tuple[Callable[[Setting], StepRule], Callable[[Setting], float] | None]] = {
    "theorem3": (_theorem3, _theorem3_bound),
    "theorem6": (_theorem6, _theorem6_bound),
    "theorem7": (_theorem7, _theorem7_bound),
    "theorem8": (_theorem8, _theorem8_bound),
    # At least half of Theorem 3's steps, so at most twice its iterations plus one; the paper states no theorem for it.
    "normalized": (_normalized, None),
    "vankov2024": (_vankov2024, _vankov2024_bound),
}
"""Name to parameters and guaranteed number of iterations."""


def rule_of(theory: str, setting: Setting) -> StepRule:
    """The rule with the parameters that a theorem prescribes.

    Args:
        theory: A name in :data:`THEORIES`.
        setting: The function's constants and the goal.

    Returns:
        The rule.

    Raises:
        TrainerError: The theorem does not apply.

    Example:
        >>> rule_of("theorem3", Setting(L0=1, L1=2, gap=1, epsilon=0.1, M=1, tau=0, horizon=1))
        StepRule(eta=0.1, numerator=0.05, offset=0.0, clip_norm=None)
    """
    return THEORIES[theory][0](setting)


def bound_of(theory: str, setting: Setting) -> float | None:
    """The number of iterations that a theorem guarantees for its own parameters; None where it guarantees none.

    Args:
        theory: A name in :data:`THEORIES`.
        setting: The function's constants and the goal.

    Returns:
        An upper bound on T_epsilon, eq. (7) or (8).
    """
    bound = THEORIES[theory][1]
    return None if bound is None else bound(setting)


def iteration_lower_bound(*, L0: float, L1: float, M: float, gap: float, epsilon: float) -> float:
    """Theorem 4, corrected: what the best fixed step of gradient descent needs at least in a class, at its worst.

    A step h beyond 2 log(1 + L1 M/L0)/(L1 M) diverges on the extremal function of the class from a gradient of norm M.
    A step up to there needs (gap - 5 epsilon/4)/(4 epsilon^2 h) iterations on the flat instance, whose sides have the
    slope 2 epsilon. The text prints 5 epsilon/8, where its proof has f(x0) - f* = 2 Delta + 5 epsilon/4, and log M + 1
    for the logarithm, which is that of its own steep instance, with L0 = L1.

    Args:
        L0: Of the class, at least 3 epsilon.
        L1: Of the class.
        M: Bound on the gradient.
        gap: f(x0) - f* of the flat instance.
        epsilon: The gradient norm that is to be reached.

    Returns:
        L1 M (gap - 5 epsilon/4)/(8 epsilon^2 log(1 + L1 M/L0)).
    """
    return L1 * M * (gap - 5 * epsilon / 4) / (8 * epsilon**2 * math.log1p(L1 * M / L0))


def _over(numerator: float, denominator: float) -> float:
    """The quotient; infinite over zero."""
    return numerator / denominator if denominator > 0 else math.inf


def _need(theory: str, setting: Setting, **positive: float) -> None:
    for name, value in positive.items():
        if not value > 0:
            raise TrainerError(
                f"{theory} needs {name} > 0; this function's L0 is {setting.L0!r}, its L1 {setting.L1!r}"
            )
