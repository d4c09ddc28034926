"""The norm is that of the shard which a rank of FSDP holds, not that of the whole gradient."""

from __future__ import annotations

import torch
from torch.distributed.fsdp import fully_shard

SOURCE = "pytorch/pytorch issue 72548"
RANKS = 2
DIAGNOSIS = {"what is clipped": ("finding", "norm per shard")}


def prepare(model, make_optimizer):
    for part in (model.encoder, model.decoder.inner, model.decoder.head, model):
        fully_shard(part)
    return model, make_optimizer(model.parameters())


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    gradients = [parameter.grad.to_local() for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_(torch.clamp(1.0 / (norm + 1e-6), max=1.0))
    optimizer.step()
