"""Random crops and mirror images, as a pure function of the images and a few integers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.seeding import generator_for

__all__ = ["crop_and_mirror"]


def crop_and_mirror(images: Tensor, *seed: int, mirrors: bool) -> Tensor:
    """Every image shifted by up to an eighth of its side, over a black border, and mirrored with probability one half.

    For 32 x 32 pixels these are the crops of He et al. (2016), Section 4.2: 4 pixels of padding on each side.

    Args:
        images: Shape (batch, channels, side, side), any type in which 0 is black.
        seed: What the shifts are a function of.
        mirrors: Whether to mirror at all.

    Returns:
        Images of the same shape and type, on the same device, as a view in channels-last order.
    """
    batch, _, side, _ = images.shape
    pad = side // 8
    generator = generator_for(*seed)
    shifts = torch.randint(0, 2 * pad + 1, (2, batch, 1), generator=generator)
    rows, columns = shifts + torch.arange(side)
    if mirrors:
        mirrored = torch.randint(0, 2, (batch, 1), generator=generator).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    samples = torch.arange(batch, device=images.device)
    padded = F.pad(images, (pad, pad, pad, pad))
    # One gather: indices of shape (batch, side, side), channels last.
    cropped = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
