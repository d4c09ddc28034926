"""Evaluating a part of the validation data is evaluating data that end there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from trainers.data.images import load_images
from trainers.data.text import load_corpus
from trainers.problems.build import build_problem

MODEL = {"layers": 1, "hidden": 4, "embedding": 4}


def folder_with(path: Path, *, valid: list[str]) -> Path:
    path.mkdir()
    words = [f"w{number % 7}" for number in range(200)]
    for name, text in (("train", words), ("valid", valid), ("test", words[:20])):
        (path / f"{name}.txt").write_text(" ".join(text) + "\n")
    return path


def test_a_share_of_a_text_is_its_beginning(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "text", valid=[f"w{number * number % 7}" for number in range(99)])
    options = {"corpus": str(folder), "model": MODEL, "batch_size": 2, "sequence_length": 39, "evaluate_sequences": 1}
    problem = build_problem("language_modeling", {**options, "evaluate_fraction": 0.4}, seed=0)
    everything = build_problem("language_modeling", options, seed=0)
    text = load_corpus(str(folder)).valid
    assert len(text) == 100, "99 words and the end of the line"
    column = text[:40, None]
    with torch.no_grad():
        expected, _ = problem.measured_loss(problem.model, (column[:-1], column[1:]), None)
        told = problem.evaluate(problem.model)["valid_loss"]
        assert told == pytest.approx(expected.item(), rel=1e-6)
        assert told != pytest.approx(everything.evaluate(everything.model)["valid_loss"], rel=1e-5)


def test_a_share_of_images_is_the_first_ones() -> None:
    data = load_images("digits")
    model = {"use": "mlp", "hidden": 8, "layers": 1}
    problem = build_problem("image_classification", {"model": model, "evaluate_fraction": 0.1}, seed=0)
    count = -(-len(data.valid_labels) // 10)
    pixels = data.train_images.double() if data.train_images.ndim == 4 else data.train_images
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    with torch.no_grad():
        shown = (data.valid_images[:count].float() - mean.float()[:, None, None]) / deviation.float()[:, None, None]
        logits = problem.model(shown)
        expected = F.cross_entropy(logits, data.valid_labels[:count]).item()
        told = problem.evaluate(problem.model)
    assert told["valid_loss"] == pytest.approx(expected, rel=1e-5)
    correct = (logits.argmax(1) == data.valid_labels[:count]).double().mean().item()
    assert told["valid_accuracy"] == pytest.approx(correct)
