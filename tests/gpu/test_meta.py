"""Everything registered would find its tensors on a GPU, and waits for it no more often than it must.

Told without one: on the meta device, with operations on tensors of two devices refused as a GPU refuses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from estimators import ESTIMATORS, NEED_STEP, Probe
from estimators.probe.hessian import ProbeHessian
from tests.conformance.test_problems import SMALL, small_problem
from tests.conformance.test_update_rules import OPTIONS, SCHEDULE_OPTIONS
from trainers.problem import Problem
from trainers.training.graphed import EagerRecorder
from trainers.training.one_device import DeviceMismatchError, dry_run, one_device
from trainers.training.stepper import Stepper
from trainers.update.rule import OPTIMIZERS, UpdateRule
from trainers.update.schedules import SCHEDULES
from trainers.update.transforms import TRANSFORMS

Build = Callable[..., Problem]


@pytest.fixture
def build(small_text: Path) -> Build:
    def build_one(name: str, device: str = "meta") -> Problem:
        return small_problem(name, small_text, device=device)

    return build_one


@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_every_registered_problem_stays_on_the_device_and_reads_nothing(name: str, build: Build) -> None:
    found = dry_run(lambda: build(name), UpdateRule(learning_rate=0.1, clip_norm=1.0), seed=7)
    assert (found.unseen, found.reads) == ("", 0)


@pytest.mark.parametrize("transform", [None, *TRANSFORMS])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_of_every_registered_rule_stays_on_the_device(
    optimizer: str, transform: str | None, build: Build
) -> None:
    transformed: dict[str, Any] = {transform: 0.5} if transform else {}
    rule = UpdateRule(optimizer=optimizer, learning_rate=0.02, **OPTIONS[optimizer], **transformed)
    found = dry_run(lambda: build("deep_linear"), rule, seed=7)
    assert (found.unseen, found.reads) == ("", 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_of_every_registered_schedule_stays_on_the_device(schedule: str, build: Build) -> None:
    rule = UpdateRule(learning_rate=0.02, schedule={"use": schedule, **SCHEDULE_OPTIONS[schedule]})
    found = dry_run(lambda: build("deep_linear"), rule, seed=7, batches_per_step=2)
    assert (found.unseen, found.reads) == ("", 0)


@pytest.fixture
def meta_is_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """f may be defined on tensors without values."""
    monkeypatch.setattr("estimators.probe.gradient._require_real", lambda model: None)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.usefixtures("meta_is_real")
def test_f_its_gradient_and_its_hessian_stay_on_the_device(name: str, build: Build) -> None:
    problem = build(name)
    with one_device() as reads:
        probe = Probe(
            problem.model,
            problem.measured_loss or problem.loss,
            problem.probe(0.5),
            initial_carry=problem.initial_carry,
            known=True,
        )
        built = reads.count
        total = probe.gradient.accumulate()
        assert reads.count == built
        point = probe.gradient.point()
        product = ProbeHessian(probe.gradient, point).product(point)
    assert total.is_meta
    assert product.is_meta


def one_product(operator: LinearOperator, k: int, **options: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """In place of Lanczos."""
    size = operator.shape[0]
    return operator.matvec(np.ones(size))[:k], np.eye(size, k)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", ["language_modeling/gpt", "deep_linear"])
@pytest.mark.usefixtures("meta_is_real")
def test_every_registered_estimator_stays_on_the_device(
    name: str, estimator: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Products without values converge to nothing.
    monkeypatch.setattr("estimators.curvature.spectral_norm.eigsh", one_product)
    problem = build(name)
    needed = {"learning_rate": 0.1, "clip_norm": 1.0, "batches_per_step": 1, "stability_threshold": 20.0}
    with one_device():
        probe = Probe(
            problem.model,
            problem.loss,
            problem.probe(0.5),
            initial_carry=problem.initial_carry,
            training_batches=lambda count, per_step: map(problem.batch, range(count * per_step)),
            steps_per_epoch=problem.steps_per_epoch,
            known=True,
        )
        iterates = torch.ones(2, probe.gradient.num_parameters, device="meta")
        needed["preconditioner"] = iterates[0]
        options = {key: needed[key] for key in NEED_STEP.get(estimator, ())}
        options |= {"trace_products": 3} if estimator == "hessian_spectrum" else {}
        row = ESTIMATORS[estimator](probe, iterates, **options)
    assert row


# What a GPU would refuse


class Closed(nn.Module):
    """Uses a tensor that no device move reaches."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.use = use
        self.hidden = [torch.ones(4, 4)]

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.layer(x), self.hidden[0])


