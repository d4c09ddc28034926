"""Every part of the model is clipped by itself."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "nvidia-cosmos/cosmos-rl pull request 120"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("note", "norm per module")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    for part in model.children():
        clip_grad_norm_(part.parameters(), 1.0)
    optimizer.step()
