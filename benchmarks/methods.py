"""How far each method of directional smoothness is off the exact grid's value, and what it costs.

Along gentle and rough trajectories of several kinds of model, snapshots are measured by every method, with an audit at
the start; the exact grid of ten is the reference. Prints a table: gradients of a search, how many of its values lie
more than its tolerance below the grid's and by how much at worst, and how far the curve through five gradients is off.

    python benchmarks/methods.py                # half an hour
    python benchmarks/methods.py --kind mlp     # a minute
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

if not __package__:
    sys.path.pop(0)  # this file's folder, which would hide the package `estimators`

import torch
from torch import Tensor, nn

from estimators import ESTIMATORS
from sweeper.spec.sections.measure import Measure
from sweeper.workers.estimator import build_probe
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.update.flat import flat_parameters

TOLERANCE = 0.01


class Kind(NamedTuple):
    """A problem, the share of its data that defines f, and pairs of learning rate and threshold."""

    use: str
    options: dict[str, Any]
    data_fraction: float
    rules: list[tuple[float, float | None]]
    steps: int


KINDS = {
    "lstm": Kind(
        "language_modeling",
        {"corpus": "python-docs", "model": {"use": "lstm", "layers": 1, "hidden": 128, "embedding": 128}},
        0.004,
        [(0.3, None), (2.0, None), (5.0, None), (30.0, 0.25), (80.0, 0.25)],
        400,
    ),
    "gpt": Kind(
        "language_modeling",
        {"corpus": "python-docs", "model": {"use": "gpt"}},
        0.003,
        [(0.1, None), (1.5, 0.25)],
        300,
    ),
    "resnet": Kind(
        "image_classification",
        {"dataset": "digits", "model": {"use": "resnet20", "width": 8}},
        0.1,
        [(0.1, None), (0.5, None), (1.0, 0.25)],
        300,
    ),
    "mlp": Kind(
        "image_classification",
        {"dataset": "digits", "model": {"use": "mlp"}},
        0.3,
        [(0.1, None), (1.0, 0.25)],
        400,
    ),
}


def snapshots(problem: Problem, rate: float, clip_norm: float | None, steps: int) -> Iterator[Tensor]:
    """Snapshots of SGD, shape (2, n): every third of the first twenty steps, then every nineteenth."""
    model = copy.deepcopy(problem.model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    carry = problem.initial_carry()
    for step in range(steps):
        before = flat_parameters(model).clone()
        optimizer.zero_grad()
        loss, carry = problem.loss(model, problem.batch(step), carry)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        if step % 3 == 0 if step < 20 else step % 19 == 1:
            yield torch.stack([before, flat_parameters(model)])


def compare(name: str, kind: Kind, rate: float, clip_norm: float | None, seed: int) -> None:
    problem = build_problem(kind.use, kind.options, seed=seed)
    measure = Measure(every=1, data_fraction=kind.data_fraction).model_dump(mode="json")
    probe = build_probe(problem, measure | {"audit": measure["audit"] | {"at": "start"}})
    below, off, gradients = [], [], []
    for snapshot in snapshots(problem, rate, clip_norm, kind.steps):
        exact, search, curve = (
            ESTIMATORS["directional_smoothness"](probe, snapshot, method=method)
            for method in ("exact", "adaptive", "chebyshev")
        )
        below.append(1 - search["smoothness"] / exact["smoothness"])
        off.append(abs(1 - curve["smoothness"] / exact["smoothness"]))
        gradients.append(search["num_gradients"])
    missed = sum(share > TOLERANCE for share in below)
    print(
        f"| {name} | {rate:g} | {'none' if clip_norm is None else clip_norm} | {statistics.mean(gradients):.1f} | "
        f"{missed} of {len(below)} | {100 * max(below):.1f} % | "
        f"{100 * statistics.median(off):.1f} % | {100 * max(off):.1f} % |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | rate | clip | gradients of a search | missed | at worst below | curve off, median | at worst |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, kind in KINDS.items():
        if options.kind in {name, "all"}:
            for rate, clip_norm in kind.rules:
                compare(name, kind, rate, clip_norm, options.seed)


if __name__ == "__main__":
    main()
