"""Correct: the mean of all micro-batches, clipped once."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = ""
RANKS = 1
DIAGNOSIS = {}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    optimizer.step()
