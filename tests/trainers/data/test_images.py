"""Images from files, their augmentation, and the network that names them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trainers.data.images
from trainers.data.augment import crop_and_mirror
from trainers.data.images import load_images
from trainers.data.order import epoch_order, probe_batches, probe_share, probe_subset
from trainers.errors import DataError, TrainerError
from trainers.models.resnet import resnet18, resnet20
from trainers.problems import build_problem


def write_batch(path: Path, labels: list[int]) -> np.ndarray:
    records = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 3073)).astype(np.uint8)
    records[:, 0] = labels
    path.write_bytes(records.tobytes())
    return records


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    write_batch(tmp_path / "data_batch_1.bin", [3, 1, 4, 1])
    write_batch(tmp_path / "data_batch_2.bin", [5, 9])
    write_batch(tmp_path / "test_batch.bin", [2, 6, 5])
    return tmp_path


def test_the_binary_format_is_read_label_first_then_red_green_blue(cifar: Path) -> None:
    records = write_batch(cifar / "data_batch_1.bin", [3, 1, 4, 1])
    data = load_images(str(cifar))
    assert data.train_labels.tolist() == [3, 1, 4, 1, 5, 9]
    assert data.valid_labels.tolist() == [2, 6, 5]
    assert data.train_images.shape == (6, 3, 32, 32)
    assert data.train_images[2, 1, 5, 7] == records[2, 1 + 1024 + 5 * 32 + 7]
    assert "unverified:6+3" in data.fingerprint


def test_other_pixels_have_another_fingerprint(cifar: Path) -> None:
    first = load_images(str(cifar))
    assert load_images(str(cifar)) is first
    write_batch(cifar / "data_batch_2.bin", [5, 9, 1])
    assert load_images(str(cifar)).fingerprint != first.fingerprint


def test_folders_and_files_that_are_not_of_the_format_are_refused(cifar: Path) -> None:
    with pytest.raises(DataError, match="unknown dataset 'mnist': neither 'digits' or 'cifar10' nor a directory"):
        load_images("mnist")
    (cifar / "data_batch_2.bin").write_bytes(b"\0" * 3074)
    with pytest.raises(DataError, match=r"data_batch_2\.bin: 3074 bytes are no whole number of records"):
        load_images(str(cifar))
    write_batch(cifar / "data_batch_2.bin", [1, 10])
    with pytest.raises(DataError, match="record 1 has the label 10"):
        load_images(str(cifar))
    (cifar / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"looked for data_batch_\*\.bin and test_batch\.bin"):
        load_images(str(cifar))


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setattr(trainers.data.images, "_digits", trainers.data.images._digits.__wrapped__)
    with pytest.raises(DataError, match=r"pip install 'clipsweep\[images\]'"):
        load_images("digits")


def test_training_inputs_are_normalised_by_channel(cifar: Path) -> None:
    problem = build_problem(
        "image_classification", {"dataset": str(cifar), "batch_size": 6, "model": {"width": 2}}, seed=0
    )
    images, _ = problem.batch(0)
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_an_epoch_visits_every_image_once_and_the_next_one_in_another_order(cifar: Path) -> None:
    options = {"dataset": str(cifar), "batch_size": 2, "model": {"width": 2}}
    problem = build_problem("image_classification", options, seed=0)
    assert problem.steps_per_epoch == 3
    epoch = torch.cat([problem.batch(step)[1] for step in range(3)])
    assert sorted(epoch.tolist()) == [1, 1, 3, 4, 5, 9]
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_a_batch_larger_than_the_data_is_refused(cifar: Path) -> None:
    with pytest.raises(TrainerError, match=r"batch_size must lie in 1\.\.6 \(images\), not 7"):
        build_problem("image_classification", {"dataset": str(cifar), "batch_size": 7}, seed=0)


def test_crops_are_shifts_by_up_to_an_eighth_over_black() -> None:
    images = torch.arange(1, 1 + 40 * 32 * 32).reshape(40, 1, 32, 32)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    cropped = crop_and_mirror(images, 1, 2, mirrors=True)
    shifts = set()
    for index in range(40):
        found = {
            (row, column, mirrored)
            for row in range(9)
            for column in range(9)
            for mirrored in (False, True)
            if torch.equal(
                padded[index, :, row : row + 32, column : column + 32].flip(2)
                if mirrored
                else padded[index, :, row : row + 32, column : column + 32],
                cropped[index],
            )
        }
        assert len(found) == 1
        shifts |= found
    assert {mirrored for _, _, mirrored in shifts} == {False, True}
    assert len({row for row, _, _ in shifts}) > 4
    assert torch.equal(crop_and_mirror(images, 1, 2, mirrors=True), cropped)
    assert not torch.equal(crop_and_mirror(images, 1, 3, mirrors=True), cropped)


def test_resnet20_has_twenty_layers_and_the_known_number_of_parameters() -> None:
    model = resnet20(width=16, channels=3, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
    assert sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in model.modules()) == 20
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_resnet18_has_eighteen_layers_beside_its_shortcuts_and_the_known_number_of_parameters() -> None:
    model = resnet18(channels=3, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    layers = [
        m for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) and "cut" not in n
    ]
    assert len(layers) == 18
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert model.blocks(model.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 512, 4, 4)


def test_shortcuts_take_every_other_pixel_and_fill_up_with_zeros() -> None:
    block = resnet20(width=2, channels=1, num_classes=3).blocks[3].eval()
    torch.nn.init.zeros_(block.second_norm.weight)
    images = torch.rand(1, 2, 8, 8)
    expected = torch.cat([torch.zeros(1, 1, 4, 4), images[:, :, ::2, ::2], torch.zeros(1, 1, 4, 4)], dim=1)
    assert torch.equal(block(images), expected)


def test_probes_are_random_nested_and_never_the_first_contiguous_part() -> None:
    small, large = (probe_subset(1000, share, fingerprint="data").tolist() for share in (0.1, 0.3))
    assert len(small) == len(set(small)) == 100
    assert set(small) < set(large)
    assert sorted(small) != list(range(100))
    assert max(small) > 800
    assert probe_subset(1000, 0.1, fingerprint="other data").tolist() != small


@given(count=st.integers(1, 700), size=st.integers(1, 150), fraction=st.floats(0.001, 1), smaller=st.booleans())
def test_probe_batches_have_one_size_whatever_the_fraction(
    count: int, size: int, fraction: float, smaller: bool
) -> None:
    batches = probe_batches(count, fraction, batch_size=size, fingerprint="data", smaller=smaller)
    chosen = torch.cat(batches).tolist()
    wanted = max(1, round(fraction * count))
    assert len(chosen) == len(set(chosen))
    assert len(chosen) / count == probe_share(count, fraction, batch_size=size, smaller=smaller)
    if count < size or (smaller and wanted < size):
        assert [len(batch) for batch in batches] == [wanted], "one smaller batch of just the share"
        return
    assert {len(batch) for batch in batches} == {size}
    whole = count // size
    assert abs(len(batches) - fraction * count / size) < 1 or len(batches) in {1, whole}
    more = torch.cat(probe_batches(count, 1.0, batch_size=size, fingerprint="data")).tolist()
    assert more[: len(chosen)] == chosen, "a larger fraction contains the smaller one's samples"


@pytest.mark.parametrize("batch_size", [32, 96, 128])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.25, 0.5, 1.0])
def test_batches_of_an_image_probe_are_exactly_those_of_training(batch_size: int, fraction: float) -> None:
    problem = build_problem(
        "image_classification", {"model": {"use": "logistic_regression"}, "batch_size": batch_size}, seed=0
    )
    shapes = [pixels.shape for pixels, _ in problem.probe(fraction)]
    assert set(shapes) == {problem.batch(0)[0].shape}
    assert len(shapes) <= problem.steps_per_epoch
    num_images = len(load_images("digits").train_labels)
    assert problem.probe_share is not None
    assert problem.probe_share(fraction) == len(shapes) * batch_size / num_images
    assert abs(problem.probe_share(fraction) - fraction) <= batch_size / num_images


def test_the_real_subset_of_cifar_10_is_read(real_data: Path) -> None:
    data = load_images(str(real_data / "cifar10-subset"))
    assert data.train_images.shape == (5000, 3, 32, 32)
    assert torch.bincount(data.valid_labels).tolist() == [100] * 10
