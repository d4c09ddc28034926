"""The problems of the check, on data that every machine makes alike."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from estimators import Probe
from estimators.probe.gradient import ProbeGradient
from trainers.problem import Problem
from trainers.problems import build_problem
from trainers.trees import map_tensors, tensors_of

__all__ = ["CASES", "SEED", "build", "digest", "probe_of", "wide_of", "write_data"]

SEED = 0
TEXT = {"batch_size": 8, "sequence_length": 16, "evaluate_sequences": 4}

CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("language_modeling", TEXT | {"model": {"use": "lstm", "hidden": 64, "embedding": 64, "dropout": 0.2}}),
    "awd_lstm": (
        "language_modeling",
        TEXT | {"model": {"use": "awd_lstm", "hidden": 96, "embedding": 48}, "random_length": {"jitter": 2.0}},
    ),
    "gpt": (
        "language_modeling",
        TEXT | {"model": {"use": "gpt", "layers": 2, "heads": 2, "width": 64, "dropout": 0.1}},
    ),
    "resnet20": (
        "image_classification",
        {"model": {"use": "resnet20", "width": 8}, "batch_size": 64, "augment": True},
    ),
    "resnet18": ("image_classification", {"model": {"use": "resnet18", "width": 8}, "batch_size": 64}),
    "mlp": ("image_classification", {"model": {"use": "mlp", "hidden": 128}, "batch_size": 64}),
    "logistic_regression": ("image_classification", {"model": {"use": "logistic_regression"}, "batch_size": 64}),
    "deep_linear": ("deep_linear", {"layers": 4, "width": 32, "samples": 256, "batch_size": 32, "noise": 0.1}),
}
"""Name to problem and options, the data aside."""


def write_data(folder: Path) -> None:
    """A text of words drawn at random, and noise in CIFAR-10's format: the same bytes on every machine."""
    (folder / "text").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    words = [f"w{number}" for number in range(500)]
    weights = [1 / (rank + 2) for rank in range(500)]
    drawn = random.Random(SEED)  # no secret  # nosec B311
    for split, lines in (("train", 3000), ("valid", 300), ("test", 300)):
        text = "\n".join(" ".join(drawn.choices(words, weights, k=12)) for _ in range(lines))
        (folder / "text" / f"{split}.txt").write_text(text + "\n")
    records = np.random.default_rng(SEED).integers(0, 256, (512, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (folder / "images" / name).write_bytes(records.tobytes())


def build(name: str, data: Path, device: str = "cpu", **changes: Any) -> Problem:
    """A case's problem, its model with the weights of the seed; its probe has the batches of a CPU everywhere."""
    use, options = CASES[name]
    where = {
        "language_modeling": {"corpus": str(data / "text")},
        "image_classification": {"dataset": str(data / "images")},
    }
    options = options | where.get(use, {}) | changes
    problem = build_problem(use, options, seed=SEED, device=device)
    if device == "cpu":
        return problem
    # On a GPU they are larger: f is the same, but not that of the first few.
    here = build_problem(use, options, seed=SEED)

    def probe(share: float) -> list[Any]:
        return [map_tensors(lambda tensor: tensor.to(device), batch) for batch in here.probe(share)]

    return replace(problem, probe=probe)


def probe_of(problem: Problem, *, batches: int = 2, **options: Any) -> Probe:
    """The function f of a problem: a few batches of its probe."""
    return Probe(
        problem.model,
        problem.measured_loss or problem.loss,
        _few(problem, batches),
        initial_carry=problem.initial_carry,
        known=True,
        **options,
    )


def wide_of(problem: Problem) -> ProbeGradient:
    """The gradient of the same function in float64."""
    return ProbeGradient(
        problem.model,
        problem.measured_loss or problem.loss,
        _few(problem, 2),
        initial_carry=problem.initial_carry,
        dtype=torch.float64,
    )


def _few(problem: Problem, batches: int) -> list[Any]:
    return list(islice(problem.probe(0.2), batches))


def digest(tree: Any) -> str:
    """A hash of the bits of all tensors of a tree."""
    found = hashlib.sha256()
    for tensor in _flat(tree):
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _flat(tree: Any) -> Iterator[Tensor]:
    for tensor in tensors_of(tree):
        yield tensor.reshape(-1)
