"""Norms, clip factors and lengths of steps against closed forms, where sums of squares overflow and underflow."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainers.problem import Problem
from trainers.training.loop import Segment, TrainSettings, train
from trainers.training.stepper import Stepper
from trainers.update.norms import distance, norm, norms, scaled_norm, unit_norms
from trainers.update.rule import UpdateRule

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HUGE = {torch.float32: 2.0**100, torch.float64: 2.0**900, torch.bfloat16: 2.0**100, torch.float16: 2.0**14}
NEAR = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2, torch.float16: 1e-3}
TINY = {torch.float32: 2.0**-110, torch.float64: 2.0**-900, torch.bfloat16: 2.0**-110, torch.float16: 2.0**-20}


def exact(values: Tensor) -> float:
    """The norm by rational arithmetic: no overflow, one rounding at the end."""
    total = sum(Fraction(value) ** 2 for value in values.flatten().tolist())
    if not total:
        return 0.0
    shift = (total.numerator.bit_length() - total.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(total / Fraction(4) ** shift), shift)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", [HUGE, TINY])
@pytest.mark.parametrize("size", [2, 3000, 300_000])
def test_a_norm_whose_squares_fit_into_no_float_is_that_of_the_closed_form(
    dtype: torch.dtype, scales: dict[torch.dtype, float], size: int
) -> None:
    vector = torch.full((size,), scales[dtype], dtype=dtype)
    expected = scales[dtype] * math.sqrt(size)
    other = torch.zeros_like(vector)
    for found in (norm(vector), norms([other, vector])[1], distance(vector, other), scaled_norm(vector)):
        assert found.double().item() == pytest.approx(expected, rel=NEAR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 4096, 300_000])
def test_an_ordinary_norm_has_the_bits_of_the_plain_one(dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    for scale in (1.0, 1e3, 1e-2):
        vector, other = (scale * torch.randn(2, size, generator=generator) / math.sqrt(size)).to(dtype)
        plain = torch.linalg.vector_norm(vector)
        for found in (norm(vector), norms([vector])[0]):
            assert found.dtype == dtype
            assert torch.equal(found, plain)
        blocks = [torch.linalg.vector_norm(a - b) for a, b in zip(vector.split(2**17), other.split(2**17), strict=True)]
        length = torch.linalg.vector_norm(torch.stack(blocks)) if len(blocks) > 1 else blocks[0]
        assert torch.equal(distance(vector, other), length)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_nan_infinite_and_empty_vectors_have_the_norms_of_their_entries(dtype: torch.dtype) -> None:
    for measure in (norm, scaled_norm, lambda vector: norms([vector])[0]):
        assert measure(torch.zeros(3, dtype=dtype)).item() == 0
        assert measure(torch.zeros(0, dtype=dtype)).item() == 0
        assert math.isnan(measure(torch.tensor([1.0, math.nan], dtype=dtype)).item())
        assert measure(torch.tensor([1.0, math.inf], dtype=dtype)).item() == math.inf
    zeros = torch.zeros(3, dtype=dtype)
    assert distance(zeros, zeros).item() == 0
    assert math.isnan(distance(zeros, zeros * math.nan).item())


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20),
)
def test_every_norm_in_float32_is_the_exact_one_up_to_rounding(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float32)
    assert norm(vector).double().item() == pytest.approx(exact(vector), rel=1e-6, abs=0)


@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False, max_value=1e300, min_value=-1e300), min_size=1, max_size=20
    )
)
def test_every_norm_in_float64_is_the_exact_one_up_to_rounding(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float64)
    # Below the smallest normal number there are fewer digits.
    assert norm(vector).item() == pytest.approx(exact(vector), rel=1e-13, abs=5e-324)


def test_norms_of_units_are_those_of_rows_and_of_whole_vectors() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert unit_norms(rows, wide=False).tolist() == [[5.0], [2.0]]
    assert unit_norms(rows * 1e19, wide=True).flatten().tolist() == pytest.approx([5e19, 2e19])
    assert unit_norms(torch.tensor([3.0, 4.0]), wide=False).shape == (1,)
    assert unit_norms(torch.tensor(-3.0), wide=False).item() == 3


# Steps


def slope(size: float, dtype: torch.dtype = torch.float32, width: int = 4) -> Problem:
    """f(w) = size * sum(w) from 0: a gradient of equal entries, of norm 2 size, in two parameter tensors."""

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.zeros(1, width // 2, dtype=dtype))
            self.second = nn.Parameter(torch.zeros(1, width // 2, dtype=dtype))

    def loss(model: Any, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        return size * (model.first.sum() + model.second.sum()), carry

    return Problem(
        model=Weights(),
        loss=loss,
        batch=lambda step: torch.zeros(1),
        probe=lambda share: [torch.zeros(1)],
        steps_per_epoch=1,
        fingerprint="slope",
    )


CLIPPED = {
    # Factor of the step, in terms of the threshold c and the norm g = 2 size of four equal entries.
    "clip_norm": lambda c, g: c / g,
    "clip_layer_norm": lambda c, g: c / (g / math.sqrt(2)),
    "clip_value": lambda c, g: c / (g / 2),
    # Units are rows, here of norm g / sqrt 2; weights of 0 count as 1e-3.
    "clip_adaptive": lambda c, g: c * 1e-3 / (g / math.sqrt(2)),
    "normalize": lambda c, g: 1 / (g + c),
}


@pytest.mark.parametrize("rule", CLIPPED)
@pytest.mark.parametrize("size", [2e19, 3e28, 1.5e36])
@pytest.mark.parametrize("transform_of", ["gradient", "momentum"])
def test_a_step_with_a_huge_gradient_is_clipped_as_the_rule_says(rule: str, size: float, transform_of: str) -> None:
    settings: dict[str, Any] = {rule: 1.0}
    if transform_of == "momentum":
        settings |= {"transform_of": "momentum", "momentum": 0.9}
    stepper = Stepper(slope(size), UpdateRule(learning_rate=0.5, **settings), total_steps=3, seed=0)
    _, scalars = stepper.take(0)
    grad_norm, scale, update_norm, threshold = scalars[1:].double().tolist()
    factor = CLIPPED[rule](1.0, 2 * size)
    assert grad_norm == pytest.approx(2 * size, rel=1e-6)
    assert threshold == (1.0 if rule == "clip_norm" else math.inf)
    assert scale == pytest.approx(factor, rel=1e-5)
    assert update_norm == pytest.approx(0.5 * factor * 2 * size, rel=1e-5)
    expected = torch.full((4,), -0.5 * factor * size)
    assert torch.allclose(stepper._vector, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-25, 1e-30, 1e-37])
def test_norms_and_steps_of_tiny_gradients_are_recorded(size: float) -> None:
    stepper = Stepper(slope(size), UpdateRule(learning_rate=0.5, clip_norm=1.0), total_steps=1, seed=0)
    _, scalars = stepper.take(0)
    assert scalars[1].item() == pytest.approx(2 * size, rel=1e-6)
    assert scalars[2].item() == 1
    assert scalars[3].item() == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("size", [2e-22, 1e-30])
def test_a_threshold_below_a_tiny_gradient_clips_it(size: float) -> None:
    stepper = Stepper(slope(size), UpdateRule(learning_rate=1.0, clip_norm=size), total_steps=1, seed=0)
    _, scalars = stepper.take(0)
    assert scalars[2].item() == pytest.approx(0.5, rel=1e-6)
    assert scalars[3].item() == pytest.approx(size, rel=1e-6)


def test_a_gradient_of_2e19_per_entry_does_not_diverge_when_it_is_clipped() -> None:
    rule = UpdateRule(learning_rate=0.5, clip_norm=1.0)
    (segment,) = (
        item for item in train(slope(2e19), rule, TrainSettings(steps=3), seed=0) if isinstance(item, Segment)
    )
    assert segment.outcome == "done"
    assert segment.num_clipped == 3
    assert segment.rows["grad_norm"][:3] == pytest.approx([4e19] * 3, rel=1e-6)
    assert segment.rows["update_norm"][:3] == pytest.approx([0.5] * 3, rel=1e-5)


def test_a_half_precision_gradient_longer_than_its_type_can_say_is_clipped() -> None:
    stepper = Stepper(
        slope(40_000.0, torch.float16, 8), UpdateRule(learning_rate=0.5, clip_norm=64.0), total_steps=1, seed=0
    )
    _, scalars = stepper.take(0)
    norm_of = 40_000 * math.sqrt(8)
    assert norm_of > torch.finfo(torch.float16).max
    assert scalars[1].item() == pytest.approx(norm_of, rel=1e-3)
    assert scalars[2].item() == pytest.approx(64 / norm_of, rel=1e-2)
    assert scalars[3].item() == pytest.approx(32, rel=1e-2)


@pytest.mark.parametrize("measure", [norm, lambda vector: distance(vector, torch.zeros_like(vector))])
def test_a_gradient_of_ordinary_size_takes_one_pass(
    measure: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(vector: Tensor) -> Tensor:
        raise AssertionError("computed again")

    monkeypatch.setattr("trainers.update.norms.scaled_norm", refused)
    for scale in (1e-14, 1.0, 1e15):
        measure(scale * torch.ones(1000))
    with pytest.raises(AssertionError, match="computed again"):
        measure(1e-20 * torch.ones(1000))
