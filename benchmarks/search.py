"""What searching saves against a grid, and how good what it finds is: both sides in one run.

``races`` plays `best` against random search and Optuna's TPE on simulated sweeps, at equal budgets. ``frontier`` finds
the largest stable learning rates of an LSTM by bisection and on the equal grid, and compares brackets and cost.

    python benchmarks/search.py races
    python benchmarks/search.py frontier --folder /tmp/frontier     # a quarter of an hour on two cores
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from sweeper.report.stability import unstable
from sweeper.search.best import Point, Race
from sweeper.search.frontier import Bracket, bracket_of
from sweeper.tables.run import Run

_RANGE = (1e-3, 10.0)
_BUDGET = 40
_SEEDS = 8
_CONFIRM = 5


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A made-up problem: the loss over the logarithm of the rate, noise by seed, and an end of stability.

    Attributes:
        number: Its seed.
        noise: Standard deviation of a trial's loss; that of a seed, which all rates share, is 0.2.
        optimum: The best rate.
        edge: Rates beyond it diverge.
        curvature: Of the loss, in the logarithm.
        level: Seed to what it adds for every rate.
    """

    number: int
    noise: float
    optimum: float
    edge: float
    curvature: float
    level: dict[int, float]

    @classmethod
    def drawn(cls, number: int, noise: float) -> Landscape:
        """One of many."""
        draw = random.Random(number)  # made up, not secret  # nosec B311
        optimum = math.exp(draw.uniform(math.log(3e-3), math.log(3.0)))
        return cls(
            number=number,
            noise=noise,
            optimum=optimum,
            edge=optimum * draw.uniform(3, 20),
            curvature=draw.uniform(0.02, 0.2),
            level={seed: draw.gauss(0, 0.2) for seed in range(_SEEDS + _CONFIRM)},
        )

    def expected(self, rate: float) -> float:
        """The loss without noise, above that of the best rate; infinite beyond the edge."""
        return math.inf if rate > self.edge else self.curvature * math.log(rate / self.optimum) ** 2

    def loss(self, rate: float, seed: int) -> float:
        """What a trial shows; the same every time."""
        own = random.Random(f"{self.number} {rate!r} {seed}").gauss(0, self.noise)  # nosec B311
        return self.expected(rate) + self.level[seed] + own


@dataclass(frozen=True, kw_only=True)
class Played:
    """What one searcher ended with: how much worse than the best rate, after how many trials, and its interval."""

    regret: float
    spent: int
    holds: bool | None


def play_best(landscape: Landscape) -> Played:
    """clipsweep's `best`: the race, and the interval of fresh seeds."""
    race = Race(
        between=(_RANGE,),
        seeds=tuple(range(_SEEDS)),
        confirm=tuple(range(_SEEDS, _SEEDS + _CONFIRM)),
        budget=_BUDGET,
    )
    results: dict[Point, dict[int, float]] = {}
    while not (step := race.next_round(results)).finished:
        for point, seed in step.asks:
            results.setdefault(point, {})[seed] = landscape.loss(point[0], seed)
    assert step.best is not None
    assert step.confirmed is not None
    sure = step.confirmed
    truth = landscape.expected(step.best[0])
    holds = None if math.isnan(sure.low) else sure.low <= truth <= sure.high
    return Played(regret=truth, spent=sum(map(len, results.values())), holds=holds)


def play_random(landscape: Landscape) -> Played:
    """Random search: a rate a trial, the best one seen."""
    draw = random.Random(landscape.number + 10**6)  # nosec B311
    rates = [math.exp(draw.uniform(*map(math.log, _RANGE))) for _ in range(_BUDGET)]
    best = min(rates, key=lambda rate: landscape.loss(rate, 0))
    return Played(regret=landscape.expected(best), spent=_BUDGET, holds=None)


def play_grid(landscape: Landscape) -> Played:
    """A grid: eight rates with five seeds each, the best mean."""
    rates = [_RANGE[0] * (_RANGE[1] / _RANGE[0]) ** ((k + 0.5) / 8) for k in range(8)]
    best = min(rates, key=lambda rate: sum(landscape.loss(rate, seed) for seed in range(5)))
    return Played(regret=landscape.expected(best), spent=_BUDGET, holds=None)


def play_tpe(landscape: Landscape) -> Played:
    """Optuna's TPE: a rate a trial, the best one seen."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=landscape.number))
    for _ in range(_BUDGET):
        trial = study.ask()
        study.tell(trial, landscape.loss(trial.suggest_float("rate", *_RANGE, log=True), 0))
    return Played(regret=landscape.expected(study.best_params["rate"]), spent=_BUDGET, holds=None)


PLAYERS: dict[str, Callable[[Landscape], Played]] = {
    "best": play_best,
    "grid, 8 rates x 5 seeds": play_grid,
    "random search": play_random,
    "Optuna's TPE": play_tpe,
}


def races(count: int) -> None:
    """Regret of every searcher over many landscapes, and how often the interval of `best` holds the truth."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(f"{count} simulated sweeps each, {_BUDGET} trials; regret: loss of the chosen rate above the best possible")
    print(f"{'noise':>6}  {'searcher':24} {'median':>8} {'90 %':>8} {'trials':>7}  interval holds the truth")
    for noise in (0.0, 0.02, 0.1, 0.3):
        for name, play in PLAYERS.items():
            played = [play(Landscape.drawn(number, noise)) for number in range(count)]
            regrets = sorted(one.regret for one in played)
            judged = [one.holds for one in played if one.holds is not None]
            holds = f"{100 * sum(judged) / len(judged):.0f} %" if judged else ""
            spent = statistics.mean(one.spent for one in played)
            high = regrets[math.ceil(0.9 * count) - 1]
            print(f"{noise:6g}  {name:24} {statistics.median(regrets):8.2g} {high:8.2g} {spent:7.1f}  {holds}")


