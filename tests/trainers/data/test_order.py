"""Orders, shifts and batches of the probe are the same ones, however they are computed and cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.augment import crop_and_mirror, shifts_of
from trainers.data.order import epoch_order, epochs_on, merged, probe_batches
from trainers.problems import build_problem


@given(count=st.integers(1, 400), size=st.integers(1, 90), largest=st.integers(1, 500))
def test_merged_batches_hold_the_same_samples_in_the_same_order_and_are_of_one_size(
    count: int, size: int, largest: int
) -> None:
    batches = probe_batches(count, 1.0, batch_size=size, fingerprint="x")
    found = merged(batches, largest)
    assert torch.equal(torch.cat(found), torch.cat(batches))
    assert len({len(batch) for batch in found}) == 1
    assert len(found) <= len(batches)
    assert len(found) == len(batches) or len(found[0]) <= largest


def test_what_an_epoch_needs_is_brought_once() -> None:
    brought: list[int] = []

    def plan(epoch: int) -> torch.Tensor:
        brought.append(epoch)
        return epoch_order(5, 0, epoch)

    order_of = epochs_on(torch.device("cpu"), plan)
    for epoch in (0, 0, 1, 0, 1):
        order_of(epoch)
    assert brought == [0, 1]


def test_mirror_images_are_images_read_from_the_other_end() -> None:
    images = torch.arange(2 * 1 * 8 * 8).reshape(2, 1, 8, 8)
    for seed in range(20):
        rows, columns, mirrored = shifts_of(2, 8, seed, mirrors=True)
        found = crop_and_mirror(images, seed, mirrors=True)
        padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
        for k in range(2):
            part = padded[k, :, rows[k] : rows[k] + 8, columns[k] : columns[k] + 8]
            assert torch.equal(found[k], part.flip(2) if mirrored[k] else part)


def test_an_epoch_prepared_for_a_gpu_holds_the_batches_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    options = {"model": {"use": "mlp", "hidden": 4}, "batch_size": 300, "augment": True}
    here = build_problem("image_classification", options, seed=3)

    monkeypatch.setattr("trainers.problems.image_classification._is_cpu", lambda device: False)
    there = build_problem("image_classification", options, seed=3)
    for step in (0, 1, here.steps_per_epoch, 3 * here.steps_per_epoch + 1):
        assert all(torch.equal(one, other) for one, other in zip(here.batch(step), there.batch(step), strict=True))
