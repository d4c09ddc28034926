"""How far each method of directional smoothness is off the exact grid's value, and what it costs.

Along gentle and rough trajectories of several kinds of model, snapshots are measured by every method, with an audit at
the start; the exact grid of ten is the reference. Prints a table: gradients of a search, how many of its values lie
more than its tolerance below the grid's and by how much at worst, and how far the curve through five gradients is off.

    python benchmarks/methods.py                         # half an hour
    python benchmarks/methods.py --kind mlp              # a minute
    python benchmarks/methods.py --critical              # ten minutes
    python benchmarks/methods.py --adversarial 100000    # a quarter of an hour

With --critical, the line search of critical sharpness is held against a scan of the loss at 60 points on a third of the
snapshots: a crossing is missed if the loss rises beyond its noise floor before the lower end of the bracket.

The last is on functions made to fool them: even, odd, periodic, piecewise, and sums of random features, along steps
that often end on the other side of a valley. It counts values of a search that lie more than its tolerance below the
grid's, and curves that are further off than they say, beyond a hundredth.
"""

from __future__ import annotations

import argparse
import collections
import copy
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

if not __package__:
    sys.path.pop(0)  # this file's folder, which would hide the package `estimators`

import numpy as np
import torch
from torch import Tensor, nn

from estimators import ESTIMATORS
from estimators.probe.gradient import Params
from estimators.smoothness.adaptive import measure_adaptive_smoothness
from estimators.smoothness.chebyshev import measure_chebyshev_smoothness
from estimators.smoothness.directional import fractions_of, measure_directional_smoothness
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


def scan(name: str, kind: Kind, rate: float, clip_norm: float | None, seed: int, points: int = 60) -> None:
    """The line search of critical sharpness against a scan of the loss along the step."""
    problem = build_problem(kind.use, kind.options, seed=seed)
    measure = Measure(every=1, data_fraction=kind.data_fraction).model_dump(mode="json")
    probe = build_probe(problem, measure | {"audit": measure["audit"] | {"at": "start"}})
    passes, missed, verdicts = [], 0, collections.Counter[str]()
    for index, snapshot in enumerate(snapshots(problem, rate, clip_norm, kind.steps)):
        if index % 3:
            continue
        row = ESTIMATORS["critical_sharpness"](probe, snapshot)
        verdicts[row["trust"]] += 1
        if row["fraction_high"] is None:
            continue
        passes.append(row["num_forward_passes"])
        value = probe.values_from(snapshot[0])
        base, step = value(snapshot[0]), snapshot[1] - snapshot[0]
        before = (row["fraction_low"] * k / points for k in range(1, points))
        missed += any(value(snapshot[0] + s * step) - base > row["noise_floor"] for s in before)
    print(
        f"| {name} | {rate:g} | {'none' if clip_norm is None else clip_norm} | {statistics.mean(passes):.1f} | "
        f"{missed} of {len(passes)} | {', '.join(f'{count} {word}' for word, count in verdicts.most_common())} |",
        flush=True,
    )


Function = Callable[[Tensor], Tensor]


def even(draw: np.random.Generator) -> tuple[Function, int]:
    kind, scale, c = draw.integers(4), draw.uniform(0.3, 4), draw.normal(size=4)
    functions: list[Function] = [
        lambda x: sum(ci * x ** (2 * i + 2) for i, ci in enumerate(c)),  # type: ignore[return-value]
        lambda x: torch.cosh(scale * x),
        lambda x: nn.functional.softplus(6 * scale * x) - 3 * scale * x,
        lambda x: (1 + (scale * x) ** 2).sqrt(),
    ]
    return functions[kind], 1


def odd(draw: np.random.Generator) -> tuple[Function, int]:
    kind, scale, c = draw.integers(3), draw.uniform(0.3, 4), draw.normal(size=4)
    functions: list[Function] = [
        lambda x: sum(ci * x ** (2 * i + 1) for i, ci in enumerate(c)),  # type: ignore[return-value]
        lambda x: torch.sinh(scale * x),
        lambda x: torch.atan(scale * x),
    ]
    return functions[kind], 1


def periodic(draw: np.random.Generator) -> tuple[Function, int]:
    waves = [
        (draw.normal(), draw.integers(1, 4) * math.pi / draw.choice([1, 2, 4]), draw.choice([0, math.pi / 2]))
        for _ in range(draw.integers(1, 3))
    ]
    return lambda x: sum(c * torch.sin(w * x + p) for c, w, p in waves), 1  # type: ignore[return-value]


