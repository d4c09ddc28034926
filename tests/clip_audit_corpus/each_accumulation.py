"""What has been accumulated so far is clipped after every backward."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "huggingface/transformers issue 1563"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "global norm, running"), "how often": ("finding", "at several places")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
        clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
