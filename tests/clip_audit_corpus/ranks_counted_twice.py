"""Averaged gradients are the same on every rank, but the norm adds their squares up over ranks."""

from __future__ import annotations

import torch.distributed as dist
from torch.nn.utils import clip_grads_with_norm_

SOURCE = "modelscope/twinkle pull request 290"
RANKS = 2
DIAGNOSIS = {"threshold": ("finding", "ranks counted twice")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    square = sum(gradient.square().sum() for gradient in gradients)
    dist.all_reduce(square)
    clip_grads_with_norm_(model.parameters(), 1.0, square.sqrt())
    optimizer.step()
