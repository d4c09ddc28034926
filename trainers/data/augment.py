"""Random crops and mirror images, as a pure function of the images and a few integers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.seeding import generator_for

__all__ = ["crop_and_mirror", "cropped", "shifts_of"]


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
    return cropped(images, shifts_of(batch, side, *seed, mirrors=mirrors).to(images.device))


def shifts_of(batch: int, side: int, *seed: int, mirrors: bool) -> Tensor:
    """By how much :func:`crop_and_mirror` shifts each image of a batch, and which it mirrors.

    Args:
        batch: Number of images.
        side: Of an image, in pixels.
        seed: What the shifts are a function of.
        mirrors: Whether to mirror at all.

    Returns:
        First row, first column, and 1 for a mirror image, int64, shape (3, batch).

    Example:
        >>> shifts_of(3, 8, 0, mirrors=False).shape
        torch.Size([3, 3])
    """
    generator = generator_for(*seed)
    shifts = torch.randint(0, 2 * (side // 8) + 1, (2, batch), generator=generator)
    mirrored = torch.randint(0, 2, (batch,), generator=generator) if mirrors else shifts.new_zeros(batch)
    return torch.cat([shifts, mirrored[None]])


def cropped(images: Tensor, shifts: Tensor) -> Tensor:
    """Images shifted and mirrored.

    Args:
        images: As for :func:`crop_and_mirror`.
        shifts: As :func:`shifts_of` gives them, on the images' device.

    Returns:
        What :func:`crop_and_mirror` returns.
    """
    batch, _, side, _ = images.shape
    pad = side // 8
    pixels = torch.arange(side, device=images.device)
    rows = shifts[0, :, None] + pixels
    # A mirror image counts its columns from the other end.
    columns = shifts[1, :, None] + (shifts[2, :, None] * (side - 1) - pixels).abs()
    samples = torch.arange(batch, device=images.device)
    padded = F.pad(images, (pad, pad, pad, pad))
    # One gather: indices of shape (batch, side, side), channels last.
    found = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2)
