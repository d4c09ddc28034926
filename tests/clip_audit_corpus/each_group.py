"""Every parameter group is clipped by itself."""

from __future__ import annotations

from torch.nn.utils import clip_grad_norm_

SOURCE = "huggingface/transformers pull request 614"
RANKS = 1
DIAGNOSIS = {"what is clipped": ("note", "norm per group")}


def train_step(model, optimizer, micro_batches):
    optimizer.zero_grad()
    for batch in micro_batches:
        (model(batch) / len(micro_batches)).backward()
    for group in optimizer.param_groups:
        clip_grad_norm_(group["params"], 1.0)
    optimizer.step()
