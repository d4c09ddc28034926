"""Every step computes float32 as its trial says, whatever its process is set to, and leaves that as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.problem import Problem
from trainers.training.arithmetic import ARITHMETICS, autocast_of, training_in
from trainers.training.loop import TrainSettings
from trainers.training.stepper import Stepper
from trainers.update.rule import UpdateRule

GPU, CPU = torch.device("cuda"), torch.device("cpu")
KERNELS = {
    "cuda": [(torch.backends.cuda, "matmul"), (torch.backends.cudnn, "conv"), (torch.backends.cudnn, "rnn")],
    "cpu": [(torch.backends.mkldnn, kernel) for kernel in ("matmul", "conv", "rnn")],
}

modern = pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="switches of each kernel: PyTorch 2.9")


def precisions(kind: str) -> list[str]:
    return [getattr(holder, kernel).fp32_precision for holder, kernel in KERNELS[kind]]


@pytest.fixture
def lowered() -> Iterator[None]:
    """A process in which everything lower is allowed."""
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
    torch.set_float32_matmul_precision("highest")


@modern
def test_ieee_is_full_float32_on_every_kernel_and_tf32_is_a_gpus() -> None:
    # What PyTorch allows cuDNN unless it is told not to: the reason for all this.
    before = [precisions(kind) for kind in KERNELS]
    assert precisions("cuda")[1:] == ["tf32", "tf32"]
    with training_in("ieee", GPU):
        assert set(precisions("cuda")) <= {"ieee", "none"}
    with training_in("bf16", GPU):
        assert set(precisions("cuda")) <= {"ieee", "none"}
    with training_in("tf32", GPU):
        assert set(precisions("cuda")) == {"tf32"}
    with training_in("tf32", CPU):
        assert set(precisions("cpu")) <= {"ieee", "none"}
    assert [precisions(kind) for kind in KERNELS] == before


@modern
@pytest.mark.usefixtures("lowered")
def test_what_a_process_is_set_to_does_not_reach_a_step() -> None:
    with training_in("ieee", CPU):
        assert set(precisions("cpu")) <= {"ieee", "none"}
        assert not torch.is_autocast_enabled("cpu")
    assert precisions("cpu")[0] == "bf16"
    assert torch.is_autocast_enabled("cpu")
    assert torch.get_float32_matmul_precision() == "medium"


@modern
def test_switches_are_put_back_where_the_block_raises() -> None:
    before = precisions("cuda")
    with pytest.raises(KeyError, match="own"), training_in("ieee", GPU):
        raise KeyError("own")
    assert precisions("cuda") == before


class Seen(nn.Module):
    """Notes the type of a product, and what kernels may use, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2))
        self.seen: dict[Any, Any] = {}

    def forward(self, batch: Tensor) -> Tensor:
        product = batch @ self.weight

        def backward(gradient: Tensor) -> None:
            self.seen["backward"] = torch.is_autocast_enabled("cpu")

        product.register_hook(backward)
        self.seen[self.training] = product.dtype
        return product


def seen_in(arithmetic: str) -> dict[Any, Any]:
    def evaluate(model: nn.Module) -> dict[str, float]:
        with torch.enable_grad():
            return {"valid_loss": float(model(torch.ones(2, 2)).mean().detach())}

    model = Seen()
    problem = Problem(
        model=model,
        loss=lambda model, batch, carry: (model(batch).float().square().mean(), carry),
        batch=lambda step: torch.ones(2, 2),
        probe=lambda fraction: [torch.ones(2, 2)],
        evaluate=evaluate,
        steps_per_epoch=5,
        fingerprint="tried",
    )
    stepper = Stepper(problem, UpdateRule(learning_rate=0.1), total_steps=2, seed=0, arithmetic=arithmetic)
    stepper.take(0)
    stepper.evaluate(1)
    return model.seen


@pytest.mark.usefixtures("lowered")
def test_bf16_is_the_loss_alone_and_metrics_are_always_in_full_float32() -> None:
    full, half = torch.float32, torch.bfloat16
    for arithmetic in ARITHMETICS:
        expected = {True: half if arithmetic == "bf16" else full, False: full, "backward": False}
        assert seen_in(arithmetic) == expected, arithmetic


def test_autocast_is_off_again_behind_the_loss() -> None:
    with autocast_of("bf16", CPU):
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


def test_another_arithmetic_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(TrainerError, match="one of ieee, tf32, bf16, not 'fp16'"):
        TrainSettings(steps=1, arithmetic="fp16")
