"""Gradients are clipped before they are there."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "yandex-research/tabm issue 20"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "nothing: no gradients")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    losses = [model(batch) for batch in micro_batches]
    clip_grad_norm_(model.parameters(), 1.0)
    (sum(losses) / len(losses)).backward()
    optimizer.step()
