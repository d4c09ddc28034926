"""Critical sharpness: quadratics by algebra, networks by a dense scan, and every way in which there is no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe, measure_pairs
from sweeper.spec.sections.measure import Measure
from sweeper.workers.estimator import build_probe
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.stepper import Stepper
from trainers.update.rule import UpdateRule

DOUBLE = torch.float64


class Point(nn.Module):
    """A model that is nothing but its parameters."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(values.clone())


def probe_of(function: Callable[[Tensor], Tensor], here: Tensor, **options: Any) -> Probe:
    """f as a probe, whose one batch holds nothing that matters."""

    def loss(model: Point, batch: Tensor, carry: Any) -> tuple[Tensor, Any]:
        return function(model.x), carry

    return Probe(Point(here), loss, [torch.zeros(1)], **options)


def measured(function: Callable[[Tensor], Tensor], here: Tensor, step: Tensor, **options: Any) -> dict[str, Any]:
    return ESTIMATORS["critical_sharpness"](probe_of(function, here), torch.stack([here, here + step]), **options)


# Quadratics, where all is algebra

ROOT = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
HESSIAN = ROOT @ ROOT.T
HERE = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
SLOPE = HESSIAN @ HERE
ALONG_SLOPE = float(SLOPE @ HESSIAN @ SLOPE / (SLOPE @ SLOPE))


def bowl(x: Tensor) -> Tensor:
    return x @ HESSIAN.to(x.dtype) @ x / 2


@pytest.mark.parametrize("rate", [0.001, 0.05, 2.0])
def test_of_gradient_descent_it_is_the_curvature_along_the_gradient(rate: float) -> None:
    row = measured(bowl, HERE, -rate * SLOPE, learning_rate=rate)
    assert row["critical_sharpness"] == pytest.approx(ALONG_SLOPE, rel=1e-9)
    assert row["critical_curvature"] == pytest.approx(ALONG_SLOPE, rel=1e-9)
    assert row["stability_edge"] == pytest.approx(2 / rate, rel=1e-9)
    assert row["critical_fraction"] == pytest.approx(2 / (rate * ALONG_SLOPE), rel=1e-9)
    assert row["fraction_low"] <= row["critical_fraction"] <= row["fraction_high"]
    assert row["descent_cosine"] == pytest.approx(1)
    assert row["critical_clip_norm"] is None
    assert row["trust"] == "trusted"
    assert row["num_forward_passes"] < 10


def test_of_a_clipped_step_it_is_smaller_by_what_was_clipped_off_and_the_curvature_is_the_same() -> None:
    rate, threshold = 0.5, 0.2
    scale = threshold / float(SLOPE.norm())
    row = measured(bowl, HERE, -rate * scale * SLOPE, learning_rate=rate, clip_norm=threshold)
    assert row["critical_sharpness"] == pytest.approx(scale * ALONG_SLOPE, rel=1e-9)
    assert row["critical_curvature"] == pytest.approx(ALONG_SLOPE, rel=1e-9)
    assert row["stability_edge"] == pytest.approx(2 * float(SLOPE.norm()) / (rate * threshold), rel=1e-9)
    # t_c = 2 sigma / curvature, by eq. (5) at a threshold of t_c / eta.
    critical = 2 * float(SLOPE.norm()) / ALONG_SLOPE / rate
    assert row["critical_clip_norm"] == pytest.approx(critical, rel=1e-9)
    assert row["critical_clip_norm"] == pytest.approx(row["critical_fraction"] * threshold, rel=1e-9)


def test_of_a_preconditioned_step_it_is_the_quotient_of_the_preconditioned_hessian() -> None:
    rate, scales = 0.01, torch.linspace(0.1, 4, 6, dtype=DOUBLE)
    direction = scales * SLOPE
    row = measured(bowl, HERE, -rate * direction, learning_rate=rate)
    assert row["critical_sharpness"] == pytest.approx(
        float(direction @ HESSIAN @ direction / (direction @ SLOPE)), rel=1e-9
    )
    whole = torch.linalg.eigvalsh(scales.sqrt().diag() @ HESSIAN @ scales.sqrt().diag())
    assert row["critical_sharpness"] <= float(whole.max())
    unit = direction / direction.norm()
    assert row["critical_curvature"] == pytest.approx(float(unit @ HESSIAN @ unit), rel=1e-9)


def test_without_a_learning_rate_the_curvature_is_known_still() -> None:
    row = measured(bowl, HERE, -0.05 * SLOPE, clip_norm=1.0)
    assert row["learning_rate"] is row["critical_sharpness"] is row["critical_clip_norm"] is None
    assert row["critical_curvature"] == pytest.approx(ALONG_SLOPE, rel=1e-9)


# Every way in which there is no value


def test_a_step_along_which_f_does_not_fall_is_an_ascent() -> None:
    row = measured(bowl, HERE, 0.1 * SLOPE, learning_rate=0.1, clip_norm=1.0)
    assert (row["trust"], row["critical_fraction"], row["critical_sharpness"]) == ("ascent", 0.0, math.inf)
    assert row["critical_clip_norm"] == 0
    assert row["critical_curvature"] is None
    assert row["descent_cosine"] == pytest.approx(-1)
    assert row["num_forward_passes"] == 0


