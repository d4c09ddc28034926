"""Correct: gradients are unscaled, and then clipped."""

from __future__ import annotations

import torch
from torch.nn.utils import clip_grad_norm_

SOURCE = ""
RANKS = 1
DIAGNOSIS = {}


SCALER = torch.amp.GradScaler("cpu")


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        SCALER.scale(model(batch) / len(micro_batches)).backward()
    SCALER.unscale_(optimizer)
    clip_grad_norm_(model.parameters(), 1.0)
    SCALER.step(optimizer)
    SCALER.update()
