"""Second order against dense float64 autodiff, closed forms, and three libraries that compute the same."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe, ProbeGradient, ProbeHessian, hutch_plus_plus, largest_eigenpairs


def quadratic(matrix: Tensor) -> ProbeHessian:
    """The Hessian of x^T A x / 2."""
    model = nn.Module()
    model.x = nn.Parameter(torch.zeros(len(matrix), dtype=matrix.dtype))

    def loss(model: Any, batch: None, carry: None) -> tuple[Tensor, None]:
        return model.x @ matrix @ model.x / 2, carry

    gradient = ProbeGradient(model, loss, [None])
    return ProbeHessian(gradient, torch.ones(len(matrix), dtype=matrix.dtype))


def symmetric(size: int, *, seed: int = 0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return spread * (root + root.T)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def batches(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, generator=generator).to(dtype), torch.randint(0, 3, (8,), generator=generator))
        for _ in range(3)
    ]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor], carry: None) -> tuple[Tensor, None]:
    return nn.functional.cross_entropy(model(batch[0]), batch[1]), carry


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def dense_hessian(model: nn.Module) -> Tensor:
    """The whole Hessian by PyTorch's own double backward over a functional call, shape (n, n)."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    sizes = [p.numel() for p in model.parameters()]

    def f(point: Tensor) -> Tensor:
        pieces = zip(shapes.items(), torch.split(point, sizes), strict=True)
        weights = {name: piece.view(shape) for (name, shape), piece in pieces}
        losses = [
            nn.functional.cross_entropy(torch.func.functional_call(model, weights, (x,)), y) for x, y in batches()
        ]
        return torch.stack(losses).mean()

    return torch.autograd.functional.hessian(f, flat(model))  # type: ignore[no-any-return,no-untyped-call]


def test_a_product_is_a_column_of_the_dense_hessian() -> None:
    model = network()
    whole = dense_hessian(model)
    hessian = ProbeHessian(ProbeGradient(model, cross_entropy, batches()), flat(model))
    columns = torch.stack([hessian.product(row) for row in torch.eye(len(whole), dtype=torch.float64)])
    assert torch.allclose(columns, whole, rtol=1e-10, atol=1e-13)
    assert hessian.num_products == len(whole)


def test_eigenvalues_are_the_largest_in_modulus_with_their_signs() -> None:
    values = torch.tensor([*np.linspace(-0.5, 0.5, 97), 3.0, -5.0, 2.0], dtype=torch.float64)
    basis, _ = torch.linalg.qr(symmetric(100, seed=2))
    hessian = quadratic(basis @ torch.diag(values) @ basis.T)
    found, vectors = largest_eigenpairs(hessian, 3, tolerance=1e-10)
    assert found == pytest.approx([-5.0, 3.0, 2.0], rel=1e-9)
    for value, vector in zip(found, vectors.T, strict=True):
        product = hessian.product(torch.from_numpy(vector.copy())).numpy()
        assert np.linalg.norm(product - value * vector) < 1e-8


def test_lanczos_that_is_given_up_says_nothing_rather_than_something() -> None:
    model = nn.Module()
    model.x = nn.Parameter(torch.zeros(400, dtype=torch.float64))
    clustered = torch.linspace(1, 1.0001, 400, dtype=torch.float64)

    def loss(model: Any, batch: None, carry: None) -> tuple[Tensor, None]:
        return (clustered * model.x**2).sum() / 2, carry

    probe = Probe(model, loss, [None])
    iterates = torch.stack([torch.zeros(400), torch.ones(400)]).double()
    row = ESTIMATORS["hessian_spectral_norm"](probe, iterates, tolerance=1e-12, max_restarts=1)
    assert row["spectral_norm"] is None
    assert row["residual"] is None
    assert row["num_products"] > 0


def test_the_spectral_norm_row_is_that_of_the_dense_hessian_with_a_small_residual() -> None:
    model = network()
    exact = torch.linalg.eigvalsh(dense_hessian(model))
    probe = Probe(model, cross_entropy, batches())
    here = flat(model)
    row = ESTIMATORS["hessian_spectral_norm"](probe, torch.stack([here, here + 0.1]), tolerance=1e-8)
    assert row["spectral_norm"] == pytest.approx(float(exact.abs().max()), rel=1e-6)
    assert abs(row["eigenvalue"]) == row["spectral_norm"]
    assert row["residual"] < 1e-6


