"""A small problem with everything that could notice a monitor, and a writer that keeps rows in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators.monitor.writer import Block


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.outcome: str | None = None
        self.error: str | None = None

    def write(self, block: Block) -> bool:
        self.blocks.append(block)
        return True

    def end(self, block: Block, *, outcome: str, error: str | None = None) -> None:
        self.blocks.append(block)
        self.outcome, self.error = outcome, error

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [row for block in self.blocks for row in block.metrics]

    def measured(self, name: str = "directional_smoothness") -> list[dict[str, Any]]:
        return [row for block in self.blocks for row in block.measurements.get(name, [])]


@pytest.fixture
def kept() -> Kept:
    return Kept()


def noticing_model() -> nn.Module:
    """Dropout, batch-norm and a frozen layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.3), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1)
    )
    for parameter in model[4].parameters():
        parameter.requires_grad_(False)
    return model


def mean_square(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def some_batches(count: int, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    inputs = [torch.randn(size, 6, generator=draw) for _ in range(count)]
    return [(x, x[:, :1].sin() + 0.1 * torch.randn(size, 1, generator=draw)) for x in inputs]
