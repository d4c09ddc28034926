"""What a trial tries of its batches before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.training.purity import require_pure_batches

CPU = torch.device("cpu")


def problem_with(batch: Callable[[int], Any]) -> Problem:
    return Problem(
        model=nn.Linear(1, 1),
        loss=lambda model, batch, carry: (model(batch).mean(), carry),
        batch=batch,
        probe=lambda fraction: [torch.ones(4, 1)],
        steps_per_epoch=5,
        fingerprint="tried",
    )


def tried(batch: Callable[[int], Any], *, step: int = 0, steps: int = 10) -> list[int]:
    """The steps whose batches were asked for."""
    asked: list[int] = []

    def asking(k: int) -> Any:
        asked.append(k)
        return batch(k)

    require_pure_batches(problem_with(asking), batch=step, batches=steps, seed=7, device=CPU)
    return asked


def pure(step: int) -> torch.Tensor:
    return torch.randn(4, 1, generator=torch.Generator().manual_seed(step))


def test_three_batches_are_drawn_from_where_the_attempt_begins() -> None:
    assert tried(pure) == [0, 1, 0]
    assert tried(pure, step=6) == [6, 7, 6]


def test_no_batch_beyond_the_last_step_is_asked_for() -> None:
    assert tried(pure, steps=1) == [0, 0]
    assert tried(pure, step=9) == [9, 9]
    assert tried(pure, step=10) == []


def iterator() -> Callable[[int], torch.Tensor]:
    rows = iter(torch.arange(100.0)[:, None].split(4))
    return lambda step: next(rows)


def own_generator() -> Callable[[int], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda step: torch.randn(4, 1, generator=generator)


def one_ahead() -> Callable[[int], torch.Tensor]:
    """The same when it is called twice in a row, but not after another step."""
    last = [0]

    def batch(step: int) -> torch.Tensor:
        last[0], before = step, last[0]
        return torch.full((4, 1), float(before))

    return batch


def one_buffer() -> Callable[[int], torch.Tensor]:
    """Returns the same memory each time, so that the first batch changes with the second."""
    rows, buffer = iter(range(100)), torch.zeros(4, 1)
    return lambda step: buffer.fill_(next(rows))


@pytest.mark.parametrize("impure", [iterator, own_generator, one_ahead, one_buffer])
def test_batches_that_depend_on_earlier_calls_are_refused(impure: Callable[[], Callable[[int], Any]]) -> None:
    with pytest.raises(TrainerError, match=r"^batch\(3\) is different when .* again, after batch\(4\): by up to"):
        tried(impure(), step=3)


def test_the_message_names_the_part_and_how_to_mend_it() -> None:
    rows = iter(range(100))
    with pytest.raises(TrainerError, match=r"part \[1\] by up to 2\. .*manual_seed.*seed and step.*clipsweep check"):
        tried(lambda step: (torch.ones(4, 1), torch.full((4,), next(rows))))


def test_what_is_drawn_from_torch_s_global_generator_repeats_as_in_training() -> None:
    """Training seeds it before every batch, so that a trial which draws from it can be resumed."""
    assert tried(lambda step: torch.randn(4, 1)) == [0, 1, 0]


def test_missing_values_are_equal_to_themselves() -> None:
    assert tried(lambda step: torch.full((4, 1), float("nan"))) == [0, 1, 0]


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(TrainerError, match=r"batch\(8\) holds no example.*step % steps_per_epoch"):
        tried(lambda step: torch.ones(20, 1)[4 * step : 4 * step + 4], step=8)
