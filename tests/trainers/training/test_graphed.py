"""Recorded steps, without a GPU: the bits of steps launched one by one, and as ever where nothing can be recorded."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conformance.test_problems import SMALL, small_problem
from trainers.problem import Problem
from trainers.training.graphed import CudaRecorder, EagerRecorder, GraphedDifferentiate
from trainers.training.loop import Segment, TrainSettings, train
from trainers.training.stepper import Stepper
from trainers.update.rule import UpdateRule


class Tape(EagerRecorder):
    """Counts what is replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay


@pytest.fixture
def build(small_text: Path) -> Callable[[str], Problem]:
    def build_one(name: str) -> Problem:
        return small_problem(name, small_text)

    return build_one


STEPS = 24
RULE = UpdateRule(learning_rate=0.5, momentum=0.9, clip_norm=0.5, schedule={"use": "cosine"})


def trained(problem: Problem, recorder: EagerRecorder | CudaRecorder | None, **settings: Any) -> tuple[Any, Tensor]:
    """Rows and last weights."""
    *_, last = train(problem, RULE, TrainSettings(steps=STEPS, **settings), seed=3, recorder=recorder)
    assert isinstance(last, Segment)
    return last.rows, torch.cat([p.detach().flatten() for p in problem.model.parameters()])


def bits(column: Any) -> np.ndarray[Any, Any]:
    return np.ma.filled(column, -1).view(np.uint8)


@pytest.mark.parametrize(("accumulate", "arithmetic"), [(1, "ieee"), (3, "ieee"), (1, "bf16")])
@pytest.mark.parametrize("name", SMALL)
def test_recorded_steps_have_the_bits_of_steps_launched_one_by_one(
    name: str, accumulate: int, arithmetic: str, build: Callable[[str], Problem]
) -> None:
    tape = Tape()
    settings = {"accumulate": accumulate, "arithmetic": arithmetic, "evaluate_every": 10}
    (rows, weights), (expected, plain) = (trained(build(name), one, **settings) for one in (tape, None))
    assert torch.equal(weights, plain)
    assert all(np.array_equal(*map(bits, (rows[key], expected[key]))) for key in expected)
    assert tape.recorded >= 1
    assert tape.replayed >= STEPS * accumulate / 3


def test_a_trial_goes_on_from_a_checkpoint_with_the_same_bits(build: Callable[[str], Problem]) -> None:
    def steps(stepper: Stepper, numbers: range) -> None:
        for step in numbers:
            stepper.take(step)

    name = "language_modeling/awd_lstm"
    one, other = (Stepper(build(name), RULE, total_steps=STEPS, seed=3, recorder=Tape()) for _ in range(2))
    steps(one, range(15))
    other.restore(one.state(15, num_clipped=0, last_finite_loss=None))
    steps(one, range(15, STEPS))
    steps(other, range(15, STEPS))
    states = [stepper.state(STEPS, num_clipped=0, last_finite_loss=None) for stepper in (one, other)]
    assert torch.equal(states[0].parameters, states[1].parameters)
    assert all(map(torch.equal, *([t for pair in state.carry for t in pair] for state in states)))


# What cannot be recorded


def test_what_cannot_be_recorded_is_trained_as_ever_and_that_is_said_once(
    build: Callable[[str], Problem], caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses(EagerRecorder):
        def record(self, work: Callable[[], object]) -> Callable[[], object]:
            # As a recording that ends within the backward pass.
            problem.model.get_parameter("weights.0").grad = torch.ones(4, 4)
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing\nmore")

    problem = build("deep_linear")
    with caplog.at_level(logging.WARNING):
        _, weights = trained(problem, Refuses())
    assert torch.equal(weights, trained(build("deep_linear"), None)[1])
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "training launches kernels one by one, since no CUDA graph of a batch can be recorded: "
        "CUDA error: operation not permitted when stream is capturing"
    ]


def summed(batch: Any, carry: Any) -> tuple[Tensor, Any]:
    return torch.as_tensor(batch[0]).sum() * batch[1], carry


def test_numbers_in_a_batch_have_graphs_of_their_own() -> None:
    graphed = GraphedDifferentiate(summed, EagerRecorder())
    found = [graphed((torch.ones(2), factor), None)[0].item() for factor in (1.0, 2.0) * 4]
    assert found == [2.0, 4.0] * 4
    assert graphed.num_recorded == 2


@pytest.mark.parametrize(
    "leaf", [object(), torch.ones(1).expand(3), torch.ones(2, requires_grad=True), torch.eye(2).to_sparse()]
)
def test_what_cannot_be_copied_into_place_is_computed_as_ever(leaf: Any) -> None:
    graphed = GraphedDifferentiate(lambda batch, carry: (torch.ones(()), carry), EagerRecorder())
    for _ in range(4):
        graphed({"x": leaf}, None)
    assert (graphed.num_recorded, graphed.given_up) == (0, "")


