"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.sizes import check_sizes

__all__ = ["ResNet", "resnet18", "resnet20"]


class ResNet(nn.Module):
    """A residual network of basic blocks (He et al., 2016): stages, each with half the side and twice the channels.

    Args:
        blocks: Number of blocks of each stage; twice their sum and two more is the depth.
        width: Channels of the first stage.
        projected: Where a stage begins, shortcuts are 1 x 1 convolutions with batch normalisation (option B). Otherwise
            they have no parameters (option A): every other pixel, padded with zeros.
        channels: Channels of the images.
        num_classes: Number of outputs.

    Raises:
        TrainerError: ``width`` is not positive.
    """

    def __init__(self, *, blocks: Sequence[int], width: int, projected: bool, channels: int, num_classes: int) -> None:
        super().__init__()
        check_sizes("resnet", width=width)
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        inputs, stages = width, []
        for stage, count in enumerate(blocks):
            outputs = width << stage
            for index in range(count):
                stages.append(_Block(inputs, outputs, stride=2 if stage and not index else 1, projected=projected))
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

    def __init__(self, inputs: int, outputs: int, *, stride: int, projected: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self._stride = stride
        self._new_channels = outputs - inputs
        self.shortcut = None
        if projected and self._new_channels:
            convolution = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.first_norm(self.first(images)))
        features = self.second_norm(self.second(features))
        return F.relu(features + self._around(images))

    def _around(self, images: Tensor) -> Tensor:
        if self.shortcut is not None:
            return self.shortcut(images)  # type: ignore[no-any-return]
        images = images[:, :, :: self._stride, :: self._stride]
        if not self._new_channels:
            return images
        below = self._new_channels // 2
        return F.pad(images, (0, 0, 0, 0, below, self._new_channels - below))


def resnet20(*, width: int = 16, channels: int, num_classes: int) -> ResNet:
    """The network of 20 layers for CIFAR-10, Section 4.2 of He et al. (2016); 0.27 million parameters at ``width`` 16.

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
    return ResNet(blocks=(3, 3, 3), width=width, projected=False, channels=channels, num_classes=num_classes)


def resnet18(*, width: int = 64, channels: int, num_classes: int) -> ResNet:
    """The network of 18 layers with a 3 x 3 stem, as is usual for CIFAR-10; 11.17 million parameters at ``width`` 64.

    Args:
        width: Channels of the first of four stages.
        channels: Channels of the images.
        num_classes: Number of outputs.

    Returns:
        The network, freshly initialised.

    Example:
        >>> sum(p.numel() for p in resnet18(channels=3, num_classes=10).parameters())
        11173962
    """
    return ResNet(blocks=(2, 2, 2, 2), width=width, projected=True, channels=channels, num_classes=num_classes)
