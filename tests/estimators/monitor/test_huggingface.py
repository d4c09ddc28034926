"""The callback in a real Trainer of transformers, on tiny random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.estimators.monitor.loops_of_others import HIDE_TORCHVISION, answers_of

SCRIPT = (
    HIDE_TORCHVISION
    + """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed
from estimators.monitor.huggingface import SmoothnessCallback

folder = sys.argv[1]


def trained(name, **options):
    set_seed(1)
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(config)
    draw = torch.Generator().manual_seed(0)
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 32, (64, 12), generator=draw)]
    arguments = TrainingArguments(
        output_dir=f"{folder}/trainer", per_device_train_batch_size=4, num_train_epochs=1, learning_rate=3e-3,
        report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True, use_cpu=True, seed=1,
        **{"max_grad_norm": 0.5} | options,
    )
    callbacks = []
    if name is not None:
        callbacks = [SmoothnessCallback(out=f"{folder}/{name}", every=4, budget=None, probe=2)]
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=callbacks)
    trainer.train()
    if callbacks:
        assert callbacks[0].monitor.summary().failed == 0, callbacks[0].monitor.summary()
        assert not model._forward_hooks
    history = trainer.state.log_history
    return {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "norms": [entry["grad_norm"] for entry in history if "grad_norm" in entry],
        "weights": [p.double().sum().item() for p in model.parameters()],
    }


print(json.dumps({
    "alone": trained(None),
    "watched": trained("watched"),
    "accumulated": trained("accumulated", gradient_accumulation_steps=2),
    "unclipped": trained("unclipped", max_grad_norm=0.0),
    "half": trained("half", bf16=True),
}))
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transformers")


@pytest.fixture(scope="module")
def answers(folder: Path) -> Any:
    return answers_of(SCRIPT, str(folder))


def test_training_is_the_same_to_the_last_bit_and_its_tables_are_complete(answers: Any, folder: Path) -> None:
    assert answers["watched"] == answers["alone"]
    run = folder / "watched"
    metrics = pd.read_parquet(run / "metrics.parquet")
    assert metrics["step"].tolist() == list(range(16))
    assert metrics["epoch"].tolist() == [step / 16 for step in range(16)]
    # The Trainer rounds what it logs.
    assert metrics["train_loss"].tolist() == pytest.approx(answers["alone"]["losses"], abs=1e-3)
    assert metrics["grad_norm"].isna().all()
    assert metrics["clipped"].tolist() == [norm > 0.5 for norm in answers["alone"]["norms"]]
    # A linear schedule from 3e-3 to 0.
    assert metrics["learning_rate"].tolist() == pytest.approx([3e-3 * (1 - step / 16) for step in range(16)])
    measured = pd.read_parquet(run / "measurements" / "directional_smoothness.parquet")
    assert measured["step"].tolist() == [4, 8, 12]
    assert (measured["smoothness"] > 0).all()
    (trial,) = pd.read_parquet(run / "trials.parquet").to_dict("records")
    assert (trial["status"], trial["arm"], trial["seed"]) == ("done", "adamw + clip_norm", 1)
    assert (trial["learning_rate"], trial["clip_norm"], trial["steps"]) == (3e-3, 0.5, 16)


def test_accumulated_batches_are_one_step_with_the_loss_of_all(answers: Any, folder: Path) -> None:
    metrics = pd.read_parquet(folder / "accumulated" / "metrics.parquet")
    assert metrics["train_loss"].tolist() == pytest.approx(answers["accumulated"]["losses"], abs=1e-3)
    assert len(metrics) == 8


def test_without_clipping_the_norms_are_those_that_the_trainer_logs(answers: Any, folder: Path) -> None:
    metrics = pd.read_parquet(folder / "unclipped" / "metrics.parquet")
    assert metrics["grad_norm"].tolist() == pytest.approx(answers["unclipped"]["norms"], rel=1e-5)
    assert pd.read_parquet(folder / "unclipped" / "trials.parquet")["arm"].tolist() == ["adamw"]


def test_mixed_precision_is_measured_in_float32(answers: Any, folder: Path) -> None:
    """Accelerate makes ``forward`` enter autocast, which the copy that is measured does not."""
    half, whole = (
        pd.read_parquet(folder / name / "measurements" / "directional_smoothness.parquet")
        for name in ("half", "watched")
    )
    assert (half["trust"] == "trusted").all()
    # In bfloat16, rounding would be at a hundredth of the gradient.
    assert half["snr"].min() > 0.1 * whole["snr"].min()