def test_no_step_has_no_sharpness() -> None:
    row = measured(bowl, HERE, torch.zeros_like(HERE), learning_rate=0.1)
    assert (row["trust"], row["critical_sharpness"], row["stability_edge"]) == ("no step", None, None)


def test_a_loss_that_is_not_finite_at_the_start_is_an_overflow() -> None:
    row = measured(lambda x: (x.square().sum() + 800).exp(), HERE, -0.1 * SLOPE, learning_rate=0.1)
    assert (row["trust"], row["critical_fraction"], row["num_forward_passes"]) == ("overflow", None, 0)


def test_a_loss_that_falls_for_ever_is_told_apart() -> None:
    row = measured(lambda x: -x.sum(), HERE, torch.ones(6, dtype=DOUBLE), learning_rate=0.1, max_forward_passes=20)
    assert (row["trust"], row["critical_sharpness"], row["fraction_high"]) == ("beyond", None, None)
    assert row["fraction_low"] == 1e4
    assert row["stability_edge"] == pytest.approx(2)


def test_a_wall_along_the_way_is_where_the_loss_rises() -> None:
    def walled(x: Tensor) -> Tensor:
        return torch.where(x.sum() > 3, torch.full_like(x.sum(), math.nan), -x.sum())

    start = torch.zeros(1, dtype=DOUBLE)
    row = measured(walled, start, torch.ones(1, dtype=DOUBLE), learning_rate=1.0, max_forward_passes=20)
    assert row["trust"] == "trusted"
    assert row["fraction_low"] <= 3 < row["fraction_high"]


def test_a_descent_that_float32_cannot_resolve_is_noise_and_float64_resolves_it() -> None:
    def shallow(x: Tensor) -> Tensor:
        return 1 + 1e-9 * bowl(x)

    step = -0.05 * SLOPE
    assert measured(shallow, HERE, step, learning_rate=0.05)["trust"] == "trusted"
    row = measured(shallow, HERE.float(), step.float(), learning_rate=0.05)
    assert (row["trust"], row["critical_fraction"], row["critical_sharpness"]) == ("noise", None, None)
    assert row["noise_floor"] > 4e-7


def test_a_loss_without_an_audit_in_float64_says_so() -> None:
    weight = torch.ones(6)

    def mixed(x: Tensor) -> Tensor:
        return (x @ HESSIAN.float()) @ x / 2 if x.dtype == torch.float32 else weight @ x

    row = measured(mixed, HERE.float(), (-0.05 * SLOPE).float(), learning_rate=0.05)
    assert row["trust"] == "unaudited"
    assert row["critical_sharpness"] == pytest.approx(ALONG_SLOPE, rel=1e-2)


@pytest.mark.parametrize("passes", [-1, 0, 1])
def test_a_search_needs_two_values(passes: int) -> None:
    with pytest.raises(ValueError, match="f\\(x_k\\) and one other value are needed"):
        measured(bowl, HERE, -SLOPE, max_forward_passes=passes)


def test_an_audit_at_the_start_is_taken_to_grow_with_the_loss() -> None:
    def audited(scale: float) -> float:
        probe = probe_of(bowl, HERE.float(), audit_at="start")
        error = probe.loss_error(scale * HERE.float())
        assert error is not None
        return error

    assert audited(0.1) == audited(1.0) > 0
    assert audited(10.0) == pytest.approx(100 * audited(1.0), rel=1e-5)


# Networks, by a dense scan

TEXT = {"corpus": "python-docs", "model": {"use": "lstm", "layers": 1, "hidden": 24, "embedding": 24}}
PROBLEMS = {
    "lstm": ("language_modeling", TEXT, 0.002),
    "mlp": ("image_classification", {"dataset": "digits", "model": {"use": "mlp"}}, 0.1),
}
RULES = {
    "plain": {"learning_rate": 0.5},
    "clipped": {"learning_rate": 4.0, "clip_norm": 0.25},
    "momentum": {"learning_rate": 0.1, "momentum": 0.9},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.003},
}


def taken(problem: Problem, rule: UpdateRule, steps: tuple[int, ...]) -> Iterator[tuple[Tensor, float]]:
    """Snapshots of training, and the learning rate of each."""
    stepper = Stepper(problem, rule, total_steps=max(steps) + 1, seed=0)
    for step in range(max(steps) + 1):
        rate, _ = stepper.take(step, keep_iterates=step in steps)
        if step in steps:
            assert stepper.iterates is not None
            yield torch.from_numpy(stepper.iterates.copy()), rate


