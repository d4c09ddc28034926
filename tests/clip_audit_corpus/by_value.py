"""Every element is cut by itself where the norm was meant, which turns the gradient."""

from __future__ import annotations

from torch.nn.utils import clip_grad_value_

SOURCE = "neuroailab/tfutils issue 115"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("note", "value")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_value_(model.parameters(), 1.0)
    optimizer.step()