SPEC = """
name: {name}
problem:
  use: language_modeling
  corpus: python-docs
  model: {{use: lstm, layers: 1, hidden: 64, embedding: 64}}
  batch_size: 20
  sequence_length: 20
update_rule: {{optimizer: sgd}}
train: {{steps: 60, max_loss: 100}}
sweep:
  grid:
    update_rule.clip_norm: [null, 1, 0.25]
{more}
  seeds: 5
"""

_WITHIN = 1.1


def frontier(folder: Path, low: float, high: float) -> None:
    """The largest stable rate of 3 thresholds x 5 seeds, by bisection and on the equal grid."""
    folder.mkdir(parents=True, exist_ok=True)
    count = math.ceil(math.log(high / low) / math.log(_WITHIN)) + 1
    search = (
        "  search: {use: stability_frontier, over: update_rule.learning_rate, "
        f"between: [{low}, {high}], within: {_WITHIN}}}"
    )
    grid = f"    update_rule.learning_rate: {{log: [{low}, {high}, {count}]}}"
    took: dict[str, float] = {}
    for name, more in (("searched", search), ("gridded", grid)):
        (folder / f"{name}.yaml").write_text(SPEC.format(name=name, more=more))
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "sweeper", "run", f"{name}.yaml"], cwd=folder, check=True, capture_output=True
        )
        took[name] = time.monotonic() - started
    compare(folder)
    print(f"searched in {took['searched']:.0f} s, gridded in {took['gridded']:.0f} s")


def compare(folder: Path) -> None:
    """What the search and the grid say of every threshold and seed."""
    found = json.loads(_output(folder, "report", "runs/searched", "--json"))["search"]
    by_grid = _of_grid(folder)
    apart: list[float] = []
    cells: dict[str, list[float]] = {}
    for cell in found["frontiers"]:
        for seed in cell["by_seed"]:
            known = by_grid[cell["cell"], seed["seed"]]
            assert known.stable is not None
            assert known.unstable is not None
            middle = math.sqrt(known.stable * known.unstable)
            cells.setdefault(cell["cell"], []).append(math.log(middle))
            # Two brackets that hold the same threshold overlap.
            overlap = seed["stable"] < known.unstable and known.stable < seed["unstable"]
            apart.append(1.0 if overlap else abs(math.log(math.sqrt(seed["stable"] * seed["unstable"]) / middle)))
    trials = [_num_trials(folder, name) for name in ("searched", "gridded")]
    print(f"{trials[0]} trials of {trials[1]}: {100 * trials[0] / trials[1]:.1f} %")
    ratios = sorted(math.exp(one) for one in apart if one != 1.0)
    same = len(apart) - len(ratios)
    print(f"brackets that overlap: {same} of {len(apart)}; the others' middles differ by factors of", end=" ")
    print(", ".join(f"{ratio:.2f}" for ratio in ratios) or "none")
    again = sum(bool(known.islands) for known in by_grid.values())
    print(f"on the grid {again} of {len(by_grid)} are stable again above their first unstable rate")
    for cell in found["frontiers"]:
        grid = math.exp(statistics.mean(cells[cell["cell"]]))
        print(f"{cell['cell']:16} geometric mean: searched {cell['value']['mean']:.1f}, gridded {grid:.1f}")
    for ratio in found["ratios"]:
        ends = ratio["ratio"]
        print(f"{ratio['cell']} / {ratio['over']}: {ends['mean']:.2f} [{ends['low']:.2f}, {ends['high']:.2f}]")


def _of_grid(folder: Path) -> dict[tuple[str, int], Bracket]:
    """Cell without its rate, and seed, to what the grid says."""
    run = Run(folder / "runs" / "gridded")
    trials = run.trials
    trials = trials.assign(unstable=unstable(run, trials))
    found: dict[tuple[str, int], Bracket] = {}
    for (threshold, seed), lane in trials.groupby(["clip_norm", "seed"], dropna=False):
        rates = zip(lane["learning_rate"], lane["unstable"], strict=True)
        label = "no clipping" if math.isnan(threshold) else f"clip_norm={threshold:g}"
        found[label, int(seed)] = bracket_of({float(rate): not bad for rate, bad in rates})
    return found


def _num_trials(folder: Path, name: str) -> int:
    counts: dict[str, Any] = json.loads(_output(folder, "status", f"runs/{name}", "--json"))
    return int(counts["trials"])


def _output(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout


def main() -> None:
    """One of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["races", "frontier", "compare"], help="compare: what frontier left in its folder"
    )
    parser.add_argument("--count", type=int, default=200, help="simulated sweeps of each noise")
    parser.add_argument("--folder", type=Path, default=Path("frontier"))
    parser.add_argument("--between", type=float, nargs=2, default=(0.1, 1000.0), metavar=("LOW", "HIGH"))
    chosen = parser.parse_args()
    if chosen.what == "races":
        races(chosen.count)
    elif chosen.what == "compare":
        compare(chosen.folder)
    else:
        frontier(chosen.folder, *chosen.between)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