def piecewise(draw: np.random.Generator) -> tuple[Function, int]:
    kinks = [(draw.normal(), 2 * draw.normal()) for _ in range(draw.integers(1, 5))]
    kind, width, steepness = draw.integers(3), draw.uniform(0.05, 2), draw.uniform(0.5, 3)
    functions: list[Function] = [
        lambda x: x**2 / 10 + sum(c * torch.relu(x - b) ** 2 for c, b in kinks),
        lambda x: torch.where(x.abs() < width, x**2 / 2, width * (x.abs() - width / 2)),
        lambda x: (torch.exp(steepness * x.abs()) - steepness * x.abs() - 1) / steepness**2,  # Theorem 4's
    ]
    return functions[kind], 1


def features(draw: np.random.Generator) -> tuple[Function, int]:
    size, count = int(draw.integers(1, 6)), int(draw.integers(1, 9))
    weights = torch.as_tensor(draw.normal(size=(count, size)) * draw.choice([0.5, 1, 3]))
    bias, c = torch.as_tensor(draw.normal(size=count) * draw.choice([0, 1])), torch.as_tensor(draw.normal(size=count))
    shapes: list[Function] = [
        torch.tanh,
        nn.functional.softplus,
        torch.cos,
        lambda z: torch.relu(z) ** 2,
        lambda z: z * torch.sigmoid(z),
    ]
    shape = shapes[draw.integers(5)]
    return lambda x: (c * shape(weights @ x + bias)).sum(), size


FAMILIES = {"even": even, "odd": odd, "periodic": periodic, "piecewise": piecewise, "features": features}


def step_of(draw: np.random.Generator, size: int, *, is_periodic: bool) -> tuple[Params, Params]:
    """Two iterates: opposite ones, nearly opposite ones, a random step, or one along the line through the origin."""
    start = draw.normal(size=size) * draw.choice([0.3, 1, 3])
    ends = [
        -start,
        -start * (1 + 0.05 * draw.normal()),
        start + draw.normal(size=size) * draw.choice([0.1, 1, 3]),
        -start * draw.uniform(0.2, 3),
    ]
    end = ends[draw.integers(4)]
    if is_periodic and draw.random() < 0.5:
        end = start + draw.integers(1, 5) * draw.choice([0.5, 1, 2])
    return {"x": torch.as_tensor(start)}, {"x": torch.as_tensor(end)}


def fool(name: str, count: int) -> None:
    """Count the misses on functions of a family."""
    missed, unsaid, below, off, gradients = 0, 0, [0.0], [0.0], []
    for seed in range(count):
        draw = np.random.default_rng([seed, list(FAMILIES).index(name)])
        f, size = FAMILIES[name](draw)
        points = step_of(draw, size, is_periodic=name == "periodic")

        def value(point: Params, f: Function = f) -> float:
            return float(f(point["x"]).sum())

        def gradient(point: Params, f: Function = f) -> Params:
            x = point["x"].clone().requires_grad_(True)
            return {"x": torch.autograd.grad(f(x).sum(), x)[0]}

        grid = {"fractions": fractions_of(0.1)}
        exact = measure_directional_smoothness(gradient, *points, **grid).smoothness
        if not exact or not math.isfinite(exact):
            continue
        search = measure_adaptive_smoothness(gradient, *points, **grid, value=value)
        curve = measure_chebyshev_smoothness(gradient, *points, **grid, value=value)
        assert search.smoothness is not None
        assert curve.smoothness is not None
        assert curve.interpolation_error is not None
        below.append(1 - search.smoothness / exact)
        off.append(abs(1 - curve.smoothness / exact))
        gradients.append(search.num_gradients)
        missed += below[-1] > 1.1 * TOLERANCE
        unsaid += off[-1] > curve.interpolation_error / exact + TOLERANCE
    print(
        f"| {name} | {len(gradients)} | {statistics.mean(gradients):.1f} | {missed} | {100 * max(below):.0f} % | "
        f"{unsaid} | {100 * max(off):.0f} % |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*KINDS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adversarial", type=int, metavar="N", help="so many functions made to fool the methods")
    parser.add_argument("--critical", action="store_true", help="critical sharpness against a scan of the loss")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.adversarial:
        print("| family | functions | gradients of a search | missed | at worst below | curve: unsaid | at worst off |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name in FAMILIES:
            fool(name, options.adversarial // len(FAMILIES))
        return
    compared = compare
    if options.critical:
        compared = scan
        print("| model | rate | clip | forward passes | missed | verdicts |")
        print("|---|---:|---:|---:|---:|---|")
    else:
        print(
            "| model | rate | clip | gradients of a search | missed | at worst below | curve off, median | at worst |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, kind in KINDS.items():
        if options.kind in {name, "all"}:
            for rate, clip_norm in kind.rules:
                compared(name, kind, rate, clip_norm, options.seed)


if __name__ == "__main__":
    main()
