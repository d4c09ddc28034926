"""Correct: FSDP2, whose DTensors make torch's clip take the global norm."""

from __future__ import annotations

from torch.distributed.fsdp import fully_shard
from torch.nn.utils import clip_grad_norm_

SOURCE = ""
RANKS = 2
DIAGNOSIS = {}


def prepare(model, make_optimizer):
    for part in (model.encoder, model.decoder.inner, model.decoder.head, model):
        fully_shard(part)
    return model, make_optimizer(model.parameters())


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
