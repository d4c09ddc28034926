"""Under no_sync every rank clips what it has accumulated, and only then are ranks averaged."""

from __future__ import annotations

from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

SOURCE = "swathikirans/GSM issue 22, under DistributedDataParallel.no_sync"
RANKS = 2
DIAGNOSIS = {
    "what is clipped": ("finding", "global norm, running, then end"),
    "how often": ("finding", "at several places"),
}


def prepare(model, make_optimizer):
    model = DistributedDataParallel(model)
    return model, make_optimizer(model.parameters())


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    *others, last = micro_batches
    for batch in others:
        with model.no_sync():
            (model(batch) / len(micro_batches)).backward()
        clip_grad_norm_(model.parameters(), 1.0)
    (model(last) / len(micro_batches)).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
