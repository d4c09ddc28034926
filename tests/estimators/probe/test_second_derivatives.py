"""Functions that autograd cannot differentiate twice are found, however small, and nothing else is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import ESTIMATORS, NEED_HESSIAN, Probe, ProbePolicy, SecondDerivativeError, null_test
from estimators.probe.second_derivatives import SecondDerivativeTest, compare_second_derivatives

Backward = Callable[[Any, Tensor], Tensor]


def whole(ctx: Any, slope: Tensor) -> Tensor:
    return ctx.saved_tensors[0].cos() * slope  # type: ignore[no-any-return]


def attribute(ctx: Any, slope: Tensor) -> Tensor:
    return ctx.kept.cos() * slope  # type: ignore[no-any-return]


def data(ctx: Any, slope: Tensor) -> Tensor:
    return ctx.saved_tensors[0].data.cos() * slope  # type: ignore[no-any-return]


def detached(ctx: Any, slope: Tensor) -> Tensor:
    return whole(ctx, slope).detach()


def no_grad(ctx: Any, slope: Tensor) -> Tensor:
    with torch.no_grad():
        return whole(ctx, slope)


def with_numpy(ctx: Any, slope: Tensor) -> Tensor:
    return torch.from_numpy(np.cos(ctx.saved_tensors[0].detach().numpy()) * slope.detach().numpy())


def in_float32(ctx: Any, slope: Tensor) -> Tensor:
    return whole(ctx, slope).detach().float().to(slope.dtype)


def float32_alone(ctx: Any, slope: Tensor) -> Tensor:
    if slope.dtype != torch.float32:
        raise TypeError("this kernel knows float32 alone")
    return whole(ctx, slope).detach()


once = torch.autograd.function.once_differentiable(whole)
WRONG: dict[str, Backward] = {
    "attribute": attribute,
    "data": data,
    "detached": detached,
    "no_grad": no_grad,
    "numpy": with_numpy,
    "once": once,
}


def sine(backward: Backward) -> Any:
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.kept = x.detach()
            return x.sin()

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            return backward(ctx, slope)

    return Sine


class Network(nn.Module):
    """A share of one layer's sines is computed by a function of its own."""

    def __init__(self, backward: Backward, share: float, between: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 2)
        self.between, self.sine, self.share = between, sine(backward), share

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(self.between(self.first(inputs)))
        return self.last(hidden.sin() + self.share * (self.sine.apply(hidden) - hidden.sin()))  # type: ignore[no-any-return]


def cross_entropy(model: nn.Module, batch: Any, carry: None) -> tuple[Tensor, None]:
    return nn.functional.cross_entropy(model(batch[0]), batch[1]), carry


def compared(
    backward: Backward,
    *,
    share: float = 1.0,
    between: nn.Module | None = None,
    seed: int = 0,
    loss: Any = cross_entropy,
) -> SecondDerivativeTest:
    torch.manual_seed(seed)
    model = Network(backward, share, between or nn.Tanh())
    return compare_second_derivatives(model, loss, (torch.randn(64, 4), torch.randint(2, (64,))))


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("between", [nn.Tanh(), nn.ReLU()], ids=["smooth", "kinked"])
@pytest.mark.parametrize("name", WRONG)
def test_a_function_that_cannot_be_differentiated_twice_is_found_and_named(
    name: str, between: nn.Module, share: float
) -> None:
    found = compared(WRONG[name], share=share, between=between)
    assert found.differs
    assert 2e-5 < found.share < share
    assert "Sine (test_second_derivatives.py:" in found.words
    assert "save_for_backward" in found.words
    assert bool(found.cut) == (name not in {"attribute", "data"})


