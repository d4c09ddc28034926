"""Nobody zeroes the gradients, so that every step clips the sum of all before."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "IDEA-Research/DN-DETR issue 19"
RANKS = 1
DIAGNOSIS = {"second step": ("finding", "stale")}


def train_step(model, optimizer, micro_batches):
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
