"""Shared by the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainers.problem import Batch, Carry, Problem

torch.set_num_threads(1)


class Point(nn.Module):
    """Nothing but a point in parameter space."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start.clone())


@pytest.fixture
def problem_of() -> Callable[..., Problem]:
    """Makes a problem from a function of the point and the step."""

    def make(
        function: Callable[[Tensor, int], Tensor], *, start: float | list[float] = 1.0, steps_per_epoch: int = 5
    ) -> Problem:
        initial = torch.tensor(start, dtype=torch.float64).reshape(-1)

        def loss(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
            return function(model.x, int(batch)), carry

        return Problem(
            model=Point(initial),
            loss=loss,
            batch=torch.tensor,
            probe=lambda fraction: [torch.tensor(0)],
            evaluate=lambda model: {"distance": model.x.norm().item()},
            steps_per_epoch=steps_per_epoch,
            fingerprint="none",
        )

    return make


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A folder with three tiny texts."""
    (tmp_path / "train.txt").write_text("a b a\nc a\n" * 20)
    (tmp_path / "valid.txt").write_text("a b\n" * 5)
    (tmp_path / "test.txt").write_text("c <unk>\n" * 5)
    return tmp_path