def test_what_is_left_out_is_said_as_a_share_of_the_whole() -> None:
    # f = sin(w)^2 / 2: the second derivative is cos^2 - sin^2, of which the cut function leaves cos^2.
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)

    def loss(given: Any, batch: None, carry: None) -> tuple[Tensor, None]:
        return sine(attribute).apply(given.weight).square().sum() / 2, carry

    found = compare_second_derivatives(model, loss, None)
    at = torch.tensor(found.size).double()
    assert at > 0
    angle = 0.5 * (1 + 1e-2 * torch.randn(1, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    expected = angle.sin() ** 2 / torch.maximum(angle.cos() ** 2, (2 * angle).cos().abs())
    assert found.share == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("between", [nn.Tanh(), nn.ReLU(), nn.Hardtanh(), nn.LeakyReLU(), nn.Softshrink()])
def test_a_whole_function_raises_no_alarm_at_many_weights_kinked_or_not(between: nn.Module) -> None:
    tests = [compared(whole, between=between, seed=seed) for seed in range(25)]
    assert not any(test.differs for test in tests)
    assert sum(test.share < 1e-7 for test in tests) >= 24


@pytest.mark.parametrize("rounding", ["float32", "bfloat16", "random"])
def test_rounding_on_the_way_and_random_numbers_are_no_missing_part_of_the_hessian(rounding: str) -> None:
    def loss(model: nn.Module, batch: Any, carry: None) -> tuple[Tensor, None]:
        outputs = model(batch[0])
        if rounding == "random":
            outputs = outputs + 1e-3 * torch.randn_like(outputs)
        else:
            outputs = outputs.to(getattr(torch, rounding)).to(batch[0].dtype)
        return nn.functional.cross_entropy(outputs, batch[1]), carry

    tests = [compared(whole, seed=seed, loss=loss, between=nn.ReLU()) for seed in range(20)]
    assert not any(test.differs for test in tests)
    assert all(test.share > 1e-5 for test in tests), "nothing to forgive"


@pytest.mark.parametrize("backward", [in_float32, float32_alone])
def test_where_float64_says_nothing_a_gradient_without_a_graph_is_found_all_the_same(backward: Backward) -> None:
    found = compared(backward)
    assert found.differs
    assert found.words.startswith("Hessian-vector products of f leave out a part of the Hessian: Sine (")


def test_a_function_that_rounds_out_of_sight_is_not_blamed_for_it() -> None:
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.bfloat16().sin().to(x.dtype)

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            return whole(ctx, slope)

    def loss(model: nn.Module, batch: Any, carry: None) -> tuple[Tensor, None]:
        return nn.functional.cross_entropy(Rounded.apply(model(batch[0])), batch[1]), carry  # type: ignore[no-untyped-call]

    tests = [compared(whole, seed=seed, loss=loss) for seed in range(20)]
    assert not any(test.differs for test in tests)
    assert all(test.share > 1e-5 for test in tests), "nothing to forgive"


def test_a_function_that_is_linear_or_blocks_its_gradient_is_right_without_a_graph() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return -x

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            return -slope

    class Blocked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> Tensor:
            return torch.zeros_like(slope)

    def loss(model: nn.Module, batch: Any, carry: None) -> tuple[Tensor, None]:
        hidden = model(batch)
        return (Reversed.apply(hidden).square().mean() + Blocked.apply(hidden).mean()), carry  # type: ignore[no-any-return]

    torch.manual_seed(0)
    assert not compare_second_derivatives(nn.Linear(2, 2), loss, torch.randn(5, 2)).differs
    linear = compare_second_derivatives(
        nn.Linear(2, 2), lambda m, x, c: (Reversed.apply(m(x)).mean(), c), torch.ones(1, 2)
    )
    assert not linear.differs


def test_a_detach_in_the_loss_is_found_and_not_blamed_on_a_function() -> None:
    def loss(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        outputs = model(batch).tanh()
        return (outputs * outputs.detach()).mean(), carry

    torch.manual_seed(0)
    found = compare_second_derivatives(nn.Linear(3, 2), loss, torch.randn(8, 3))
    assert found.differs
    assert "something in loss or forward hides a dependence on the parameters" in found.words


def test_f_is_not_tested_where_it_has_no_double_backward_as_products_say_that_themselves() -> None:
    def refuses(ctx: Any, slope: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative")
        return whole(ctx, slope)

    assert not compared(refuses).differs


def test_the_test_leaves_model_and_generators_as_they_were() -> None:
    torch.manual_seed(3)
    model = Network(once, 1.0, nn.Tanh())
    batch = (torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    compare_second_derivatives(model, cross_entropy, batch)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())


def probe(backward: Backward, **options: Any) -> tuple[Probe, Tensor]:
    torch.manual_seed(0)
    model, batches = (
        Network(backward, 1.0, nn.Tanh()),
        [(torch.randn(16, 4), torch.randint(2, (16,))) for _ in range(3)],
    )
    here = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return Probe(model, cross_entropy, batches, **options), torch.stack([here, here + 0.01])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_exactly_the_estimators_that_need_the_hessian_refuse_a_wrong_one(name: str) -> None:
    wrong, iterates = probe(once)
    if name in NEED_HESSIAN:
        with pytest.raises(SecondDerivativeError, match="leave out a part of the Hessian: they are off by"):
            ESTIMATORS[name](wrong, iterates)
    else:
        assert ESTIMATORS[name](wrong, iterates)["grad_norm"] > 0


def test_a_probe_tests_its_first_batch_once_and_not_at_all_where_it_is_known() -> None:
    calls: list[int] = []

    def counted(model: nn.Module, batch: Any, carry: None) -> tuple[Tensor, None]:
        calls.append(len(batch[1]))
        return cross_entropy(model, batch, carry)

    for known, evaluations in ((False, 1 + 2), (True, 0)):
        made, iterates = probe(whole, known=known)
        made = Probe(made.model, counted, [*made.batches], known=known)
        for _ in range(2):
            made.hessian(iterates[0])
        assert len(calls) == evaluations
        calls.clear()


def test_batch_norm_on_frozen_statistics_is_no_error_of_the_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    batch = (torch.randn(32, 4), torch.randint(2, (32,)))
    made = Probe(model, cross_entropy, [batch], policy=ProbePolicy(batch_norm="frozen"))
    test = made.compare_second_derivatives()
    assert not test.differs
    assert test.size > 0


def test_the_null_test_compares_the_hessian_where_an_estimator_needs_it() -> None:
    _, iterates = probe(once)
    found = null_test(lambda: probe(once)[0], iterates[0])
    assert (found.again, found.rebuilt, found.hessian, found.passed) == (0, 0, 0, False)
    assert "Sine (test_second_derivatives.py:" in found.diagnosis
    assert null_test(lambda: probe(once)[0], iterates[0], second=False).passed
    assert null_test(lambda: probe(whole)[0], iterates[0]).passed


def dense(of: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    return torch.autograd.functional.hessian(of, point)  # type: ignore[no-any-return,no-untyped-call]


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("dim", [0, 1])
def test_products_with_a_weight_norm_are_those_of_its_formula(older: bool, dim: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 4, bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        wrap = nn.utils.weight_norm if older else nn.utils.parametrizations.weight_norm
        model = wrap(layer, dim=dim).double()
    batch = torch.randn(5, 3, dtype=torch.float64)
    made = Probe(model, lambda m, x, c: (m(x).sin().square().mean(), c), [batch])
    here = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    size = here.numel() - 12

    def formula(flat: Tensor) -> Tensor:
        g, v = flat[:size], flat[size:].view(4, 3)
        weight = v / v.norm(dim=1 - dim, keepdim=True) * (g.view(4, 1) if dim == 0 else g.view(1, 3))
        return (batch @ weight.T).sin().square().mean()

    expected = dense(formula, here)
    found = torch.stack([made.hessian(here).product(row) for row in torch.eye(len(here), dtype=torch.float64)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