def closed(use: Callable[[Tensor, Tensor], Tensor]) -> Problem:
    problem = Problem(
        model=Closed(use),
        loss=lambda model, batch, carry: (model(batch).square().mean(), carry),
        batch=lambda step: torch.ones(4, 4, device="meta"),
        probe=lambda fraction: [torch.ones(4, 4, device="meta")],
        evaluate=lambda model: {},
        steps_per_epoch=2,
        fingerprint="ones",
    )
    problem.model.to("meta")
    return problem


@pytest.mark.parametrize(
    "use",
    [
        lambda x, hidden: x @ hidden,
        lambda x, hidden: x + hidden,
        lambda x, hidden: torch.bmm(x[None], hidden[None])[0],
        lambda x, hidden: x.gather(1, hidden.long()),
        lambda x, hidden: hidden[x.argmax(1)] * x,
        lambda x, hidden: torch.where(hidden > 0, x, 0.0),
        lambda x, hidden: torch.cat([x, hidden]),
        lambda x, hidden: nn.functional.embedding(hidden[0].long(), x),
    ],
)
def test_a_tensor_that_stays_behind_is_found(use: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(DeviceMismatchError, match=r"takes tensors of two devices: one of shape \(.*\) is on the CPU"):
        dry_run(lambda: closed(use), UpdateRule(learning_rate=0.1), seed=0)


@pytest.mark.parametrize(
    ("use", "reads"),
    [
        (lambda x, hidden: x * hidden.sum(), 0),
        (lambda x, hidden: x[hidden[0].long()], 0),
        (lambda x, hidden: x + hidden.to(x.device), 0),
        (lambda x, hidden: x * x.sum().item(), 1),
        (lambda x, hidden: x if float(x.sum()) > 0 and bool((x > 0).any()) else -x, 2),
        (lambda x, hidden: x * len(x.detach().cpu().tolist()), 1),
    ],
)
def test_what_a_gpu_accepts_passes_and_reads_are_counted(use: Callable[[Tensor, Tensor], Tensor], reads: int) -> None:
    found = dry_run(lambda: closed(use), UpdateRule(learning_rate=0.1), seed=0)
    assert (found.unseen, found.reads) == ("", reads)


# What goes to the device, and when


class FromHost(TorchDispatchMode):
    """Counts copies from the CPU to the device; from ordinary memory, each makes a GPU be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if str(func).startswith(("aten._to_copy", "aten.copy_")):
            source = args[1] if "copy_." in str(func) and "_to_copy" not in str(func) else args[0]
            self.count += source.device.type == "cpu" and found.is_meta
        return found


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_a_step_within_an_epoch_brings_nothing_from_the_host(
    name: str, augment: bool, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    if augment and name.startswith("image_classification"):
        monkeypatch.setitem(SMALL, name, SMALL[name] | {"augment": True})
    problem = build(name)
    counted = []
    with one_device():
        stepper = Stepper(problem, UpdateRule(learning_rate=0.1, clip_norm=1.0), total_steps=99, seed=7)
        for step in range(3):
            with FromHost() as copies:
                stepper.take(step)
            counted.append(copies.count)
    assert counted[1:] == [0, 0]


@pytest.mark.parametrize("name", SMALL)
def test_a_gpu_probe_holds_the_samples_of_a_cpu_probe_in_batches_of_one_size(name: str, build: Build) -> None:
    there, here = (list(build(name, device).probe(1.0)) for device in ("meta", "cpu"))
    assert sum(len(y.flatten()) for _, y in there) == sum(len(y.flatten()) for _, y in here)
    assert len({y.shape for _, y in there}) == 1
    if "resnet" in name:
        assert [y.shape for _, y in there] == [y.shape for _, y in here], "batch normalisation sees each batch"
    elif len(here) > 3:
        assert len(there) < len(here)


# How much there is to launch


class Launches(TorchDispatchMode):
    """Counts operations, each of which a GPU is told of one by one; views and moves of numbers aside."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").partition(".")[0]
        if name not in {"view", "t", "transpose", "slice", "select", "detach", "unsqueeze", "expand", "alias"}:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def plain_step(problem: Problem) -> Callable[[], object]:
    """A loop written by hand: zero_grad, backward, clip_grad_norm_, SGD."""
    model = problem.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        loss, _ = problem.loss(model, problem.batch(1), problem.initial_carry())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


