"""A clip of its own goes over a generator twice: once for the norm, and then over nothing."""

from __future__ import annotations

SOURCE = "ShusenTang/Dive-into-DL-PyTorch issue 101"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "nothing")}


def grad_clipping(params, theta):
    norm = sum((param.grad**2).sum() for param in params if param.grad is not None).sqrt()
    if norm > theta:
        for param in params:
            param.grad *= theta / norm


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    grad_clipping(model.parameters(), 1.0)
    optimizer.step()
