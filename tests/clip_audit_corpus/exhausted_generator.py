"""The parameters are a generator that has been used up by the time of the clip."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "pytorch/pytorch issue 148259"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "nothing: no parameters")}


def train_step(model, optimizer, micro_batches):
    parameters = model.parameters()
    sum(parameter.numel() for parameter in parameters)
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    clip_grad_norm_(parameters, 1.0)
    optimizer.step()
