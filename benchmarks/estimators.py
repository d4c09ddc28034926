"""What measuring one snapshot costs: by each method, against plain code for the same definition, in one run.

All sides measure the same trajectory of consecutive snapshots on the same share of the data, taking turns:

- floor: one bare forward and backward pass over the probe, the least that a gradient can cost with this model and loss;
- exact: clipsweep's grid of ten, which reuses the gradient at x_k from the previous snapshot;
- chebyshev: clipsweep's curve through five gradients;
- adaptive: clipsweep's search for the largest ratio of the grid, to within a hundredth;
- once: the same, with the audit in float64 once per trial (``audit: {at: start}``) instead of at every snapshot;
- critical: critical sharpness, a gradient and a line search of forward passes, with its audit;
- forward: one forward pass as that search takes it, which is bit for bit the loss that comes with the gradient;
- plain: the same definition written naively, a deep copy and a gradient for each of the ten points and x_k;
- script: the ten-point grid as the script of Zhang et al. (2020) does it: training-sized batches in the text's order
  with the state carried on, a deep copy per point, and the norm of every parameter's gradient read after every batch.
  Text only.

Plain and script compute a text's loss from a table of all logits, the naive way; the floor uses clipsweep's loss.

    python benchmarks/estimators.py                              # a few minutes
    python benchmarks/estimators.py --kind text --corpus DIR     # other text, for example Penn Treebank
    python benchmarks/estimators.py --device cuda                # on a GPU
    python benchmarks/estimators.py --rate 2 --clip-norm 0       # without clipping: gentler steps
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

if not __package__:
    sys.path.pop(0)  # this file's folder, which would hide the package of the same name

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators import ESTIMATORS, Probe, freeze_stochastic_layers
from sweeper.spec.sections.measure import Measure
from sweeper.workers.estimator import build_probe
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.trees import map_tensors
from trainers.update.flat import flat_parameters

Loss = Callable[[nn.Module, Any, Any], tuple[Tensor, Any]]

POINTS = 10

TEXT = {"model": {"use": "lstm", "layers": 2, "hidden": 200, "embedding": 200, "tied": True}}
IMAGES: dict[str, Any] = {"model": {"use": "resnet20", "width": 16}}


def trajectory(problem: Problem, rate: float, clip_norm: float, count: int) -> list[Tensor]:
    """Consecutive snapshots of SGD, shape (2, n) each, after some steps away from the start; clipped unless at 0."""
    model = copy.deepcopy(problem.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    carry, points = problem.initial_carry(), []
    for step in range(20 + count + 1):
        points.append(flat_parameters(model))
        optimizer.zero_grad()
        loss, carry = problem.loss(model, problem.batch(step), carry)
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
    return [torch.stack([points[k], points[k + 1]]) for k in range(20, 20 + count)]


def load(model: nn.Module, point: Tensor) -> None:
    with torch.no_grad():
        nn.utils.vector_to_parameters(point, model.parameters())


def plain_loss(problem: Problem) -> Loss:
    """The loss written naively: for text, logits and then their cross-entropy."""

    def of_text(model: nn.Module, batch: Any, carry: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        prediction = model(inputs, carry)
        loss = F.cross_entropy(prediction.logits.flatten(0, 1), targets.flatten())
        return loss, map_tensors(Tensor.detach, prediction.state)

    return of_text if hasattr(problem.model, "projection") else problem.loss


def gradient(model: nn.Module, problem: Problem, batches: list[Any], loss: Loss) -> list[Tensor]:
    """Forward and backward over the probe, and nothing else."""
    model.zero_grad()
    for batch in batches:
        batch_loss, _ = loss(model, batch, problem.initial_carry())
        (batch_loss / len(batches)).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def distance(ones: list[Tensor], others: list[Tensor]) -> float:
    return math.sqrt(sum(float((one - other).norm()) ** 2 for one, other in zip(ones, others, strict=True)))


def plain(problem: Problem, batches: list[Any], snapshot: Tensor) -> float:
    """Eq. (20), written naively."""
    start = freeze_stochastic_layers(copy.deepcopy(problem.model))
    load(start, snapshot[0])
    loss = plain_loss(problem)
    at_start = gradient(start, problem, batches, loss)
    ratios = []
    for j in range(1, POINTS + 1):
        model = freeze_stochastic_layers(copy.deepcopy(problem.model))
        load(model, torch.lerp(snapshot[0], snapshot[1], j / POINTS))
        change = distance(gradient(model, problem, batches, loss), at_start)
        ratios.append(change / (j / POINTS * float((snapshot[1] - snapshot[0]).norm())))
    return max(ratios)


def script(problem: Problem, num_batches: int, snapshot: Tensor) -> float:
    """The published script's grid: the same amount of text, in training-sized batches with the state carried on."""
    summed: list[list[Tensor]] = []
    loss_of = plain_loss(problem)
    for j in range(POINTS + 1):
        model = copy.deepcopy(problem.model)
        load(model, torch.lerp(snapshot[0], snapshot[1], j / POINTS))
        model.zero_grad()
        carry = problem.initial_carry()
        for step in range(num_batches):
            loss, carry = loss_of(model, problem.batch(step), carry)
            loss.backward()
            _ = sum(p.grad.norm().item() ** 2 for p in model.parameters() if p.grad is not None)
        summed.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    step_length = float((snapshot[1] - snapshot[0]).norm())
    return max(distance(summed[j], summed[0]) / (j / POINTS * step_length) for j in range(1, POINTS + 1))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def compare(
    kind: str,
    use: str,
    options: dict[str, Any],
    rate: float,
    clip_norm: float,
    fraction: float,
    repeats: int,
    wanted: list[str],
    device: str,
) -> None:
    problem = build_problem(use, options, seed=0, device=device)
    measure = Measure(every=1, data_fraction=fraction).model_dump(mode="json")
    batches = list(problem.probe(fraction))
    snapshots = trajectory(problem, rate, clip_norm, repeats + 1)
    probes = {side: build_probe(problem, measure) for side in ("exact", "chebyshev", "adaptive")}
    probes["once"] = build_probe(problem, measure | {"audit": measure["audit"] | {"at": "start"}})
    searcher = build_probe(problem, measure)
    bare = freeze_stochastic_layers(copy.deepcopy(problem.model))

    def row(side: str, snapshot: Tensor) -> tuple[float, int]:
        """The value, and how many gradients it took: the one at x_k is known from the previous snapshot."""
        method = "adaptive" if side == "once" else side
        found = ESTIMATORS["directional_smoothness"](probes[side], snapshot, method=method)
        return found["smoothness"], found["num_gradients"] - 1

    sides: dict[str, Callable[[Tensor], Any]] = {
        "floor": lambda snapshot: floor(bare, problem, batches, snapshot),
        **{side: lambda snapshot, side=side: row(side, snapshot) for side in probes},  # type: ignore[misc]
        "critical": lambda snapshot: searched(searcher, snapshot),
        "forward": lambda snapshot: (searcher.gradient.value(snapshot[0], graph=False), 1),
        "plain": lambda snapshot: (plain(problem, batches, snapshot), POINTS + 1),
    }
    if kind == "text":
        tokens, a_step = (sum(batch[0].numel() for batch in some) for some in (batches, [problem.batch(0)]))
        sides["script"] = lambda snapshot: (script(problem, max(1, round(tokens / a_step)), snapshot), POINTS + 1)
    sides = {side: work for side, work in sides.items() if side == "floor" or not wanted or side in wanted}
    times: dict[str, list[float]] = {side: [] for side in sides}
    found: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
    for index, snapshot in enumerate(snapshots):
        for side, work in sides.items():
            took, result = seconds(lambda work=work, snapshot=snapshot: work(snapshot))  # type: ignore[misc]
            if index > 0:  # the first is a warm-up, and has no previous snapshot
                times[side].append(took)
                found[side].append(result)
    audit = statistics.median(seconds(lambda: audit_of(probes["exact"], snapshots[-1]))[0] for _ in range(3))
    report(kind, problem, batches, times, found, audit)


