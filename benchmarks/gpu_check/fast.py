"""Part B: how fast? Marked with a question mark where what is expected was never measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from scipy.stats import spearmanr

from benchmarks.gpu_check.cases import SEED, build, probe_of
from benchmarks.gpu_check.harness import Bench, Item, Rows
from benchmarks.gpu_check.right import ROOT, seconds_of, sync
from benchmarks.training import plain
from estimators import ESTIMATORS
from estimators.probe.hessian import ProbeHessian
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.training.graphed import CudaRecorder
from trainers.training.stepper import Stepper
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule

__all__ = ["FAST", "spin"]

RULE = UpdateRule(learning_rate=0.1, clip_norm=0.25)
FULL: dict[str, tuple[str, dict[str, Any], str]] = {
    "MLP, 128 images": ("image_classification", {"model": {"use": "mlp", "hidden": 512}}, "2k -> 10k steps/s?"),
    "ResNet20, 128 images": (
        "image_classification",
        {"model": {"use": "resnet20"}, "augment": True},
        "330 -> 700 steps/s?",
    ),
    "GPT, 4 x 256, 20 x 35": (
        "language_modeling",
        {"model": {"use": "gpt", "layers": 4, "heads": 4, "width": 256}},
        "400 -> 1,200 steps/s?",
    ),
    "AWD-LSTM, 3 x 1150, 40 x 70": (
        "language_modeling",
        {"model": {"use": "awd_lstm"}, "batch_size": 40, "sequence_length": 70},
        "50 to 100 steps/s?",
    ),
}


def full(bench: Bench, name: str, device: str | None = None) -> Problem:
    """A problem of published size, on real data where there is some."""
    use, options, _ = FULL[name]
    if use == "language_modeling":
        options = options | {"corpus": str(_real(bench, "ptb") or bench.data / "text")}
    else:
        options = options | {"dataset": str(_real(bench, "cifar") or bench.data / "images")}
    return build_problem(use, options, seed=SEED, device=device or bench.device)


def _real(bench: Bench, name: str) -> Path | None:
    folder = bench.real / name
    return folder if folder.is_dir() else None


def steps_per_second(step: Callable[[int], object], bench: Bench, seconds: float) -> float:
    """Of a training loop, after a warm-up."""
    for index in range(1, 6):
        step(index)
    sync(bench)
    started, done = time.perf_counter(), 6
    while time.perf_counter() - started < seconds:
        for _ in range(5):
            step(done)
            done += 1
        # A queue of launches that grows is no speed.
        sync(bench)
    return (done - 6) / (time.perf_counter() - started)


def training(bench: Bench) -> Rows:
    """T1: a loop written by hand, clipsweep's step as it is, and recorded; the three arithmetics."""
    seconds = 2.0 if bench.is_gpu else 0.3
    for name, (_, _, expected) in FULL.items():
        by_hand = steps_per_second(plain(full(bench, name), {}), bench, seconds)
        yield f"{name}: by hand, steps/s", by_hand, expected, None
        for arithmetic in ("ieee", "tf32", "bf16"):
            stepper = Stepper(full(bench, name), RULE, total_steps=10**6, seed=SEED, arithmetic=arithmetic)
            found = steps_per_second(stepper.take, bench, seconds)
            yield f"{name}: {arithmetic} / by hand", found / by_hand, ">= 0.95" if arithmetic == "ieee" else "", None
        if bench.is_gpu:
            stepper = Stepper(full(bench, name), RULE, total_steps=10**6, seed=SEED, recorder=CudaRecorder())
            found = steps_per_second(stepper.take, bench, seconds)
            yield f"{name}: recorded / by hand", found / by_hand, ">= 1.5 but for the AWD-LSTM", None


