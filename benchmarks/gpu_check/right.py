"""Part A: does everything run on the device, and is it what a CPU gives?"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.cases import CASES, SEED, build, digest, probe_of, wide_of
from benchmarks.gpu_check.harness import Bench, Item, Rows
from benchmarks.gpu_check.references import distance, pair_of, seen
from estimators import ESTIMATORS
from estimators.probe.graphed import GraphedGradient
from estimators.probe.hessian import ProbeHessian
from sweeper.errors import spoils_gpu
from sweeper.workers.device import Device
from trainers.training.checkpoint import dump, load
from trainers.training.loop import Segment, TrainSettings, train
from trainers.training.stepper import Stepper
from trainers.trees import tensors_of
from trainers.update.flat import flat_parameters
from trainers.update.rule import UpdateRule

__all__ = ["RIGHT", "inner"]

RULE = UpdateRule(learning_rate=0.05, clip_norm=0.5, momentum=0.9)
ROOT = Path(__file__).resolve().parents[2]


def sync(bench: Bench) -> None:
    """Wait for the device."""
    if bench.is_gpu:
        torch.cuda.synchronize()


def seconds_of(work: Any, bench: Bench, repeats: int) -> float:
    """Median seconds of some work, waited for."""
    work()
    found = []
    for _ in range(repeats):
        sync(bench)
        started = time.perf_counter()
        work()
        sync(bench)
        found.append(time.perf_counter() - started)
    return float(np.median(found))


def machine(bench: Bench) -> Rows:
    """A0: what is there, and its plain speeds."""
    device = Device(name=bench.device)
    yield "torch", torch.__version__, "", None
    for name, value in device.facts.items():
        yield name, value, "", None
    size = 4096 if bench.is_gpu else 512
    for words, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TF32", torch.float32, True),
        ("float64", torch.float64, False),
    ):
        left = torch.randn(size, size, device=bench.device, dtype=dtype)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        spent = seconds_of(lambda left=left: left @ left, bench, 5)
        yield f"matmul {words}, TFLOP/s", 2 * size**3 / spent / 1e12, "", None
    torch.backends.cuda.matmul.allow_tf32 = False
    if bench.is_gpu:
        vector = torch.randn(24_000_000, device=bench.device)
        pageable = seconds_of(lambda: vector.cpu(), bench, 5)
        pinned = torch.empty(vector.shape, pin_memory=True)
        fast = seconds_of(lambda: pinned.copy_(vector), bench, 5)
        yield "pageable copy of 96 MB, ms", 1000 * pageable, "", None
        yield "pinned / pageable", pageable / fast, ">= 5?", None


def same_start(bench: Bench) -> Rows:
    """C1: weights, first batch and probe have the bits of the CPU's."""
    for name in bench.cases:
        problem, known = build(name, bench.data, bench.device), bench.references["cases"][name]
        probe = probe_of(problem)
        for what, tree in (
            ("weights", flat_parameters(problem.model)),
            ("batch", problem.batch(0)),
            ("probe", probe.batches),
        ):
            same = digest(tree) == known[what]
            if same or what == "weights" or CASES[name][0] != "image_classification":
                yield f"{name} {what}", same, "equal bits", same
                continue
            # Pixels are normalised on the device, which may round the last bit in another way.
            here = build(name, bench.data)
            other = here.batch(0) if what == "batch" else probe_of(here).batches
            pairs = zip(tensors_of(tree), tensors_of(other), strict=True)
            off = max(
                float(((a.cpu() - b).abs() / b.abs().clamp(min=1e-3)).max()) for a, b in pairs if b.is_floating_point()
            )
            yield f"{name} {what}, relative", off, "<= 1 ulp of float32", off <= 2**-22


def wide_gradients(bench: Bench) -> Rows:
    """C2: the gradient in float64."""
    for name in bench.cases:
        problem, known = build(name, bench.data, bench.device), bench.references["cases"][name]
        point = flat_parameters(problem.model)
        value, slope = wide_of(problem).value_and_gradient(point)
        off = distance(seen(value, slope), known["float64"])
        limit = 1e-11 if "resnet" in name else 1e-12
        yield f"{name} gradient", off, f"<= {limit:g}", off <= limit