CEILINGS = {
    "language_modeling/lstm": 1.1,
    "language_modeling/awd_lstm": 1.05,
    "language_modeling/gpt": 1.05,
    "image_classification/resnet20": 1.05,
    "image_classification/resnet18": 1.05,
    "image_classification/mlp": 1.15,
    "image_classification/logistic_regression": 1.2,
    "deep_linear": 1.15,
}
"""As it is done on the CPU, where norms are looked at; on other devices a step has fewer than a plain loop."""


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", SMALL)
def test_a_step_launches_hardly_more_than_a_plain_loop(name: str, device: str, build: Build) -> None:
    ours = Stepper(build(name, device), UpdateRule(learning_rate=0.1, clip_norm=1.0), total_steps=9, seed=7)
    theirs = plain_step(build(name, device))
    counts = []
    for step in (lambda: ours.take(1), theirs):
        step()
        with Launches() as launches:
            step()
        counts.append(launches.counts)
    mine, plain = (sum(count.values()) for count in counts)
    ceiling = CEILINGS[name] if device == "cpu" else 1.0
    assert mine <= ceiling * plain, (counts[0] - counts[1], counts[1] - counts[0])


class Recorded(EagerRecorder):
    """Replays nothing: a graph is one launch."""

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        work()
        return lambda: None


@pytest.mark.parametrize("name", SMALL)
def test_a_recorded_step_has_a_dozen_launches_beside_the_graph_and_those_of_its_batch(name: str, build: Build) -> None:
    problem = build(name, "meta")
    stepper = Stepper(
        problem, UpdateRule(learning_rate=0.1, clip_norm=1.0), total_steps=99, seed=7, recorder=Recorded()
    )
    for step in (1, 1, 1, 1):
        stepper.take(step)
    with Launches() as all_of_it:
        stepper.take(1)
    with Launches() as of_the_batch:
        problem.batch(1)
    assert sum((all_of_it.counts - of_the_batch.counts).values()) <= 18


@pytest.mark.parametrize(
    ("rule", "ceiling"),
    [
        ({"clip_layer_norm": 0.5}, 20),
        ({"clip_groups": [{"match": "*weight*", "clip_norm": 0.5}]}, 30),
        ({"clip_adaptive": 0.5}, 30),
    ],
)
def test_clipping_by_parts_launches_no_kernel_for_each_part(rule: dict[str, Any], ceiling: int, build: Build) -> None:
    counts = []
    for options in ({}, rule):
        stepper = Stepper(
            build("image_classification/resnet20"), UpdateRule(learning_rate=0.1, **options), total_steps=9, seed=7
        )
        parameters = len(list(stepper._flat.parameters))
        stepper.take(0)
        with Launches() as launches:
            stepper.take(1)
        counts.append(sum(launches.counts.values()))
    # Norms of units have no kernel for all tensors together.
    norms = 2 * parameters if "clip_adaptive" in rule else 0
    assert counts[1] - counts[0] <= ceiling + norms