def measuring(bench: Bench) -> Rows:
    """T2: the AWD-LSTM of Figure 2 on a tenth of Penn Treebank."""
    if _real(bench, "ptb") is None:
        yield "Penn Treebank", "not in the folder", "", None
        return
    problem = full(bench, "AWD-LSTM, 3 x 1150, 40 x 70")
    probe = probe_of(problem, batches=10**6 if bench.is_gpu else 1)
    point = flat_parameters(problem.model)
    yield "batches of the probe", len(probe.batches), "", None
    slope = probe.gradient.value_and_gradient(point)[1]
    yield "a gradient, s", seconds_of(lambda: probe.gradient.value_and_gradient(point), bench, 3), "0.15 to 0.25?", None
    for method, expected in (("exact", "5 to 8?"), ("adaptive", "1.5 to 3?")):
        fresh = probe_of(problem, batches=len(probe.batches))
        pair = torch.stack([point, point - 0.1 * slope])
        started = time.perf_counter()
        ESTIMATORS["directional_smoothness"](fresh, pair, method=method)
        sync(bench)
        yield f"a snapshot, {method}, s", time.perf_counter() - started, expected, None
    hessian = ProbeHessian(probe.gradient, point)
    yield "a product H v, s", seconds_of(lambda: hessian.product(slope), bench, 2), "2 to 2.5?", None
    pair = torch.stack([point, point])
    yield "hand-off of a pair, ms", 1000 * seconds_of(lambda: pair.cpu(), bench, 5), "50 to 100?", None


