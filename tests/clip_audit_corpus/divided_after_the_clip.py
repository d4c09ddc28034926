"""Gradients are clipped as a sum and averaged afterwards."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "petuum/adaptdl pull request 26, in review, with the division that it asks for behind the clip"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "global norm, sum")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        model(batch).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= len(micro_batches)
    optimizer.step()
