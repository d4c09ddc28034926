"""What a GPU computes in few launches is what the CPU computes piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from trainers.update import transforms
from trainers.update.clip_groups import ClipGroups
from trainers.update.norms import norm
from trainers.update.pieces import multiply_runs
from trainers.update.transforms import TRANSFORMS, Direction

SHAPES = [(5, 3), (), (7,), (2, 3, 2), (1,)]


def direction() -> Direction:
    generator = torch.Generator().manual_seed(3)
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    vector, weights = (torch.randn(sum(sizes), generator=generator) for _ in range(2))
    cut = [
        [piece.view(shape) for piece, shape in zip(one.split(sizes), SHAPES, strict=True)] for one in (vector, weights)
    ]
    return Direction(vector=vector, norm=norm(vector), views=cut[0], parameters=cut[1])


def test_units_clipped_together_are_those_clipped_one_by_one() -> None:
    together, apart = direction(), direction()
    scale = transforms._clip_units_together(together, 0.3)
    expected = TRANSFORMS["clip_adaptive"](apart, 0.3)
    assert torch.allclose(together.vector, apart.vector, rtol=1e-6, atol=0)
    assert scale.item() == pytest.approx(expected.item(), rel=1e-6)
    assert 0 < scale.item() < 1


def as_on_a_gpu(vector: Tensor, pieces: Sequence[Tensor], factors: Tensor) -> None:
    multiply_runs(vector, [(1, piece.numel()) for piece in pieces], factors)


def test_layers_and_groups_are_scaled_by_the_same_numbers_in_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.weight", "a.scale", "b.bias", "b.weight", "c"]
    groups = ClipGroups([{"match": "a.*", "clip_norm": 0.5}, {"match": "b.weight", "clip_norm": 1e9}], names)
    for clip in (lambda one: TRANSFORMS["clip_layer_norm"](one, 0.7), groups):
        apart, together = direction(), direction()
        clip(apart)
        with monkeypatch.context() as patch:
            for module in ("transforms", "clip_groups"):
                patch.setattr(f"trainers.update.{module}.multiply_pieces", as_on_a_gpu)
            clip(together)
        assert torch.equal(together.vector, apart.vector)
        assert not torch.equal(apart.vector, direction().vector)


def test_a_group_without_a_threshold_is_left_alone_even_where_it_overflows() -> None:
    one = direction()
    one.vector[-1] = torch.inf
    groups = ClipGroups([{"match": "a", "clip_norm": 0.5}], ["a", "b", "c", "d", "e"])
    groups(one)
    assert one.vector[-1] == torch.inf