def held(bench: Bench) -> Rows:
    """T3: what a snapshot costs after many others, and Hessian-vector products with and without cuDNN."""
    for name, count in (("mlp", 400 if bench.is_gpu else 20), ("resnet20", 60 if bench.is_gpu else 4)):
        problem = build(name, bench.data, bench.device)
        probe = probe_of(problem)
        stepper = Stepper(problem, RULE, total_steps=10**6, seed=SEED)
        spent = []
        for step in range(count):
            stepper.take(step, keep_iterates=True)
            assert stepper.iterates is not None
            pair = torch.from_numpy(stepper.iterates.copy()).to(bench.device)
            started = time.perf_counter()
            ESTIMATORS["directional_smoothness"](probe, pair)
            sync(bench)
            spent.append(time.perf_counter() - started)
        few = max(1, count // 10)
        ratio = float(np.median(spent[-few:]) / np.median(spent[1 : 1 + few]))
        yield f"{name}: last snapshots / first", ratio, "flat in how many are held", None
        yield f"{name}: a snapshot, ms", 1000 * float(np.median(spent)), "", None
    problem = build("resnet20", bench.data, bench.device)
    point = flat_parameters(problem.model)
    hessian = ProbeHessian(probe_of(problem).gradient, point)
    with_cudnn = seconds_of(lambda: hessian.product(point), bench, 3)
    with torch.backends.cudnn.flags(enabled=False):
        without = seconds_of(lambda: hessian.product(point), bench, 3)
    yield "resnet20: H v, ms", 1000 * with_cudnn, "", None
    yield "resnet20: H v without cuDNN / with", without / with_cudnn, ">= 5?", None


def figure(bench: Bench) -> Rows:
    """F: Figure 2a in small: does smoothness follow the gradient's norm, and more so where training is clipped?"""
    if _real(bench, "ptb") is None:
        yield "Penn Treebank", "not in the folder", "", None
        return
    steps, cells = (200, ((30.0, 25), (2.0, 15))) if bench.is_gpu else (2, ((30.0, 2),))
    found = []
    for rate, snapshots in cells:
        problem = full(bench, "AWD-LSTM, 3 x 1150, 40 x 70")
        probe = probe_of(problem, batches=10**6 if bench.is_gpu else 1)
        stepper = Stepper(problem, UpdateRule(learning_rate=rate, clip_norm=0.25), total_steps=steps, seed=SEED)
        rows = []
        for step in range(steps):
            keep = step % (steps // snapshots) == 0
            stepper.take(step, keep_iterates=keep)
            if keep:
                assert stepper.iterates is not None
                pair = torch.from_numpy(stepper.iterates.copy()).to(bench.device)
                rows.append(ESTIMATORS["directional_smoothness"](probe, pair, method="adaptive"))
        kept = [row for row in rows if row["smoothness"]]
        rank = float(spearmanr([row["grad_norm"] for row in kept], [row["smoothness"] for row in kept]).statistic)
        found.append(rank)
        trusted = sum(row["trust"] == "trusted" for row in rows) / len(rows)
        yield f"rate {rate:g}: Spearman", rank, ">= 0.5 at rate 30, less at rate 2", None
        yield f"rate {rate:g}: trusted", trusted, ">= 0.9", trusted >= 0.9 if bench.is_gpu else None
    if len(found) == 2:
        yield "rate 30 above rate 2", found[0] > found[1], "true", None


def spin(bench: Bench, what: str, seconds: str) -> float:
    """Train or measure ResNet20 for some seconds; steps or gradients per second."""
    problem = full(bench, "ResNet20, 128 images")
    if what == "train":
        return steps_per_second(Stepper(problem, RULE, total_steps=10**6, seed=SEED).take, bench, float(seconds))
    probe = probe_of(problem)
    point = flat_parameters(problem.model)
    return steps_per_second(lambda _: probe.gradient.value_and_gradient(point), bench, float(seconds))


def sharing(bench: Bench) -> Rows:
    """S1: processes that share the device."""
    seconds = "4" if bench.is_gpu else "0.5"
    alone = _together(bench, ["train"], seconds)[0]
    yield "a trainer alone, steps/s", alone, "", None
    for neighbours in (1, 2):
        share = _together(bench, ["train", *["measure"] * neighbours], seconds)[0] / alone
        yield f"beside {neighbours} estimators / alone", share, ">= 0.4 with one" if neighbours == 1 else "", None
    yield "4 trainers together / alone", sum(_together(bench, ["train"] * 4, seconds)) / alone, ">= 1.0", None


def _together(bench: Bench, tasks: list[str], seconds: str) -> list[float]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", bench.device, "--data", str(bench.data)]
    command += ["--folder", str(bench.real), "--inner", "spin"]
    started = [subprocess.Popen([*command, task, seconds], stdout=subprocess.PIPE, text=True) for task in tasks]
    return [float(json.loads(one.communicate()[0].strip().rpartition("\n")[2])) for one in started]


def sweep(bench: Bench) -> Rows:
    """S2: a sweep on Ray whose trainer is killed has the rows of one that nobody disturbs."""
    try:
        import ray
    except ImportError:
        yield "Ray", "is not installed", "", None
        return
    yield "Ray", ray.__version__, "", None
    corpus = _real(bench, "ptb") or bench.data / "text"
    sets = [f"problem.corpus={corpus}", "sweep.seeds=1", "train.steps=60", "train.checkpoint_every=10"]
    sets += ["measure.data_fraction=0.002", "problem.evaluate_fraction=0.1"]
    sets += [f"resources.{kind}.count=2" for kind in ("trainers", "estimators")]
    if bench.is_gpu:
        sets += [f"resources.{kind}.gpus=0.25" for kind in ("trainers", "estimators")]
    command = [sys.executable, "-m", "sweeper", "run", str(ROOT / "specs" / "small" / "figure2.yaml")]
    command += [part for one in sets for part in ("--set", one)]
    runs = {}
    for name in ("undisturbed", "killed"):
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--out", str(bench.scratch / name)], cwd=ROOT, start_new_session=True)
        try:
            if name == "killed":
                next(_trainers(process.pid)).send_signal(signal.SIGKILL)
            code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        yield f"{name}: exit code", code, "0", code == 0
        yield f"{name}: seconds", time.perf_counter() - started, "", None
        runs[name] = bench.scratch / name
    import pandas as pd

    order = ["trial_id", "step"]
    one, other = (
        pd.read_parquet(path / "metrics.parquet").sort_values(order).reset_index(drop=True) for path in runs.values()
    )
    yield "rows", one.equals(other), "equal bits", bool(one.equals(other))


def _trainers(driver: int) -> Iterator[psutil.Process]:
    """Trainers that train, as soon as there are some."""
    while True:
        for child in psutil.Process(driver).children(recursive=True):
            if child.name().startswith("ray::TrainerActor.train"):
                # Some steps, and the first checkpoint.
                time.sleep(3)
                yield child
        time.sleep(0.2)


FAST = [
    Item(name="T1", part="B", seconds=80, run=training, words="training"),
    Item(name="T2", part="B", seconds=40, run=measuring, words="measuring"),
    Item(name="F", part="B", seconds=100, run=figure, words="Figure 2a"),
    Item(name="S2", part="B", seconds=90, run=sweep, words="a sweep"),
    Item(name="T3", part="B", seconds=25, run=held, words="many snapshots"),
    Item(name="S1", part="B", seconds=50, run=sharing, words="sharing"),
]