def rounding(bench: Bench) -> Rows:
    """C3: the error of float32, against that on a CPU; and without full_float32, where TF32 is a GPU's default."""
    for name in bench.cases:
        problem, known = build(name, bench.data, bench.device), bench.references["cases"][name]
        point = flat_parameters(problem.model)
        _, exact = wide_of(problem).value_and_gradient(point)
        probe = probe_of(problem)
        probe.settle(point)
        _, narrow = probe.value_and_gradient(point)
        error = float((narrow.double() - exact).norm() / exact.norm())
        yield f"{name} error / the CPU's", error / known["error32"], "<= 4", error <= 4 * known["error32"]
        if bench.is_gpu:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            probe.gradient.move_to(point)
            probe.gradient.accumulate()
            loose = probe.gradient.summed_gradient / probe.gradient.num_batches
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            worse = float((loose.double() - exact).norm() / exact.norm()) / known["error32"]
            yield f"{name} error in TF32 / the CPU's", worse, "> 50 (shows that the check would see TF32)", None


def smoothness(bench: Bench) -> Rows:
    """C4: eq. (20) and Hessian-vector products against the CPU's; a recorded gradient against an eager one."""
    for name in bench.cases:
        problem, known = build(name, bench.data, bench.device), bench.references["cases"][name]
        point = flat_parameters(problem.model)
        _, slope = wide_of(problem).value_and_gradient(point)
        probe = probe_of(problem)
        row = ESTIMATORS["directional_smoothness"](probe, pair_of(point, slope), delta=0.25)
        off = abs(row["smoothness"] / known["smoothness"] - 1)
        limit = max(2 / known["snr"], 1e-3)
        yield f"{name} eq. (20)", off, f"<= {limit:.2g}", off <= limit
        probe.settle(point)
        product = ProbeHessian(probe.gradient, point).product(slope.float() / slope.norm().float())
        off = distance(seen(0.0, product), known["hessian"])
        limit = max(1e-4, 4 * known["error32"])
        yield f"{name} H v", off, f"<= {limit:.2g}", off <= limit
        graphed = GraphedGradient(probe.gradient)
        for at in (0.0, 0.5, 1.0):
            here = point - at * 0.01 * slope.float()
            eager = probe.gradient.value_and_gradient(here)
            recorded = graphed.value_and_gradient(here)
            same = eager[0] == recorded[0] and torch.equal(eager[1], recorded[1])
            yield f"{name} recorded at {at}", same, "equal bits", same


def determinism(bench: Bench) -> Rows:
    """C5: the gradient in two processes, with and without what workers set."""
    names = [name for name in ("lstm", "resnet20", "gpt") if name in bench.cases]
    for on in (True, False) if bench.is_gpu else (True,):
        found = [_inner(bench, "gradients", *names, "--workspace" if on else "--plain") for _ in range(2)]
        same = found[0] == found[1]
        expected = "equal bits" if on else "(shows whether it matters)"
        yield f"two processes, switches {'on' if on else 'off'}", same, expected, same if on else None


