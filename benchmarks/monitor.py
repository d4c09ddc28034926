"""Does a SmoothnessMonitor keep to its budget, and does training notice it?

One small convolutional network, with dropout, batch-norm and Adam, is trained on random images: without a monitor, with
one at several budgets, and with one without a budget. Printed are what the monitor took of the loop's own time, how
often it measured, and whether all losses are the same to the last bit as without it.

    python benchmarks/monitor.py [--steps 1500] [--budgets 0.05 0.1 0.3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

if not __package__:
    sys.path.pop(0)  # this file's folder, which would hide the package `estimators`

import torch
from torch import Tensor, nn

from estimators import MonitorSummary, SmoothnessMonitor

BATCH = 64


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
    )


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train(
    steps: int, out: Path | None, *, budget: float | None, every: int
) -> tuple[list[float], float, MonitorSummary | None]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    monitor = None
    if out is not None:
        monitor = SmoothnessMonitor(
            model, optimizer, loss_fn, out=out, every=every, budget=budget, clip_norm=1.0, probe=2
        )
    torch.manual_seed(1)
    losses: list[Tensor] = []
    begun = time.perf_counter()
    for _ in range(steps):
        labels = torch.randint(0, 10, (BATCH,))
        batch = (torch.randn(BATCH, 3, 24, 24) + labels[:, None, None, None] / 10, labels)
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        if monitor is not None:
            monitor.note(loss, batch)
            monitor.clip_grad_norm_(1.0)
        else:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    if monitor is not None:
        monitor.close()
    return [loss.item() for loss in losses], time.perf_counter() - begun, monitor.summary() if monitor else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.3])
    options = parser.parse_args()
    alone, alone_s, _ = train(options.steps, None, budget=None, every=1)
    print(
        f"{options.steps} steps, {BATCH} images each; without a monitor {1000 * alone_s / options.steps:.2f} ms a step"
    )
    print(f"{'budget':>8} {'taken':>8} {'snapshots':>10} {'ms a step':>10} {'same losses':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for number, budget in enumerate([*options.budgets, None]):
            steps = options.steps if budget is not None else min(options.steps, 200)
            losses, seconds, summary = train(steps, Path(folder) / str(number), budget=budget, every=options.every)
            assert summary is not None
            same = "yes" if losses == alone[:steps] else "NO"
            limit = "none" if budget is None else f"{100 * budget:g} %"
            taken = f"{100 * summary.share:.2f} %"
            print(f"{limit:>8} {taken:>8} {summary.snapshots:>10} {1000 * seconds / steps:>10.2f} {same:>12}")


if __name__ == "__main__":
    main()
