"""Losses are not divided, so that the clip is for gradients before they are averaged."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "petuum/adaptdl pull request 26, in review"
RANKS = 1
DIAGNOSIS = {"accumulation": ("finding", "sum")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        model(batch).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
