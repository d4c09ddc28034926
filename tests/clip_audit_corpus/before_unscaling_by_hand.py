"""The same with a norm of its own, so that no call says which threshold is meant: the loss scale's fall shows it."""

from __future__ import annotations

import torch

SOURCE = "milesial/Pytorch-UNet issue 468, by hand"
RANKS = 1
DIAGNOSIS = {"threshold": ("finding", "before unscaling")}


SCALER = torch.amp.GradScaler("cpu")


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        SCALER.scale(model(batch) / len(micro_batches)).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_(torch.clamp(1.0 / norm, max=1.0))
    SCALER.step(optimizer)
    SCALER.update()
