"""The null test: the same weights twice must give exactly the same gradient, and a copy the model's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.probe.copy_test import FIX, CopyTest
from estimators.probe.hessian import ProbeHessian
from estimators.probe.probe import Probe
from estimators.probe.second_derivatives import SecondDerivativeTest
from estimators.probe.vectors import length

__all__ = ["NullTest", "null_test"]


@dataclass(frozen=True, kw_only=True)
class NullTest:
    """How a probe's answers differ when it is asked the same thing twice.

    Attributes:
        again: ||g - g'|| of two gradients at x, with a gradient elsewhere in between.
        rebuilt: The same, with the second from a newly built probe.
        hessian: ||H v - H' v|| of two Hessian-vector products.
        copied: ||g - g'|| of the gradients of the copy that is measured and of the model itself, on one batch.
        alone: |f - f'| of the loss that comes with a gradient and of forward passes alone.
        generator: Whether measuring left the global random generators unchanged.
        grad_norm: ||g||, to compare with.
        copy_test: The whole comparison behind ``copied``.
        second_test: A Hessian-vector product beside differences of the gradient; one without a difference where no
            estimator needs the Hessian.
    """

    again: float
    rebuilt: float
    hessian: float
    copied: float
    alone: float
    generator: bool
    grad_norm: float
    copy_test: CopyTest
    second_test: SecondDerivativeTest

    @property
    def passed(self) -> bool:
        """Whether every difference is exactly 0, as for a function of the parameters, and the Hessian is that of f."""
        still = self.again == self.rebuilt == self.hessian == self.alone == 0 and self.generator
        return still and not self.copy_test.differs and not self.second_test.differs

    @property
    def diagnosis(self) -> str:
        """What a failure means; empty if there is none."""
        if not self.generator:
            return "measuring draws random numbers, so it would change the training next to it"
        if self.again != 0:
            return "f is not a function of the parameters: something in model or loss is random or remembers"
        if self.alone != 0:
            return "the loss by a forward pass is another than the one whose gradient is taken"
        if self.copy_test.differs:
            return f"{self.copy_test.words}; {FIX}"
        if self.rebuilt != 0:
            return "two workers would measure two different functions: model or probe is built with random numbers"
        if self.hessian != 0:
            return "Hessian-vector products do not repeat"
        return self.second_test.words


def null_test(build: Callable[[], Probe], point: Tensor, *, second: bool = True) -> NullTest:
    """Measure the same weights twice, the model beside its copy, and the Hessian beside differences of the gradient.

    Args:
        build: Makes the probe; called twice.
        point: x, shape (num_parameters,).
        second: Whether the Hessian matters: whether an estimator needs it.

    Returns:
        The differences, all of which should be exactly 0, except for the last.
    """
    probe = build()
    before = _generators()
    first = _gradient(probe, point)
    probe.settle(point)
    along = (first.double() / max(length(first), torch.finfo(first.dtype).tiny)).to(first.dtype)
    product = ProbeHessian(probe.gradient, point).product(along)
    _gradient(probe, point + along)
    again = _gradient(probe, point)
    product_again = ProbeHessian(probe.gradient, point).product(along)
    untouched = all(torch.equal(one, other) for one, other in zip(before, _generators(), strict=True))
    alone = abs(probe.gradient.value(point) - probe.gradient.value_and_gradient(point)[0])
    compared = probe.compare_copy()
    rebuilt = _gradient(build(), point)
    second_test = probe.compare_second_derivatives() if second else SecondDerivativeTest()
    return NullTest(
        again=_distance(first, again),
        rebuilt=_distance(first, rebuilt),
        hessian=_distance(product, product_again),
        copied=compared.distance,
        alone=alone,
        copy_test=compared,
        second_test=second_test,
        generator=untouched,
        grad_norm=length(first),
    )


def _gradient(probe: Probe, point: Tensor) -> Tensor:
    """Computed, never from the cache."""
    probe.settle(point)
    return probe.gradient.value_and_gradient(point)[1]


def _generators() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return states


def _distance(one: Tensor, other: Tensor) -> float:
    return length(one - other)