def floor(bare: nn.Module, problem: Problem, batches: list[Any], snapshot: Tensor) -> tuple[float, int]:
    load(bare, snapshot[0])
    gradient(bare, problem, batches, problem.loss)
    return math.nan, 1


def searched(probe: Probe, snapshot: Tensor) -> tuple[float, int]:
    """The curvature of the parabola that is back at the crossing, and the evaluations of f that it took."""
    found = ESTIMATORS["critical_sharpness"](probe, snapshot)
    return found["critical_curvature"] or math.nan, found["num_forward_passes"]


def audit_of(probe: Probe, snapshot: Tensor) -> float:
    error = probe.gradient_error(snapshot[0])
    assert error is not None, probe.unaudited
    return error


def report(
    kind: str,
    problem: Problem,
    batches: list[Any],
    times: dict[str, list[float]],
    found: dict[str, list[tuple[float, int]]],
    audit: float,
) -> None:
    parameters = sum(p.numel() for p in problem.model.parameters())
    shape = tuple(batches[0][0].shape)
    print(f"\n{kind}: {parameters:,} parameters, a probe of {len(batches)} batches of shape {shape}")
    median = {side: statistics.median(took) for side, took in times.items()}
    counts = {side: statistics.mean(count for _, count in results) for side, results in found.items()}
    least = median["floor"]
    print(f"{'side':<10} {'s / snapshot':>13} {'evaluations':>12} {'floors / evaluation':>20} {'script / side':>14}")
    for side, took in median.items():
        # The audit in float64 is not a gradient of f, so it is counted separately.
        audits = len(times[side]) * audit if side in {"exact", "chebyshev", "adaptive"} else 0.0
        a_gradient = (sum(times[side]) - audits) / sum(count for _, count in found[side])
        against = f"{median['script'] / took:14.2f}" if "script" in median else f"{'':>14}"
        print(f"{side:<10} {took:13.3f} {counts[side]:12.1f} {a_gradient / least:20.2f} {against}")
    print(f"audit: {audit:.3f} s of each snapshot, {audit / least:.2f} floors")
    for side in ("exact", "chebyshev", "adaptive"):
        if not {side, "plain"} <= found.keys():
            continue
        off = max(abs(one - other) / other for (one, _), (other, _) in zip(found[side], found["plain"], strict=True))
        gain = median["plain"] / median[side]
        print(f"{side}: at most {100 * off:.2g} % off the plain value; plain / {side}: {gain:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["text", "images", "both"], default="both")
    parser.add_argument("--corpus", default="python-docs")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=None, help="20 for text and 0.5 for images by default")
    parser.add_argument("--clip-norm", type=float, default=0.25, help="0: none")
    parser.add_argument("--sides", nargs="*", default=[], help="besides the floor; all by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats, sides, device = options.repeats, options.sides, options.device
    where = torch.cuda.get_device_name(device) if device.startswith("cuda") else "one thread"
    print(f"PyTorch {torch.__version__}, {where}, medians of {options.repeats} consecutive snapshots")
    if options.kind != "images":
        text = TEXT | {"corpus": options.corpus}
        rate = options.rate or 20.0
        compare("text", "language_modeling", text, rate, options.clip_norm, options.fraction, repeats, sides, device)
    if options.kind != "text":
        images = IMAGES | {"dataset": options.dataset}
        rate, fraction = options.rate or 0.5, min(1.0, 3 * options.fraction)
        compare("images", "image_classification", images, rate, options.clip_norm, fraction, repeats, sides, device)


if __name__ == "__main__":
    main()
