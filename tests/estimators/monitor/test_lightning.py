"""The callback in a real Trainer of Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.estimators.monitor.loops_of_others import HIDE_TORCHVISION, answers_of

SCRIPT = (
    HIDE_TORCHVISION
    + """
import json, logging, sys, warnings
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from estimators.monitor.lightning import SmoothnessCallback

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
folder = sys.argv[1]


class Small(LightningModule):
    def __init__(self, raises):
        super().__init__()
        self.raises = raises
        self.net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 1))
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log("train_loss", loss)
        self.losses.append(loss.item())
        if self.raises and self._trainer is not None and self.losses[12:]:
            raise KeyError("no more")
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


def trained(name, raises=False, **options):
    seed_everything(3)
    x = torch.randn(96, 6)
    loader = DataLoader(TensorDataset(x, x[:, :1].sin()), batch_size=8, shuffle=True)
    callback = None
    if name is not None:
        callback = SmoothnessCallback(out=f"{folder}/{name}", every=2, budget=None, probe=2)
    model = Small(raises)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=0.8, default_root_dir=folder,
        callbacks=[] if callback is None else [callback], **options,
    )
    raised = None
    try:
        trainer.fit(model, loader)
    except KeyError as error:
        raised = str(error)
    if callback is not None:
        assert callback.monitor.summary().failed == 0, callback.monitor.summary()
    return {
        "losses": model.losses, "raised": raised,
        "weights": [p.double().sum().item() for p in model.state_dict().values()],
    }


warnings.simplefilter("ignore")
print(json.dumps({
    "alone": trained(None),
    "watched": trained("watched"),
    "accumulated": trained("accumulated", accumulate_grad_batches=2),
    "half": trained("half", precision="bf16-mixed"),
    "raised": trained("raised", raises=True),
}))
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lightning")


@pytest.fixture(scope="module")
def answers(folder: Path) -> Any:
    return answers_of(SCRIPT, str(folder))


def test_training_is_the_same_to_the_last_bit_and_its_tables_are_complete(answers: Any, folder: Path) -> None:
    assert answers["watched"]["weights"] == answers["alone"]["weights"]
    run = folder / "watched"
    metrics = pd.read_parquet(run / "metrics.parquet")
    assert metrics["step"].tolist() == list(range(24))
    assert metrics["epoch"].tolist() == [step / 12 for step in range(24)]
    assert metrics["clipped"].tolist() == (metrics["grad_norm"] > 0.8).tolist()
    assert metrics["clipped"].nunique() == 2
    measured = pd.read_parquet(run / "measurements" / "directional_smoothness.parquet")
    assert measured["step"].tolist() == list(range(2, 24, 2))
    assert (measured["smoothness"] > 0).all()
    (trial,) = pd.read_parquet(run / "trials.parquet").to_dict("records")
    assert (trial["status"], trial["arm"], trial["clip_norm"]) == ("done", "sgd + clip_norm", 0.8)
    assert (trial["learning_rate"], trial["steps"]) == (0.2, 24)


def test_the_loss_recorded_is_that_of_training_step(answers: Any, folder: Path) -> None:
    recorded = pd.read_parquet(folder / "watched" / "metrics.parquet")["train_loss"].tolist()
    assert recorded == pytest.approx(answers["alone"]["losses"])
    # What training_step keeps is kept of training alone: the module itself is never used to measure.
    assert answers["watched"]["losses"] == answers["alone"]["losses"]


def test_accumulated_batches_are_one_step_with_the_mean_of_their_losses(answers: Any, folder: Path) -> None:
    metrics = pd.read_parquet(folder / "accumulated" / "metrics.parquet")
    assert metrics["step"].tolist() == list(range(12))
    losses = answers["accumulated"]["losses"]
    assert metrics["train_loss"].tolist() == pytest.approx([sum(losses[k : k + 2]) / 2 for k in range(0, 24, 2)])


def test_mixed_precision_is_measured_in_float32(answers: Any, folder: Path) -> None:
    assert len(answers["half"]["losses"]) == 24
    measured = pd.read_parquet(folder / "half" / "measurements" / "directional_smoothness.parquet")
    assert set(measured["arithmetic"]) == {"float32 ieee"}
    assert (measured["trust"] == "trusted").all()


def test_what_training_step_raises_is_a_failed_trial(answers: Any, folder: Path) -> None:
    assert answers["raised"]["raised"] == "'no more'"
    (trial,) = pd.read_parquet(folder / "raised" / "trials.parquet").to_dict("records")
    assert (trial["status"], trial["error"]) == ("failed", "KeyError: 'no more'")
