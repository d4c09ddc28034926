"""Correct: accumulated without communication, averaged with the last backward, and then clipped."""

from __future__ import annotations

from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

SOURCE = ""
RANKS = 2
DIAGNOSIS = {}


def prepare(model, make_optimizer):
    model = DistributedDataParallel(model)
    return model, make_optimizer(model.parameters())


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    *others, last = micro_batches
    with model.no_sync():
        for batch in others:
            (model(batch) / len(micro_batches)).backward()
    (model(last) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
