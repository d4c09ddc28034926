"""Rows that compare: smoothness by layer, the authors' arithmetic, and pairs from anybody's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe, find_pairs, measure_pairs
from estimators.probe import memory as memory_module
from estimators.probe.memory import GradientMemory


def squares(model: nn.Module, batch: tuple[Tensor, Tensor], carry: None) -> tuple[Tensor, None]:
    return (model(batch[0]) - batch[1]).square().mean(), carry


def batches(count: int = 4, *, length: int = 30) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(length, 3, generator=generator), torch.randn(length, 1, generator=generator)) for _ in range(count)
    ]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.fixture
def probe() -> Probe:
    return Probe(network(), squares, batches())


@pytest.fixture
def snapshot() -> Tensor:
    here = flat(network())
    return torch.stack([here, here + 0.05 * torch.randn(here.shape, generator=torch.Generator().manual_seed(1))])


def test_layers_make_up_the_whole(probe: Probe, snapshot: Tensor) -> None:
    by_layer = ESTIMATORS["layer_smoothness"](probe, snapshot, delta=1.0)
    whole = ESTIMATORS["directional_smoothness"](probe, snapshot, delta=1.0)
    assert by_layer["layers"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    squares_of = [
        (value * length) ** 2
        for value, length in zip(by_layer["smoothness_by_layer"], by_layer["update_norm_by_layer"], strict=True)
    ]
    assert sum(squares_of) == pytest.approx((whole["smoothness"] * whole["update_norm"]) ** 2, rel=1e-5)
    norms = by_layer["grad_norm_by_layer"]
    assert sum(norm**2 for norm in norms) == pytest.approx(whole["grad_norm"] ** 2, rel=1e-10)
    assert set(by_layer["trust_by_layer"]) == {"trusted"}


def test_a_layer_that_does_not_move_has_no_smoothness(probe: Probe, snapshot: Tensor) -> None:
    still = snapshot.clone()
    still[1, probe.gradient.layout["2.weight"]] = still[0, probe.gradient.layout["2.weight"]]
    row = ESTIMATORS["layer_smoothness"](probe, still, delta=0.5)
    at = row["layers"].index("2.weight")
    assert row["smoothness_by_layer"][at] is None
    assert row["trust_by_layer"][at] == "no step"
    assert all(value is not None for i, value in enumerate(row["smoothness_by_layer"]) if i != at)


def test_the_authors_numerator_is_summed_and_their_norm_is_not(probe: Probe, snapshot: Tensor) -> None:
    theirs = ESTIMATORS["authors_compat"](probe, snapshot, redraw_lengths=False)
    ours = ESTIMATORS["directional_smoothness"](probe, snapshot, delta=0.5)
    assert theirs["num_batches"] == 4
    assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-5)
    assert theirs["smoothness"] == pytest.approx(4 * ours["smoothness_by_fraction"][0], rel=1e-3)
    assert theirs["null_smoothness"] == 0


def test_with_lengths_drawn_anew_the_same_weights_twice_are_not_the_same(probe: Probe, snapshot: Tensor) -> None:
    row = ESTIMATORS["authors_compat"](probe, snapshot)
    assert row["null_smoothness"] > 0
    short = torch.stack([snapshot[0], snapshot[0] + 0.01 * (snapshot[1] - snapshot[0])])
    worse = ESTIMATORS["authors_compat"](probe, short)
    assert worse["null_smoothness"] > 50 * row["null_smoothness"], "the shorter the step, the more of it is noise"
    assert repr(ESTIMATORS["authors_compat"](probe, snapshot)) == repr(row), "but the row itself repeats"


def test_the_authors_arithmetic_leaves_model_and_random_numbers_alone(probe: Probe, snapshot: Tensor) -> None:
    before, state = flat(probe.model).clone(), torch.get_rng_state()
    ESTIMATORS["authors_compat"](probe, snapshot)
    assert torch.equal(flat(probe.model), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["exact", "chebyshev", "adaptive"])
def test_the_methods_agree_on_a_network(probe: Probe, snapshot: Tensor, method: str) -> None:
    exact = ESTIMATORS["directional_smoothness"](probe, snapshot)
    row = ESTIMATORS["directional_smoothness"](probe, snapshot, method=method)
    assert row["smoothness"] == pytest.approx(exact["smoothness"], rel=7e-3)
    assert row["method"] == method
    assert row["num_gradients"] in {"exact": {11}, "chebyshev": {5}, "adaptive": {3, 4}}[method]
    assert row["trust"] == "trusted"
    assert row["smoothness_by_fraction"][-1] <= row["mechanical_bound"]


def test_an_unknown_method_is_refused(probe: Probe, snapshot: Tensor) -> None:
    with pytest.raises(ValueError, match="unknown method 'secant'; known: exact, chebyshev, adaptive"):
        ESTIMATORS["directional_smoothness"](probe, snapshot, method="secant")


def test_a_search_takes_each_gradient_once_and_the_loss_for_nothing(probe: Probe, snapshot: Tensor) -> None:
    evaluated = []
    evaluate = probe.gradient.value_and_gradient
    probe.value_and_gradient = GradientMemory(lambda point: evaluated.append(point) or evaluate(point))  # type: ignore[func-returns-value]
    row = ESTIMATORS["directional_smoothness"](probe, snapshot, method="adaptive", tolerance=1e-6)
    assert 3 < row["num_gradients"] == len(evaluated)


@pytest.mark.parametrize("max_bytes", [0, 1 << 20], ids=["a large model", "a small model"])
@pytest.mark.parametrize("method", ["exact", "chebyshev", "adaptive"])
def test_the_gradient_at_the_end_is_there_where_the_next_snapshot_begins(
    probe: Probe, snapshot: Tensor, method: str, max_bytes: int
) -> None:
    evaluated = []
    evaluate = probe.gradient.value_and_gradient
    probe.value_and_gradient = GradientMemory(
        lambda point: evaluated.append(point) or evaluate(point),  # type: ignore[func-returns-value]
        max_bytes=max_bytes,
    )
    ESTIMATORS["directional_smoothness"](probe, snapshot, method=method)
    evaluated.clear()
    following = torch.stack([snapshot[1], 2 * snapshot[1] - snapshot[0]])
    row = ESTIMATORS["directional_smoothness"](probe, following, method=method)
    assert len(evaluated) == row["num_gradients"] - 1


def test_a_memory_holds_as_many_points_as_it_has_room_for() -> None:
    calls = []
    memory = GradientMemory(lambda x: calls.append(x) or (0.0, x), max_bytes=6 * 8)  # type: ignore[func-returns-value]
    points = [torch.tensor([float(k)]) for k in range(7)]
    for point in points[:6] * 2:
        memory(point)
    assert len(calls) == 6, "a point and its gradient take 8 bytes"
    memory(points[6])
    memory(points[0])
    assert len(calls) == 8, "the least recently used has gone"
    memory(points[2])
    assert len(calls) == 8


def test_what_a_lookup_costs_does_not_grow_with_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    same_bits = memory_module._same_bits
    monkeypatch.setattr(memory_module, "_same_bits", lambda *points: compared.append(points) or same_bits(*points))  # type: ignore[func-returns-value]
    memory = GradientMemory(lambda x: (float(x[0]), x))
    points = [torch.tensor([float(k), -2.0 * k]) for k in range(500)]
    assert [memory(point)[0] for point in points] == [memory(point)[0] for point in points]
    assert len(compared) == 500, "each point once, with itself"


def test_points_with_the_same_mark_are_told_apart() -> None:
    memory = GradientMemory(lambda x: (float(x[0]), x))
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
    assert [memory(point)[0] for point in (one, other, one)] == [1.0, 2.0, 1.0]
    assert memory.known_value(other) is None, "the bits of both add up to the same"


def weights(step: int) -> dict[str, Tensor]:
    return {name: tensor + 0.01 * step for name, tensor in network().state_dict().items()}


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_folder_of_state_dicts_is_measured_pair_by_pair(tmp_path: Path, kind: str) -> None:
    for step in (3, 4, 5, 9):
        if kind == "pt":
            torch.save({"state_dict": weights(step), "epoch": 1}, tmp_path / f"run2-{step}.pt")
        else:
            save_file(weights(step), tmp_path / f"run2-{step}.safetensors")
    (tmp_path / "notes-1.txt").write_text("not weights")
    rows = list(measure_pairs(tmp_path, network(), squares, batches()))
    assert [row["step"] for row in rows] == [3, 4]
    at_hand = list(measure_pairs([(3, weights(3), weights(4))], network(), squares, batches()))
    assert repr(rows[0]) == repr(at_hand[0])


def test_wrappers_put_words_in_front_of_names() -> None:
    wrapped: list[Any] = [(0, {f"module.{k}": v for k, v in weights(0).items()}, weights(1))]
    assert next(iter(measure_pairs(wrapped, network(), squares, batches())))["trust"] == "trusted"


def test_what_is_no_pair_is_refused_with_what_was_found(tmp_path: Path) -> None:
    torch.save(weights(0), tmp_path / "epoch-0.pt")
    torch.save(weights(0), tmp_path / "epoch-10.pt")
    with pytest.raises(ValueError, match=r"no two files of consecutive steps.*found steps: 0, 10"):
        find_pairs(tmp_path)
    torch.save(weights(0), tmp_path / "other-10.pt")
    with pytest.raises(ValueError, match="both of step 10"):
        find_pairs(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        list(measure_pairs([(0, tmp_path / "list.pt", weights(1))], network(), squares, batches()))
    with pytest.raises(ValueError, match=r"have no '0\.weight'"):
        list(measure_pairs([(0, {"a": torch.ones(1)}, weights(1))], network(), squares, batches()))
    with pytest.raises(ValueError, match=r"has shape \(1,\), and the model's \(5, 3\)"):
        list(measure_pairs([(0, weights(0) | {"0.weight": torch.ones(1)}, weights(1))], network(), squares, batches()))
    with pytest.raises(ValueError, match="did you mean 'directional_curvature'"):
        list(measure_pairs([], network(), squares, batches(), estimators={"directional_curvatur": {}}))
