"""What running analytic trials side by side saves: lanes against one trial at a time, in one run.

All sides take the same steps of gradient descent on the extremal function, f' = (L0/L1)(e^{L1 |x|} - 1) sign x.

    python benchmarks/theory.py
"""

from __future__ import annotations

import math
import statistics
import time

import torch

from trainers.analytic.functions import Extremal
from trainers.analytic.lane import Lane
from trainers.analytic.lanes import Block, watch_lanes
from trainers.analytic.theory import StepRule

NUM_LANES, STEPS, REPEATS = 10_000, 4_000, 5
RATE, START = 1e-6, 4.6


def lanes_per_second(rule: StepRule) -> float:
    """Updates per CPU second with all lanes together."""
    lane = Lane(function=Extremal(), start=START, epsilon=1e-9, rule=rule, steps=STEPS)
    started = time.process_time()
    taken = sum(item.lane_steps for item in watch_lanes([lane] * NUM_LANES) if isinstance(item, Block))
    assert taken == NUM_LANES * STEPS
    return taken / (time.process_time() - started)


def floats_per_second() -> float:
    """The same updates one trial at a time, in a loop over Python floats."""
    steps, x = 200_000, START
    started = time.process_time()
    for _ in range(steps):
        g = math.copysign(math.expm1(abs(x)), x)
        if abs(g) <= 1e-9:
            break
        x -= RATE * g
    return steps / (time.process_time() - started)


def torch_per_second() -> float:
    """One trial at a time with torch: a tensor, autograd and torch.optim.SGD."""
    steps = 3_000
    x = torch.tensor([START], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=RATE)
    started = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        (torch.expm1(x.abs()) - x.abs()).sum().backward()
        optimizer.step()
    return steps / (time.process_time() - started)


def main() -> None:
    torch.set_num_threads(1)
    sides = {
        "lanes, descent": lambda: lanes_per_second(StepRule(eta=RATE)),
        "lanes, clipped": lambda: lanes_per_second(StepRule(eta=RATE, numerator=RATE)),
        "loop over floats": floats_per_second,
        "torch, autograd": torch_per_second,
    }
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(REPEATS):
        for name, measure in sides.items():
            figures[name].append(measure())
    best = statistics.median(figures["lanes, descent"])
    print(f"{NUM_LANES:,} lanes, {STEPS:,} steps; medians of {REPEATS}, updates per CPU second\n")
    for name, values in figures.items():
        value = statistics.median(values)
        print(f"{name:18} {value:14,.0f}   lanes take {best / value:8.1f} times as many")


if __name__ == "__main__":
    main()
