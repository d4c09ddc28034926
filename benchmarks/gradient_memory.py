"""What it costs to find out whether a gradient is known: by a fingerprint, and by comparing with every point held.

An estimator worker holds gradients up to 128 MB, so that of a small model it soon holds thousands. Printed is the time
of a lookup of a new point, median and quartiles over some hundred, beside a gradient of a perceptron of that size. Both
sides run in one process, turn by turn.

    python benchmarks/gradient_memory.py [--lookups 100]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

if not __package__:
    sys.path.pop(0)  # this file's folder, which would hide the package `estimators`

import numpy as np
import torch
from torch import Tensor, nn

from estimators import Probe
from estimators.probe.memory import GradientMemory, _same_bits


class Compared:
    """The memory as it was: a list that every lookup goes through; called as the other."""

    def __init__(self, evaluate: Callable[[Tensor], tuple[float, Tensor]], *, max_bytes: int = 1 << 27) -> None:
        self._evaluate = evaluate
        self._max_bytes = max_bytes
        self._held: list[tuple[Tensor, float, Tensor]] = []

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """f and its gradient."""
        for index, (known, value, slope) in enumerate(self._held):
            if _same_bits(known, point):
                self._held.append(self._held.pop(index))
                return value, slope
        value, slope = self._evaluate(point)
        room = max(2, self._max_bytes // (point.nbytes + slope.nbytes))
        self._held = [*self._held[max(0, len(self._held) + 1 - room) :], (point.clone(), value, slope)]
        return value, slope


def same_answer(slope: Tensor, point: Tensor) -> tuple[float, Tensor]:
    return 0.0, slope


def perceptron(hidden: int) -> tuple[Probe, int]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, hidden), nn.Tanh(), nn.Linear(hidden, 4))
    inputs = torch.randn(256, 16)

    def loss(model: nn.Module, batch: Tensor, carry: None) -> tuple[Tensor, None]:
        return model(batch).square().mean(), carry

    return Probe(model, loss, [inputs], known=True), sum(p.numel() for p in model.parameters())


def timed(call: Callable[[Tensor], object], points: list[Tensor]) -> np.ndarray:
    seconds = []
    for point in points:
        started = time.perf_counter()
        call(point)
        seconds.append(time.perf_counter() - started)
    return 1e6 * np.array(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lookups", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("weights  held   gradient, us   compared, us        fingerprint, us     ratio")
    for hidden, held in ((8, 1000), (8, 4000), (64, 4000), (512, 4000)):
        probe, size = perceptron(hidden)
        draw = torch.Generator().manual_seed(1)
        evaluate = partial(same_answer, torch.zeros(size))
        sides = {"compared": Compared(evaluate), "fingerprint": GradientMemory(evaluate)}
        for _ in range(held):
            point = torch.randn(size, generator=draw)
            for side in sides.values():
                side(point)
        points = [torch.randn(size, generator=draw) for _ in range(args.lookups)]
        gradients = timed(probe.gradient.value_and_gradient, points)
        found: dict[str, list[float]] = {name: [] for name in sides}
        for point in points:
            for name, side in sides.items():
                found[name] += timed(side, [point]).tolist()
        quartiles = {name: np.percentile(values, [50, 25, 75]) for name, values in found.items()}
        texts = {name: f"{mid:8.1f} [{low:.1f}, {high:.1f}]" for name, (mid, low, high) in quartiles.items()}
        ratio = quartiles["compared"][0] / quartiles["fingerprint"][0]
        print(
            f"{size:7d} {held:5d} {np.median(gradients):13.1f}  {texts['compared']:<20} {texts['fingerprint']:<18} "
            f"{ratio:6.0f}x"
        )


if __name__ == "__main__":
    main()
