"""Correct: one step per micro-batch, clipped between backward and step."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = ""
RANKS = 1
DIAGNOSIS = {}


def train_step(model, optimizer, micro_batches):
    for batch in micro_batches:
        optimizer.zero_grad()
        model(batch).backward()
        clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