@pytest.mark.parametrize("options", RULES.values(), ids=RULES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_dense_scan_of_the_loss_crosses_in_the_bracket(name: str, options: dict[str, Any]) -> None:
    use, settings, share = PROBLEMS[name]
    measure = Measure(every=1, data_fraction=share).model_dump(mode="json")
    probe = build_probe(build_problem(use, settings, seed=0), measure)
    rule = UpdateRule(**options)
    num_crossings = 0
    for snapshot, rate in taken(build_problem(use, settings, seed=0), rule, (0, 3, 12, 40)):
        row = ESTIMATORS["critical_sharpness"](probe, snapshot, learning_rate=rate, clip_norm=rule.step_threshold)
        assert row["num_forward_passes"] < 10
        low, high = row["fraction_low"], row["fraction_high"]
        if high is None:
            assert row["trust"] in {"ascent", "beyond"}
            continue
        start, whole = probe.gradient.value(snapshot[0]), snapshot[1] - snapshot[0]
        changes = {k / 100: probe.gradient.value(snapshot[0] + k / 100 * high * whole) - start for k in range(1, 101)}
        assert all(change < row["noise_floor"] for share, change in changes.items() if share * high <= low)
        assert changes[1.0] > 0
        if row["trust"] == "unfinished":
            assert row["num_forward_passes"] == 9
            continue
        assert row["trust"] in {"trusted", "flagged"}
        num_crossings += 1
        assert row["critical_sharpness"] == pytest.approx(2 / (rate * row["critical_fraction"]))
        assert row["critical_curvature"] == pytest.approx(row["stability_edge"] / row["critical_fraction"])
    assert num_crossings >= 2


def test_a_threshold_below_the_critical_one_lowers_the_loss_and_one_above_raises_it() -> None:
    use, settings, _ = PROBLEMS["mlp"]
    rate, tried = 20.0, 0
    rule = UpdateRule(learning_rate=rate, clip_norm=0.05)
    for step in (5, 10, 20):
        problem = build_problem(use, settings, seed=0)
        measure = Measure(every=1, data_fraction=0.1).model_dump(mode="json")
        probe = build_probe(build_problem(use, settings, seed=0), measure)
        ((snapshot, _),) = taken(problem, rule, (step,))
        row = ESTIMATORS["critical_sharpness"](probe, snapshot, learning_rate=rate, clip_norm=0.05)
        if row["trust"] != "trusted":
            continue
        tried += 1
        # The same step with another threshold, by the update rule itself.
        for factor, rises in ((0.9, False), (1.1, True)):
            threshold = factor * row["critical_clip_norm"]
            unit = (snapshot[1] - snapshot[0]).double() / row["update_norm"]
            there = (snapshot[0].double() + rate * threshold * unit).float()
            assert (probe.gradient.value(there) > probe.gradient.value(snapshot[0])) == rises
    assert tried >= 2


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_value_alone_is_bit_for_bit_the_one_that_comes_with_the_gradient(name: str, graph: bool) -> None:
    use, settings, share = PROBLEMS[name]
    measure = Measure(every=1, data_fraction=share).model_dump(mode="json")
    probe = build_probe(build_problem(use, settings, seed=0), measure)
    ((snapshot, _),) = taken(build_problem(use, settings, seed=0), UpdateRule(learning_rate=1.0), (3,))
    for point in snapshot:
        assert probe.gradient.value(point, graph=graph) == probe.gradient.value_and_gradient(point)[0]


def test_a_loss_that_needs_gradients_of_its_own_is_searched_too() -> None:
    def penalised(x: Tensor) -> Tensor:
        y = x * 1
        (slope,) = torch.autograd.grad(bowl(y), y, create_graph=True)
        return bowl(x) + 0.01 * slope.square().sum()

    row = measured(penalised, HERE, -0.01 * SLOPE, learning_rate=0.01)
    whole = HESSIAN + 0.02 * HESSIAN @ HESSIAN
    assert row["trust"] == "trusted"
    assert row["critical_curvature"] == pytest.approx(float(SLOPE @ whole @ SLOPE / (SLOPE @ SLOPE)), rel=1e-9)


def test_a_loss_that_rounds_differently_without_a_graph_is_evaluated_with_one() -> None:
    def moody(x: Tensor) -> Tensor:
        return bowl(x) if torch.is_grad_enabled() else bowl(x) * (1 + 1e-3)

    row = measured(moody, HERE, -0.05 * SLOPE, learning_rate=0.05)
    assert row["critical_sharpness"] == pytest.approx(ALONG_SLOPE, rel=1e-9)


def test_saved_pairs_of_weights_are_measured_with_their_learning_rate() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    batch = torch.randn(16, 3)

    def loss(model: nn.Module, batch: Tensor, carry: Any) -> tuple[Tensor, Any]:
        return (model(batch) - 1).square().mean(), carry

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss(model, batch, None)[0].backward()
    optimizer.step()
    (row,) = measure_pairs(
        [(0, before, model.state_dict())],
        model,
        loss,
        [batch],
        estimators={"critical_sharpness": {"learning_rate": 0.1}},
    )
    assert row["trust"] == "trusted"
    assert row["critical_sharpness"] == pytest.approx(row["critical_curvature"], rel=1e-4)
