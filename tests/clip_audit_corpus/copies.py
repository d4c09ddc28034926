"""What is clipped are copies of the parameters, not those that the optimizer has."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "fastai/fastai2 issue 528"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("finding", "nothing: other tensors")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    masters = [parameter.detach().clone() for parameter in model.parameters()]
    for master, parameter in zip(masters, model.parameters(), strict=True):
        master.grad = None if parameter.grad is None else parameter.grad.clone()
    clip_grad_norm_(masters, 1.0)
    optimizer.step()
