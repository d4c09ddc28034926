"""A negative threshold is taken, and turns every gradient around."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "strands-labs/robots pull request 2028"
RANKS = 1
DIAGNOSIS = {
    # Turned around, every gradient has the norm of the threshold, however small it was.
    "accumulation": ("note", "scaled away"),
    "what is clipped": ("finding", "reversed by the clip"),
}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), -1.0)
    optimizer.step()
