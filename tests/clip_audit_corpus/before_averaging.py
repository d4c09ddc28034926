"""Every rank clips its own gradient before they are averaged."""

from __future__ import annotations

import torch.distributed as dist
from torch.nn.utils import clip_grad_norm_

SOURCE = "mindspore-lab/mindcv issue 603"
RANKS = 2
DIAGNOSIS = {"what is clipped": ("finding", "global norm, local")}


def prepare(model, make_optimizer):
    return model, make_optimizer(model.parameters())


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    optimizer.step()