def test_curvature_along_the_step_is_that_of_the_dense_hessian() -> None:
    model = network()
    whole = dense_hessian(model)
    probe = Probe(model, cross_entropy, batches())
    here = flat(model)
    step = torch.randn(here.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    row = ESTIMATORS["directional_curvature"](probe, torch.stack([here, here + step]))
    assert row["smoothness"] == pytest.approx(float((whole @ step).norm() / step.norm()), rel=1e-10)
    assert row["curvature"] == pytest.approx(float(step @ whole @ step / step.norm() ** 2), rel=1e-10)
    _, slope = probe.value_and_gradient(here)
    assert row["gradient_curvature"] == pytest.approx(float(slope @ whole @ slope / slope.norm() ** 2), rel=1e-10)
    still = ESTIMATORS["directional_curvature"](probe, torch.stack([here, here]))
    assert still["smoothness"] is None
    assert still["curvature"] is None


def test_directional_smoothness_tends_to_the_curvature_as_the_step_shrinks() -> None:
    model = network()
    probe = Probe(model, cross_entropy, batches())
    here = flat(model)
    step = torch.randn(here.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    limit = ESTIMATORS["directional_curvature"](probe, torch.stack([here, here + step]))["smoothness"]
    short = ESTIMATORS["directional_smoothness"](probe, torch.stack([here, here + 1e-5 * step]), delta=1.0)
    assert short["smoothness"] == pytest.approx(limit, rel=1e-4)
    curve = ESTIMATORS["directional_smoothness"](
        probe, torch.stack([here, here + 0.3 * step]), delta=0.1, method="chebyshev"
    )
    assert curve["at_zero"] == pytest.approx(limit, rel=5e-3)


def test_an_lstm_in_float32_has_second_derivatives() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 5, num_layers=2)
    inputs = torch.randn(6, 4, 3)

    def loss(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        return model(batch)[0].square().mean(), carry

    here = flat(lstm)
    single = ProbeHessian(ProbeGradient(lstm, loss, [inputs]), here)
    double = ProbeHessian(ProbeGradient(lstm, loss, [inputs], dtype=torch.float64), here)
    along = torch.randn(here.shape, generator=torch.Generator().manual_seed(1))
    exact = double.product(along)
    assert (single.product(along) - exact).norm() < 1e-4 * exact.norm()


def test_a_function_that_is_linear_has_a_zero_hessian() -> None:
    model = nn.Linear(3, 1)
    hessian = ProbeHessian(ProbeGradient(model, lambda m, b, c: (m(b).mean(), c), [torch.ones(2, 3)]), flat(model))
    assert torch.equal(hessian.product(torch.ones(4)), torch.zeros(4))


def test_hutch_plus_plus_is_exact_where_it_spans_everything_and_close_where_the_spectrum_decays() -> None:
    small = symmetric(6)
    whole = hutch_plus_plus(quadratic(small), 18)
    assert whole.value == pytest.approx(float(small.trace()), rel=1e-12)
    assert whole.standard_error == 0
    basis, _ = torch.linalg.qr(symmetric(120, seed=5))
    decaying = basis @ torch.diag(torch.tensor([1.0 / k**2 for k in range(1, 121)], dtype=torch.float64)) @ basis.T
    found = hutch_plus_plus(quadratic(decaying), 30)
    assert abs(found.value - float(decaying.trace())) < 4 * found.standard_error
    assert found.value == pytest.approx(float(decaying.trace()), rel=0.02)
    with pytest.raises(ValueError, match="multiple of 3"):
        hutch_plus_plus(quadratic(small), 10)


def test_hutch_plus_plus_has_no_bias_and_an_honest_error() -> None:
    matrix = symmetric(40, seed=6)
    estimates = [hutch_plus_plus(quadratic(matrix), 12, seed=seed) for seed in range(60)]
    values = np.array([estimate.value for estimate in estimates])
    spread = values.std(ddof=1)
    assert abs(values.mean() - float(matrix.trace())) < 4 * spread / np.sqrt(len(values))
    typical = np.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
    assert 0.5 < typical / spread < 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_on_a_quadratic_nothing_exceeds_the_spectral_norm(seed: int) -> None:
    matrix = symmetric(5, seed=seed)
    model = nn.Module()
    model.x = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    probe = Probe(model, lambda m, b, c: (m.x @ matrix @ m.x / 2, c), [None])
    iterates = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    norm = ESTIMATORS["hessian_spectral_norm"](probe, iterates)["spectral_norm"]
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, ord=2)), rel=1e-10)
    curvature = ESTIMATORS["directional_curvature"](probe, iterates)
    for method in ("exact", "chebyshev"):
        row = ESTIMATORS["directional_smoothness"](probe, iterates, delta=0.25, method=method)
        assert row["smoothness"] <= norm * (1 + 1e-9)
        assert row["smoothness"] == pytest.approx(curvature["smoothness"], rel=1e-8)
    assert abs(curvature["curvature"]) <= curvature["smoothness"] * (1 + 1e-12)


# Others who compute the same


