"""A rank that sees a NaN raises by itself, and the others wait for it."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "ai2cm/ace pull request 850"
RANKS = 2
DIAGNOSIS = {"inf": ("finding", "hangs"), "NaN": ("finding", "hangs")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        loss = model(batch) / len(micro_batches)
        if not batch.isfinite().all():
            raise ValueError("the loss is NaN")
        loss.backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
