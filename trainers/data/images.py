"""Labelled images: scikit-learn's digits, or CIFAR-10 from its binary or its Python archive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainers.data.decoded import Decoded, decoded
from trainers.data.pickled import read_pickled_batch
from trainers.data.sources import SOURCES, find_folder, image_files, where_it_goes
from trainers.errors import DataError
from trainers.seeding import generator_for

__all__ = ["ImageData", "load_images"]

_SIDE = 32
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE
_NUM_CLASSES = 10
_CIFAR10_IMAGES = (50_000, 10_000)
_SPLIT_SEED = 1797


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """Images and labels in two splits. The tensors are shared by all callers: not to be changed.

    Attributes:
        train_images: uint8, shape (num_images, channels, height, width).
        train_labels: int64, shape (num_images,).
        valid_images: The same of the validation split.
        valid_labels: The same of the validation split.
        num_classes: Labels are below it.
        mirrors: Whether an image's mirror image belongs to the same class.
        fingerprint: Name, counts and hash of all images and labels.
    """

    train_images: Tensor
    train_labels: Tensor
    valid_images: Tensor
    valid_labels: Tensor
    num_classes: int
    mirrors: bool
    fingerprint: str


def load_images(name: str) -> ImageData:
    """A data set by name or directory.

    Args:
        name: ``digits`` for scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, a fifth of them for validation;
            ``cifar10`` for what ``clipsweep data fetch`` brought; or a directory with ``data_batch_*.bin`` and
            ``test_batch.bin``, CIFAR-10's binary format, whole or a subset, a record being a label and 3,072 bytes, red
            before green before blue; or one with ``data_batch_*`` and ``test_batch``, the Python archive. The same
            images have the same fingerprint, whichever archive they come from.

    Returns:
        The data; a second call in the same process costs nothing while the files stay as they are.

    Raises:
        DataError: There is no such data set, it has not been fetched or is incomplete, scikit-learn or a file is
            missing, or a file is not of the format.
    """
    if name == "digits":
        return _digits()
    folder = find_folder(name, "dataset", built_in="digits")
    paths = image_files(folder)
    stamps = tuple((path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    data = _from_files(paths, stamps)
    found = (len(data.train_labels), len(data.valid_labels))
    if name == "cifar10" and found != _CIFAR10_IMAGES:
        raise DataError(
            f"{folder}: {found} images are not CIFAR-10, which has {_CIFAR10_IMAGES}; remove the folder and "
            f"{where_it_goes(SOURCES[name])}"
        )
    return data


@lru_cache(maxsize=2)
def _from_files(paths: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> ImageData:
    """Images from their files; ``stamps`` only tells the cache when they changed."""
    found = decoded("cifar10", paths, lambda: _decode(paths))
    tensors = {name: torch.from_numpy(array) for name, array in found.arrays.items()}
    return ImageData(**tensors, num_classes=_NUM_CLASSES, mirrors=True, fingerprint=found.facts["fingerprint"])


def _decode(paths: Sequence[Path]) -> Decoded:
    """Images and labels of training files and, last, the test file."""
    batches = [_read(path) for path in paths]
    train_images, train_labels = (torch.cat(parts) for parts in zip(*batches[:-1], strict=True))
    # We have no list of the official files' hashes, and subsets are welcome, so this does not claim to be CIFAR-10.
    data = _image_data("cifar10-binary:unverified", train_images, train_labels, *batches[-1], mirrors=True)
    names = ("train_images", "train_labels", "valid_images", "valid_labels")
    arrays = {name: getattr(data, name).numpy() for name in names}
    return Decoded(arrays=arrays, facts={"fingerprint": data.fingerprint})


def _read(path: Path) -> tuple[Tensor, Tensor]:
    """Images and labels of one file."""
    if path.suffix != ".bin":
        return _as_tensors(path, *read_pickled_batch(path))
    data = np.fromfile(path, dtype=np.uint8)
    if len(data) == 0 or len(data) % _RECORD_BYTES:
        raise DataError(
            f"{path}: {len(data)} bytes are no whole number of records of {_RECORD_BYTES} bytes (a label and 3,072 "
            "pixel values): not CIFAR-10's binary format, or cut short"
        )
    records = data.reshape(-1, _RECORD_BYTES)
    return _as_tensors(path, np.ascontiguousarray(records[:, 1:]), records[:, 0])


def _as_tensors(path: Path, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    """Images of three colours one after the other, and labels that are in range."""
    if labels.max() >= _NUM_CLASSES:
        index = int((labels >= _NUM_CLASSES).argmax())
        raise DataError(f"{path}: record {index} has the label {labels[index]}, but CIFAR-10 ends at 9")
    return torch.from_numpy(pixels).reshape(-1, 3, _SIDE, _SIDE), torch.from_numpy(labels.astype(np.int64))


@lru_cache(maxsize=1)
def _digits() -> ImageData:
    """scikit-learn's digits, split four to one."""
    try:
        # Imported here: an optional dependency, and slow to load.
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("dataset 'digits' needs scikit-learn: pip install 'clipsweep[images]'") from error
    bunch = load_digits()
    # Sixteen grey levels and white.
    images = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.randperm(len(labels), generator=generator_for(_SPLIT_SEED))
    valid, train = order[: len(order) // 5], order[len(order) // 5 :]
    return _image_data("digits", images[train], labels[train], images[valid], labels[valid], mirrors=False)


def _image_data(
    name: str, train_images: Tensor, train_labels: Tensor, valid_images: Tensor, valid_labels: Tensor, *, mirrors: bool
) -> ImageData:
    """The data with their fingerprint."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in (train_images, train_labels, valid_images, valid_labels):
        digest.update(str(tuple(tensor.shape)).encode() + tensor.numpy().tobytes())
    return ImageData(
        train_images=train_images,
        train_labels=train_labels,
        valid_images=valid_images,
        valid_labels=valid_labels,
        num_classes=_NUM_CLASSES,
        mirrors=mirrors,
        fingerprint=f"{name}:{len(train_labels)}+{len(valid_labels)}:{digest.hexdigest()}",
    )