def silence(bench: Bench) -> Rows:
    """C6: steps wait for nothing."""
    for name in bench.cases:
        stepper = Stepper(build(name, bench.data, bench.device), RULE, total_steps=100, seed=SEED)
        stepper.take(0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(1, 11):
                stepper.take(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        yield f"{name}, 10 steps", "no wait", "no wait", True


def resuming(bench: Bench) -> Rows:
    """C7: 20 steps, against 10, a checkpoint, and 10 in another process."""
    for name in bench.cases:
        whole = _rows(bench, name, None)
        path = bench.scratch / f"{name}.state"
        first = _rows(bench, name, 10, save=path)
        rest = _inner(bench, "resume", name, str(path))
        same = first + rest == whole
        yield f"{name} rows", same, "equal bits", same


def _rows(bench: Bench, name: str, stop: int | None, save: Path | None = None, state: Any = None) -> list[str]:
    """Losses and norms of 20 steps, or of those up to a stop."""
    asked = iter(range(100))
    rows: list[str] = []
    for item in train(
        build(name, bench.data, bench.device),
        RULE,
        TrainSettings(steps=20, checkpoint_every=100),
        seed=SEED,
        resume=state,
        should_stop=lambda: stop is not None and next(asked) >= stop,
    ):
        if isinstance(item, Segment):
            columns = [item.rows[key] for key in ("train_loss", "grad_norm", "update_norm")]
            rows += [repr([float(value) for value in line]) for line in zip(*columns, strict=True)]
            if save is not None and item.state is not None:
                save.write_bytes(dump(item.state))
    return rows


def precision(bench: Bench) -> Rows:
    """C8: what a user sets for the process does not reach f."""
    problem = build(bench.cases[0], bench.data, bench.device)
    point = flat_parameters(problem.model)
    probe = probe_of(problem)
    _, before = probe.gradient.value_and_gradient(point)
    torch.set_float32_matmul_precision("medium")
    try:
        _, after = probe.gradient.value_and_gradient(point)
        words = probe.arithmetic
    finally:
        torch.set_float32_matmul_precision("highest")
    yield "arithmetic of f", words, "float32 ieee", words == "float32 ieee"
    yield "gradient", torch.equal(before, after), "equal bits", torch.equal(before, after)


def poisoned(bench: Bench) -> Rows:
    """C9: after a failed assertion of a kernel the process is known to be unfit."""
    found = _inner(bench, "assert", check=False)
    yield "worker after a device-side assertion", found, "is replaced", found == ["replaced"]


def _inner(bench: Bench, *arguments: str, check: bool = True) -> Any:
    """What another process of this script prints as JSON."""
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", bench.device, "--data", str(bench.data)]
    done = subprocess.run([*command, "--inner", *arguments], capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return json.loads(done.stdout.strip().rpartition("\n")[2] or "null")


def inner(bench: Bench, task: str, *arguments: str) -> Any:
    """What a check does in another process."""
    if task == "assert":
        try:
            torch.nn.functional.embedding(
                torch.tensor([9], device=bench.device), torch.ones(2, 2, device=bench.device)
            ).sum().item()
        except (RuntimeError, IndexError) as error:
            return ["replaced" if spoils_gpu(error) else f"kept: {error}"]
        return ["no error"]
    if task == "resume":
        name, path = arguments
        return _rows(bench, name, None, state=load(Path(path).read_bytes()))
    names = [name for name in arguments if not name.startswith("--")]
    found = []
    for name in names:
        problem = build(name, bench.data, bench.device)
        stepper = Stepper(copy.copy(problem), RULE, total_steps=10, seed=SEED)
        for step in range(5):
            stepper.take(step)
        point = flat_parameters(problem.model)
        found.append([digest(point), digest(probe_of(problem).gradient.value_and_gradient(point)[1])])
    return found


RIGHT = [
    Item(name="A0", part="A", seconds=30, run=machine, words="the machine"),
    Item(name="C1", part="A", seconds=15, run=same_start, words="the start"),
    Item(name="C2", part="A", seconds=15, run=wide_gradients, words="float64"),
    Item(name="C3", part="A", seconds=15, run=rounding, words="float32"),
    Item(name="C4", part="A", seconds=45, run=smoothness, words="eq. (20)"),
    Item(name="C5", part="A", seconds=60, run=determinism, words="two processes"),
    Item(name="C6", part="A", seconds=15, run=silence, words="waits", needs_gpu=True),
    Item(name="C7", part="A", seconds=80, run=resuming, words="resume"),
    Item(name="C8", part="A", seconds=10, run=precision, words="precision"),
    Item(name="C9", part="A", seconds=20, run=poisoned, words="unusable context", needs_gpu=True),
]
