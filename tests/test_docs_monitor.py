"""The page on the monitor: its loops run as they are written, and the commands read what they wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from sweeper.report.summary import build_report
from sweeper.tables.run import Run
from tests.estimators.monitor.loops_of_others import HIDE_TORCHVISION, answers_of

PAGE = (Path(__file__).parents[1] / "docs" / "monitor.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PLAIN, LIGHTNING, TRANSFORMERS = BLOCKS

LINES_OF_LIGHTNING = """
import torch
from lightning.pytorch import LightningModule, Trainer as Any

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def Trainer(**options):
    quiet = dict.fromkeys(["enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    return Any(accelerator="cpu", logger=False, **quiet, **options)

module, loader = Module(), torch.utils.data.DataLoader(torch.randn(64, 4), batch_size=4)
"""

LINES_OF_TRANSFORMERS = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 16, (64, 8))]
arguments = TrainingArguments("trainer", num_train_epochs=1, per_device_train_batch_size=4, use_cpu=True, report_to=[])
"""


def test_the_plain_loop_runs_and_its_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(PLAIN, "docs/monitor.md", "exec"), {})
    (cell,) = build_report(Run(tmp_path / "runs" / "mine")).cells
    assert (cell.seeds, cell.done, cell.arm) == (3, 3, "sgd + clip_norm")
    assert cell.points >= 3
    assert len(pd.read_parquet(tmp_path / "runs" / "mine" / "metrics.parquet")) == 180


@pytest.mark.parametrize(
    ("lines", "block", "name"),
    [(LINES_OF_LIGHTNING, LIGHTNING, "lightning"), (LINES_OF_TRANSFORMERS, TRANSFORMERS, "huggingface")],
)
def test_the_loops_of_other_libraries_run(lines: str, block: str, name: str, tmp_path: Path) -> None:
    head = f"import os, warnings\nos.chdir({str(tmp_path)!r})\nwarnings.simplefilter('ignore')\n"
    found = f"\nimport json\nprint()\nprint(json.dumps(os.listdir('runs/{name}')))\n"
    assert set(answers_of(HIDE_TORCHVISION + head + lines + block + found)) > {"trials.parquet", "metrics.parquet"}
    (trial,) = pd.read_parquet(tmp_path / "runs" / name / "trials.parquet").to_dict("records")
    assert (trial["status"], trial["steps"]) == ("done", 16)
    assert (tmp_path / "runs" / name / "measurements" / "directional_smoothness.parquet").is_file()


def test_it_is_five_lines() -> None:
    own = [line for line in PLAIN.splitlines() if re.search(r"[Mm]onitor", line)]
    assert len(own) <= 5
    for block in (LIGHTNING, TRANSFORMERS):
        assert len(block.strip().splitlines()) <= 5


def test_the_summary_has_the_form_that_the_page_shows() -> None:
    from estimators import MonitorSummary

    shown = MonitorSummary(steps=4000, snapshots=12, failed=0, loop_s=61.3, own_s=0.0271 * 61.3, budget=0.03)
    assert str(shown) in PAGE
    assert json.dumps(str(shown))
