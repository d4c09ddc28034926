"""The norm of every parameter is clipped by itself, so that the whole may be longer than the threshold."""

from __future__ import annotations

SOURCE = "NYUMedML/headCT_foundation issue 3"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("note", "norm per tensor")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            coefficient = 3.0 / (parameter.grad.norm(2) + 1e-6)
            if coefficient < 1:
                parameter.grad.mul_(coefficient)
    optimizer.step()
