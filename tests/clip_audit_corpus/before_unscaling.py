"""Gradients are clipped while they are still multiplied by the loss scale."""

from __future__ import annotations

import torch
from torch.nn.utils import clip_grad_norm_

SOURCE = "milesial/Pytorch-UNet issue 468"
RANKS = 1
DIAGNOSIS = {"threshold": ("finding", "before unscaling")}


SCALER = torch.amp.GradScaler("cpu")


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        SCALER.scale(model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), max_norm=1.0)
    SCALER.step(optimizer)
    SCALER.update()
