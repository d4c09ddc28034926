"""Three spirals and a small network."""

import torch
from torch import nn


def spirals(count: int, noise: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    radius = torch.rand(count, generator=generator)
    angle = 5 * radius + 2.1 * labels + noise * torch.randn(count, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), labels


inputs, labels = spirals(1200)
train_x, train_y, valid_x, valid_y = inputs[:1000], labels[:1000], inputs[1000:], labels[1000:]

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

for epoch in range(20):
    order = torch.randperm(len(train_x))
    for rows in order.split(50):
        loss = nn.functional.cross_entropy(model(train_x[rows]), train_y[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
    with torch.no_grad():
        valid = nn.functional.cross_entropy(model(valid_x), valid_y)
    print(f"epoch {epoch}: training loss {loss:.3f}, validation loss {valid:.3f}")
