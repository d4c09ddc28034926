"""What it takes to train trials in packs against training them one at a time, both in one run.

Rates and thresholds differ from trial to trial. The two sides take turns; each is the training loop with rows, without
Ray, in one process with one thread, as a worker has. Seconds are those of a trial, from its first step, tracing and
comparing the pack's gradients included.

    python benchmarks/packing.py                          # some minutes
    python benchmarks/packing.py --steps 100 --repeats 1  # a quick look
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from trainers.packed.pack import Ended, Pack, PackedStepper, in_step
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.loop import TrainSettings, train, train_in_step
from trainers.update.rule import UpdateRule

torch.set_num_threads(1)

IMAGES: dict[str, Any] = {"dataset": "digits", "batch_size": 32}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "deep linear, 2 x 8, all of 64": ("deep_linear", {}),
    "deep linear, 4 x 16, batch 16": ("deep_linear", {"layers": 4, "width": 16, "batch_size": 16}),
    "logistic regression, batch 32": ("image_classification", IMAGES | {"model": {"use": "logistic_regression"}}),
    "MLP 2 x 32, batch 32": ("image_classification", IMAGES | {"model": {"use": "mlp", "hidden": 32}}),
    "MLP 2 x 128, batch 128": ("image_classification", IMAGES | {"model": {"use": "mlp"}, "batch_size": 128}),
}


def build(name: str, count: int) -> list[Problem]:
    """Trials of one shape, each with a seed of its own."""
    use, options = CASES[name]
    return [build_problem(use, options, seed=seed) for seed in range(count)]


def rule_of(seed: int) -> UpdateRule:
    """Another rate and threshold for each trial."""
    return UpdateRule(learning_rate=0.01 * 1.01**seed, clip_norm=1.0 + seed, momentum=0.9)


def alone(name: str, settings: TrainSettings, count: int) -> float:
    """Seconds of a trial, one after the other."""
    problems = build(name, count)
    started = time.perf_counter()
    for seed, problem in enumerate(problems):
        for _ in train(problem, rule_of(seed), settings, seed=seed):
            pass
    return (time.perf_counter() - started) / count


def packed(name: str, settings: TrainSettings, count: int) -> tuple[float, bool]:
    """Seconds of a trial in a pack, and whether its gradients had the bits of trials by themselves."""
    problems = build(name, count)
    started = time.perf_counter()
    pack = Pack(smallest=1)
    steppers = [
        PackedStepper(problem, rule_of(seed), total_steps=settings.steps, seed=seed)
        for seed, problem in enumerate(problems)
    ]
    streams = {
        k: train_in_step(stepper, problems[k], rule_of(k), settings, share_s=lambda: pack.share_s)
        for k, stepper in enumerate(steppers)
    }
    for _, item in in_step(
        streams, lambda due: pack.prepare([(steppers[k], step) for k, step in due.items()], problems[0])
    ):
        if isinstance(item, Ended) and item.error is not None:
            raise item.error
    return (time.perf_counter() - started) / count, pack.differed is None and pack.error is None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1, 4, 16, 64])
    arguments = parser.parse_args()
    settings = TrainSettings(steps=arguments.steps)
    print("| model | alone | " + " | ".join(f"K = {size}" for size in arguments.sizes) + " | bits |")
    print("|---|---:|" + "---:|" * len(arguments.sizes) + "---|")
    for name in CASES:
        times: dict[int, list[float]] = {size: [] for size in (0, *arguments.sizes)}
        same = True
        for _ in range(arguments.repeats):
            times[0].append(alone(name, settings, 2))
            for size in arguments.sizes:
                seconds, equal = packed(name, settings, size)
                times[size].append(seconds)
                same &= equal
        medians = {size: statistics.median(found) for size, found in times.items()}
        shown = [f"{medians[0] / medians[size]:.1f}x" for size in arguments.sizes]
        each = f"{1e6 * medians[0] / arguments.steps:,.0f} us"
        print(f"| {name} | {each} | " + " | ".join(shown) + f" | {'same' if same else 'differ'} |", flush=True)


if __name__ == "__main__":
    main()