def test_as_many_shapes_are_held_as_sequences_have_lengths_and_no_more() -> None:
    graphed = GraphedDifferentiate(summed, EagerRecorder())
    for _ in range(4):
        for length in range(1, 65):
            graphed((torch.ones(length), 1), None)
    assert graphed.num_recorded == 64
    for length in range(1, 10_000):
        graphed((torch.ones(length), 1), None)
    assert graphed.num_recorded == 64


# The recorder for GPUs, with a stand-in for torch.cuda


class FakeGenerator:
    def __init__(self) -> None:
        self.state = "sound"

    def clone_state(self) -> str:
        return f"copy of {self.state}"

    def graphsafe_set_state(self, state: str) -> None:
        self.state = state


def fake_cuda(events: list[str], *, fails: bool = False) -> Any:
    generator = FakeGenerator()

    @contextmanager
    def graph(graph: Any, *, pool: str, stream: Any) -> Iterator[None]:
        events.append(f"begin in {pool} on {stream.name}")
        generator.state = "recording"
        yield
        if fails:
            raise RuntimeError("invalid")
        generator.state = "sound"
        events.append("end")

    def stream(name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: events.append(f"{name} waits for {other.name}"))

    current = stream("current")
    return SimpleNamespace(
        Stream=lambda: stream("side"),
        current_stream=lambda: current,
        current_device=lambda: 0,
        default_generators=(generator,),
        graph_pool_handle=lambda: "pool",
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: events.append("replay")),
        graph=graph,
        get_sync_debug_mode=lambda: 0,
        set_sync_debug_mode=lambda mode: events.append(f"sync mode {mode}"),
    )


def test_a_graph_is_recorded_on_a_side_stream_without_being_run_and_all_share_a_pool() -> None:
    events: list[str] = []
    recorder = CudaRecorder(fake_cuda(events))
    for _ in range(2):
        recorder.record(lambda: events.append("work"))()
    once = ["side waits for current", "begin in pool on side", "work", "end", "current waits for side", "replay"]
    assert events == once * 2


def test_after_a_failed_recording_the_generator_draws_again() -> None:
    cuda = fake_cuda([], fails=True)
    with pytest.raises(RuntimeError, match="invalid"):
        CudaRecorder(cuda).record(lambda: None)
    assert cuda.default_generators[0].state == "copy of sound"


def reads_a_value(batch: Any, carry: Any) -> tuple[Tensor, Any]:
    warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", UserWarning, stacklevel=2)
    return torch.ones(()), carry


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (reads_a_value, "waits for the GPU"),
        (lambda batch, carry: (torch.rand(()), carry), "draws random numbers on the CPU"),
        (lambda batch, carry: (torch.tensor(random.random()), carry), "draws random numbers on the CPU"),
        (lambda batch, carry: (torch.tensor(np.random.rand()), carry), "draws random numbers on the CPU"),
        (lambda batch, carry: (torch.ones(()), carry), ""),
    ],
)
def test_what_a_graph_would_not_repeat_is_seen_while_batches_are_computed_as_ever(work: Any, why: str) -> None:
    events: list[str] = []
    graphed = GraphedDifferentiate(work, CudaRecorder(fake_cuda(events)))
    graphed(torch.ones(2), None)
    assert (why in graphed.given_up) if why else not graphed.given_up
    assert events[:2] == ["sync mode warn", "sync mode 0"]


def test_other_warnings_of_a_batch_are_shown() -> None:
    def warns(batch: Any, carry: Any) -> tuple[Tensor, Any]:
        warnings.warn("mind this", UserWarning, stacklevel=2)
        return torch.ones(()), carry

    with pytest.warns(UserWarning, match="mind this"):
        GraphedDifferentiate(warns, CudaRecorder(fake_cuda([])))(torch.ones(2), None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_recorded_steps_have_the_bits_of_steps_launched_one_by_one() -> None:
    def net() -> Problem:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).cuda()
        return Problem(
            model=model,
            loss=lambda model, batch, carry: (model(batch).square().mean(), carry),
            batch=lambda step: torch.full((3, 4), float(step), device="cuda"),
            probe=lambda fraction: [],
            evaluate=lambda model: {},
            steps_per_epoch=5,
            fingerprint="",
        )

    (_, weights), (_, plain) = (trained(net(), recorder) for recorder in (CudaRecorder(), None))
    assert torch.equal(weights, plain)
