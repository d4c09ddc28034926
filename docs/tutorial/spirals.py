"""Three spirals and a small network."""

import torch
from torch import nn
from trainers.problem import Problem


def spirals(count: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    radius = torch.rand(count, generator=generator)
    angle = 5 * radius + 2.1 * labels + noise * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), labels


inputs, labels = spirals(1200)
train_x, train_y, valid_x, valid_y = inputs[:1000], labels[:1000], inputs[1000:], labels[1000:]


def problem(*, seed: int, device: str, width: int = 64) -> Problem:
    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 * seed + step // 20)
        rows = torch.randperm(len(train_x), generator=generator).split(50)[step % 20]
        return train_x[rows], train_y[rows]

    held_x, held_y = valid_x.to(device), valid_y.to(device)
    return Problem(
        model=nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)),
        loss=lambda model, batch, carry: (nn.functional.cross_entropy(model(batch[0]), batch[1]), carry),
        batch=batch,
        probe=lambda fraction: [(train_x[: int(1000 * fraction)], train_y[: int(1000 * fraction)])],
        evaluate=lambda model: {"valid_loss": float(nn.functional.cross_entropy(model(held_x), held_y))},
        steps_per_epoch=20,
        fingerprint="spirals-1200",
    )
