"""What a training step costs against a plain loop of the same model, both in one run.

The plain loop is what one would write by hand: zero_grad, loss, backward, clip_grad_norm_, torch.optim's step, and the
loss read every step. Its model is the same class with the same weights, its batches are made by the same function;
images have the memory order of a plain loop. The two sides take turns, block by block, in one process with
one thread, as a worker has.

    python benchmarks/training.py               # a few minutes
    python benchmarks/training.py --blocks 3    # a quick look
    python benchmarks/training.py --device cuda # on a GPU, also with batches that are recorded and replayed
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.graphed import CudaRecorder
from trainers.training.stepper import Stepper
from trainers.trees import map_tensors
from trainers.update.rule import UpdateRule

torch.set_num_threads(1)

TEXT = {"batch_size": 20, "sequence_length": 35}
AWD = {"use": "awd_lstm", "layers": 3, "hidden": 400, "embedding": 200}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "LSTM, 2 x 200": ("language_modeling", TEXT | {"model": {"use": "lstm"}}, {}, 8),
    "AWD-LSTM, 3 x 400": ("language_modeling", TEXT | {"model": AWD}, {"weight_decay": 1.2e-6}, 2),
    "ResNet20": (
        "image_classification",
        {"model": {"use": "resnet20"}, "augment": True},
        {"momentum": 0.9, "weight_decay": 5e-4},
        2,
    ),
}
RATE, THRESHOLD, SEED = 0.1, 0.25, 0
STEPS = 10_000
"""Total steps for the schedule, which is constant: never reached."""


class PlainOrder(nn.Module):
    """A model that receives its images in the memory order of a plain loop."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))

    def forward(self, *inputs: Any) -> Any:  # noqa: D102
        return self.model(*inputs)


def ours(problem: Problem, options: dict[str, Any], recorder: CudaRecorder | None = None) -> Callable[[int], None]:
    """One step of the training loop; scalars are read every 64 steps there, and here at the end of a block."""
    rule = UpdateRule(learning_rate=RATE, clip_norm=THRESHOLD, **options)
    stepper = Stepper(problem, rule, total_steps=STEPS, seed=SEED, recorder=recorder)

    def step(index: int) -> None:
        stepper.take(index)

    return step


def graphed(problem: Problem, options: dict[str, Any]) -> Callable[[int], None]:
    """The same with recorded batches."""
    return ours(problem, options, CudaRecorder())


def plain(problem: Problem, options: dict[str, Any]) -> Callable[[int], None]:
    """One step as one would write it by hand."""
    model = PlainOrder(problem.model) if isinstance(problem.model, nn.Module) else problem.model
    model.train()
    # A text's loss by hand, from a table of all logits; an image's is F.cross_entropy on both sides.
    loss_of = plain_text_loss if hasattr(problem.model, "projection") else problem.loss
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, **options)
    carry: Any = None

    def step(index: int) -> None:
        nonlocal carry
        if index % problem.steps_per_epoch == 0:
            carry = problem.initial_carry()
        optimizer.zero_grad()
        loss, carry = loss_of(model, problem.batch(index), carry)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), THRESHOLD)
        optimizer.step()
        loss.item()

    return step


def plain_text_loss(model: nn.Module, batch: Any, carry: Any) -> tuple[Tensor, Any]:
    """Logits, cross-entropy, the model's penalty."""
    inputs, targets = batch
    prediction = model(inputs, carry)
    loss = F.cross_entropy(prediction.logits.flatten(0, 1), targets.flatten())
    if prediction.penalty is not None:
        loss = loss + prediction.penalty
    return loss, map_tensors(Tensor.detach, prediction.state)


def random_images(folder: Path) -> None:
    """Noise in CIFAR-10's format: what a step costs depends only on the images' size."""
    records = np.random.default_rng(SEED).integers(0, 256, (1024, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (folder / name).write_bytes(records.tobytes())


def measure(name: str, blocks: int, images: Path, device: str) -> list[float]:
    """Milliseconds per step of ours, the plain loop, and on a GPU of recorded batches; medians of blocks in turn."""
    use, problem_options, rule_options, size = CASES[name]
    if use == "image_classification":
        problem_options = problem_options | {"dataset": str(images)}
    makes = [ours, plain, graphed] if device.startswith("cuda") else [ours, plain]
    # Enough to show what a step costs where launching is what takes time.
    size *= 10 if device.startswith("cuda") else 1
    sides = [make(build_problem(use, problem_options, seed=SEED, device=device), rule_options) for make in makes]
    times: list[list[float]] = [[] for _ in sides]
    for block in range(blocks + 1):
        for side, spent in zip(sides, times, strict=True):
            started = time.perf_counter()
            for index in range(block * size, (block + 1) * size):
                side(index)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if block:  # the first one warms up
                spent.append(1000 * (time.perf_counter() - started) / size)
    return [statistics.median(spent) for spent in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    arguments = parser.parse_args()
    device = arguments.device
    if device.startswith("cuda"):
        # As a worker on a GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
        torch.backends.cudnn.deterministic = True
        torch.cuda.set_device(torch.device(device).index or 0)
        print(torch.cuda.get_device_name())
    print(f"{'model':<20} {'clipsweep':>12} {'plain loop':>12} {'plain / clipsweep':>18}  recorded, on a GPU")
    with tempfile.TemporaryDirectory() as folder:
        random_images(Path(folder))
        for name in CASES:
            mine, theirs, *recorded = measure(name, arguments.blocks, Path(folder), device)
            also = "".join(f"  {one:.1f} ms, {theirs / one:.2f} x" for one in recorded)
            print(f"{name:<20} {mine:>9.1f} ms {theirs:>9.1f} ms {theirs / mine:>16.2f} x{also}", flush=True)


if __name__ == "__main__":
    main()