def library(name: str) -> Any:
    """A library of the dev extra; what its own imports warn of is not ours to fix."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason="a cross-check of the dev extra")


def test_curvlinops_has_the_same_hessian() -> None:
    curvlinops = library("curvlinops")
    model = network()
    parameters = list(model.parameters())
    operator = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, batches(), check_deterministic=False
    )
    mine = ProbeHessian(ProbeGradient(network(), cross_entropy, batches()), flat(network()))
    along = torch.randn(mine.num_parameters, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own forward mode still goes through torch.jit
        theirs = operator @ along
    assert torch.allclose(theirs, mine.product(along), rtol=1e-10, atol=1e-13)


def test_pyhessian_finds_the_same_largest_eigenvalue_and_trace() -> None:
    pyhessian = library("pyhessian")
    model = network(torch.float32)
    inputs, targets = (torch.cat(part) for part in zip(*batches(torch.float32), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        other = pyhessian.hessian(model, nn.CrossEntropyLoss(), data=(inputs, targets), cuda=False)
        values, _ = other.eigenvalues(maxIter=500, tol=1e-7, top_n=1)
        trace = float(np.mean(other.trace(maxIter=2000, tol=1e-5)))
    mine = ProbeHessian(
        ProbeGradient(network(torch.float32), cross_entropy, [(inputs, targets)]), flat(network(torch.float32))
    )
    found, _ = largest_eigenpairs(mine, 1, tolerance=1e-6)
    assert found[0] == pytest.approx(values[0], rel=1e-3)
    assert hutch_plus_plus(mine, 3 * mine.num_parameters).value == pytest.approx(trace, rel=0.1)


def test_hessian_eigenthings_finds_the_same_largest_eigenvalue() -> None:
    eigenthings = library("hessian_eigenthings")
    model = network(torch.float32)
    inputs, targets = (torch.cat(part) for part in zip(*batches(torch.float32), strict=True))
    operator = eigenthings.HessianOperator(
        model, [(inputs, targets)], lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1])
    )
    value = float(eigenthings.lanczos(operator, k=1, max_iter=40, seed=0).eigenvalues[0])
    mine = ProbeHessian(
        ProbeGradient(network(torch.float32), cross_entropy, [(inputs, targets)]), flat(network(torch.float32))
    )
    found, _ = largest_eigenpairs(mine, 1, tolerance=1e-6)
    assert found[0] == pytest.approx(value, rel=1e-3)


# Clusters

LARGEST: dict[str, list[float]] = {
    "one value three times": [10, 10, 10, 9.99, 9.98],
    "one value five times": [10, 10, 10, 10, 10],
    "two of either sign": [10, 10, -10, -10, 9.5],
    "tight": [10, 9.999, 9.998, 9.997, 9.996],
    "apart": [10, 9, 8, 7, -6],
}


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize("kind", LARGEST)
def test_no_member_of_a_cluster_is_left_out_from_any_start(kind: str, tolerance: float) -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([LARGEST[kind], np.linspace(-5, 5, 150)])
    basis, _ = np.linalg.qr(generator.standard_normal((len(values), len(values))))
    matrix = torch.from_numpy((basis * values) @ basis.T).float()
    for seed in range(8):
        hessian = quadratic((matrix + matrix.T) / 2)
        found, vectors = largest_eigenpairs(hessian, 5, tolerance=tolerance, seed=seed)
        assert sorted(found) == pytest.approx(sorted(LARGEST[kind]), rel=2 * tolerance)
        assert np.allclose(vectors.T @ vectors, np.eye(5), atol=10 * tolerance)
        assert hessian.num_products < 200


def test_one_eigenvalue_is_not_looked_for_again() -> None:
    """Another one of the same value would change nothing."""
    matrix = symmetric(100)
    one, five = quadratic(matrix), quadratic(matrix)
    largest_eigenpairs(one, 1)
    largest_eigenpairs(five, 5)
    assert one.num_products < five.num_products - 20


# Which kernels


class Seen(nn.Module):
    """Notes whether cuDNN is on when it is called, and can be a recurrent layer that is called as a function."""

    def __init__(self, *parts: nn.Module, hidden: bool = False) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.weight = nn.Parameter(torch.ones(2))
        self.hidden = hidden
        self.seen: list[bool] = []


def noting(model: Any, batch: Any, carry: Any) -> tuple[Tensor, Any]:
    model.seen.append(torch.backends.cudnn.enabled)
    if model.hidden and torch.backends.cudnn.enabled:
        raise NotImplementedError("the derivative for '_cudnn_rnn_backward' is not implemented.")
    return model.weight.pow(3).sum() / 6, carry


@pytest.mark.parametrize(
    ("model", "seen"),
    [
        (Seen(nn.Conv2d(1, 1, 1)), [True, True]),
        (Seen(nn.Sequential(nn.LSTM(1, 1))), [False, False]),
        (Seen(hidden=True), [True, False, False]),
    ],
)
def test_cudnn_is_off_for_recurrent_layers_alone(model: Seen, seen: list[bool]) -> None:
    gradient = ProbeGradient(model, noting, [None])
    hessian = ProbeHessian(gradient, torch.cat([torch.tensor([1.0, 2.0]), gradient.point()[2:]]))
    for _ in range(2):
        assert hessian.product(torch.ones(hessian.num_parameters))[:2].tolist() == [1.0, 2.0]
    inner = next(iter(gradient.modules()))
    assert isinstance(inner, Seen)
    assert inner.seen == seen
    assert hessian.num_products == 2
    assert torch.backends.cudnn.enabled


def test_other_errors_of_a_product_are_raised() -> None:
    def fails(model: Any, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        raise RuntimeError("the user's own")

    gradient = ProbeGradient(Seen(), fails, [None])
    with pytest.raises(RuntimeError, match="the user's own"):
        ProbeHessian(gradient, gradient.point()).product(gradient.point())
