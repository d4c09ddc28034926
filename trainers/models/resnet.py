"""Residual networks for small images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.errors import TrainerError

__all__ = ["ResNet", "resnet20"]


class ResNet(nn.Module):
    """The residual network of He et al. (2016), Section 4.2, for CIFAR-10: three stages of basic blocks.

    Shortcuts are free of parameters (option A): where a stage halves the image and doubles the channels, they take
    every other pixel and fill up with zeros.

    Args:
        blocks: Blocks a stage; 6 blocks + 2 is the depth.
        width: Channels of the first stage; the others have two and four times as many.
        channels: Channels of the images.
        num_classes: Number of outputs.

    Raises:
        TrainerError: ``width`` is not positive.
    """

    def __init__(self, *, blocks: int, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        if width < 1:
            raise TrainerError(f"resnet: width must be at least 1, not {width!r}")
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        inputs, stages = width, []
        for outputs in (width, 2 * width, 4 * width):
            for index in range(blocks):
                stages.append(_Block(inputs, outputs, stride=2 if index == 0 and outputs != width else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes), of images of shape (batch, channels, side, side)."""
        features = F.relu(self.norm(self.stem(images.contiguous(memory_format=torch.channels_last))))
        return self.head(self.blocks(features).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self._stride = stride
        self._new_channels = outputs - inputs

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.first_norm(self.first(images)))
        features = self.second_norm(self.second(features))
        shortcut = images[:, :, :: self._stride, :: self._stride]
        if self._new_channels:
            below = self._new_channels // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, below, self._new_channels - below))
        return F.relu(features + shortcut)


def resnet20(*, width: int = 16, channels: int, num_classes: int) -> ResNet:
    """The network of 20 layers; 0.27 million parameters at ``width`` 16 and three channels.

    Args:
        width: Channels of the first stage.
        channels: Channels of the images.
        num_classes: Number of outputs.

    Returns:
        The network, freshly initialised.

    Example:
        >>> sum(p.numel() for p in resnet20(channels=3, num_classes=10).parameters())
        269722
    """
    return ResNet(blocks=3, width=width, channels=channels, num_classes=num_classes)
