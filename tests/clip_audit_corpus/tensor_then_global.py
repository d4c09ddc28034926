"""Every tensor is clipped, and then the global norm at the same threshold."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "google/automl issue 910"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "norm per tensor then global norm")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    for parameter in model.parameters():
        clip_grad_norm_([parameter], 5.0)
    clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
