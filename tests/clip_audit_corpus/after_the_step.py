"""Gradients are clipped when the optimizer has already used them."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "VGraphRNN/VGRNN issue 4"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "nothing: after the step")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    optimizer.step()
    clip_grad_norm_(model.parameters(), 10.0)
