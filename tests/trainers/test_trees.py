"""Trees of tensors: what differs, and what is empty."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from trainers.trees import first_difference, holds_nothing

Pair = namedtuple("Pair", "inputs targets")
NAN = torch.tensor([1.0, float("nan")])
ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    "tree",
    [
        ONES,
        NAN,
        (NAN, [ONES, {"a": ONES.bool()}], None, "text", 3, float("nan")),
        Pair(ONES, ONES.long()),
        np.array([1.0, np.nan]),
        ONES.to_sparse(),
        ONES.to(torch.complex64),
        ONES.to(torch.bfloat16),
        torch.empty(0, 3),
    ],
)
def test_a_tree_equals_its_copy(tree: Any) -> None:
    def copied(tree: Any) -> Any:
        return (
            tree.clone()
            if isinstance(tree, torch.Tensor)
            else type(tree)(*map(copied, tree))
            if isinstance(tree, Pair)
            else type(tree)(map(copied, tree))
            if isinstance(tree, tuple | list)
            else tree
        )

    assert first_difference(tree, copied(tree)) == ""


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (ONES, ONES + 0.25, "by up to 0.25"),
        (NAN, torch.tensor([1.0, 2.0]), "by up to nan"),
        (ONES, ONES[:1], "has shape (2, 3) and shape (1, 3)"),
        (ONES, ONES.double(), "is torch.float32 and torch.float64"),
        (ONES.bool(), torch.tensor([[True, True, True], [True, False, False]]), "in 2 of 6 places"),
        (torch.arange(3), torch.tensor([0, 1, 7]), "by up to 5"),
        ([ONES, (ONES, ONES)], [ONES, (ONES, ONES * 3)], "part [1][1] by up to 2"),
        (Pair(ONES, ONES), Pair(ONES, 2 * ONES), "part [1] by up to 1"),
        ({"x": ONES, "y": ONES}, {"x": ONES, "z": ONES}, "has 2 and 2 keys of other names"),
        ([ONES], [ONES, ONES], "has 1 and 2 parts"),
        ((ONES, 3), (ONES, 4), "part [1] is 3 and 4"),
        ((ONES, None), (ONES, ONES), "part [1] is a NoneType and a Tensor"),
        (np.ones(2), np.zeros(2), "has other numbers"),
        (ONES.to_sparse(), (2 * ONES).to_sparse(), "by up to 1"),
    ],
)
def test_where_two_trees_differ_is_told(one: Any, other: Any, found: str) -> None:
    assert first_difference(one, other) == found


def test_objects_of_unknown_kinds_are_not_called_different() -> None:
    """Two objects are unequal by default, whatever they hold."""
    assert first_difference((object(), ONES), (object(), ONES)) == ""


@pytest.mark.parametrize(
    ("tree", "nothing"),
    [
        (ONES[:0], True),
        ((ONES[:0], torch.empty(0)), True),
        ((ONES, torch.empty(0)), False),
        ({"x": ONES}, False),
        (None, False),
        (7, False),
    ],
)
def test_a_batch_whose_tensors_are_all_empty_holds_nothing(tree: Any, nothing: bool) -> None:
    assert holds_nothing(tree) == nothing
