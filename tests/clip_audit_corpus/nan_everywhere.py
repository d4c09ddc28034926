"""One NaN makes the norm NaN, and the clip multiplies every gradient by it."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "facebookresearch/habitat-lab issue 2226"
RANKS = 1
DIAGNOSIS = {"NaN": ("note", "poisons all")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 0.2)
    optimizer.step()
