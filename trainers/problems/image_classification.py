"""Classify small images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.data.augment import crop_and_mirror, cropped, shifts_of
from trainers.data.images import load_images
from trainers.data.order import epoch_order, epochs_on, merged, probe_batches, probe_share
from trainers.errors import TrainerError
from trainers.models.dense import logistic_regression, mlp
from trainers.models.resnet import resnet18, resnet20
from trainers.options import call_factory, choose
from trainers.problem import Batch, Carry, Problem

__all__ = ["DEFAULT_MODEL", "MODELS", "image_classification"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet18": resnet18,
    "mlp": mlp,
    "logistic_regression": logistic_regression,
}

DEFAULT_MODEL: Mapping[str, Any] = {"use": "resnet20", "width": 16}

_EVALUATE_IMAGES, _EVALUATE_IMAGES_ON_GPU = 500, 2000
_PROBE_IMAGES_ON_GPU = 512


def image_classification(
    *,
    dataset: str = "digits",
    model: Mapping[str, Any] = DEFAULT_MODEL,
    batch_size: int = 128,
    augment: bool = False,
    evaluate_fraction: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
) -> Problem:
    """Cross-entropy over labelled images, normalised by mean and standard deviation of each channel.

    Every epoch visits the images in a new order; a last incomplete batch is left out. The probe's batches have
    exactly the size of training's, whatever its share of the data, so that batch normalisation sees as many images:
    the share is rounded to whole batches, at least one. On a GPU, and without batch normalisation, the same images come
    in larger batches, which changes f by no more than rounding.

    Args:
        dataset: As :func:`trainers.data.images.load_images` takes it.
        model: ``use`` names one of :data:`MODELS`, the rest are its options.
        batch_size: Images per step.
        augment: Shift training images at random, and mirror them where that keeps their meaning. Never applied to the
            probe.
        evaluate_fraction: Share of the validation images that is evaluated, from the first, in (0, 1].
        seed: Of order and augmentation. The initial weights come from torch's global generator.
        device: Where the data live.

    Returns:
        The problem, with the metrics ``valid_loss`` in nats and ``valid_accuracy`` in [0, 1].

    Raises:
        TrainerError: An option is out of range.
        DataError: The data cannot be read.
    """
    if not 0 < evaluate_fraction <= 1:
        raise TrainerError(f"image_classification: evaluate_fraction must lie in (0, 1], not {evaluate_fraction!r}")
    data = load_images(dataset)
    num_images, channels, side, _ = data.train_images.shape
    if not 1 <= batch_size <= num_images:
        raise TrainerError(f"image_classification: batch_size must lie in 1..{num_images} (images), not {batch_size!r}")
    options = dict(model)
    use = options.pop("use", "resnet20")
    offered = {"channels": channels, "side": side, "num_classes": data.num_classes}
    network = call_factory(choose(MODELS, use, "model"), options, offered, called=f"model {use!r}")
    images, labels = data.train_images.to(device), data.train_labels.to(device)
    num_evaluated = math.ceil(evaluate_fraction * len(data.valid_labels))
    valid_images, valid_labels = (part[:num_evaluated].to(device) for part in (data.valid_images, data.valid_labels))
    mean, deviation = (part.to(device) for part in _moments(data.train_images))
    steps_per_epoch = num_images // batch_size
    here = torch.device(device)
    is_cpu = _is_cpu(here)
    order_of = epochs_on(here, lambda epoch: epoch_order(num_images, seed, epoch))
    # Otherwise the loss of an image depends on the others of its batch.
    mixes = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    num_at_once = _EVALUATE_IMAGES if is_cpu else _EVALUATE_IMAGES_ON_GPU

    def shifts_of_epoch(epoch: int) -> Tensor:
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        return torch.stack([shifts_of(batch_size, side, seed, step, mirrors=data.mirrors) for step in steps])

    shifts_in = epochs_on(here, shifts_of_epoch)

    def normalized(pixels: Tensor) -> Tensor:
        return (pixels.float() - mean) / deviation

    def batch(step: int) -> Batch:
        epoch, index = divmod(step, steps_per_epoch)
        chosen = order_of(epoch)[index * batch_size : (index + 1) * batch_size]
        pixels = images[chosen]
        if augment and is_cpu:
            pixels = crop_and_mirror(pixels, seed, step, mirrors=data.mirrors)
        elif augment:
            pixels = cropped(pixels, shifts_in(epoch)[index])
        return normalized(pixels), labels[chosen]

    def probe(fraction: float, draw: int = 0) -> Iterable[Batch]:
        chosen_ones = probe_batches(
            num_images, fraction, batch_size=batch_size, fingerprint=data.fingerprint, draw=draw
        )
        for chosen in chosen_ones if is_cpu or mixes else merged(chosen_ones, _PROBE_IMAGES_ON_GPU):
            yield normalized(images[chosen.to(device)]), labels[chosen.to(device)]

    def evaluate(model: nn.Module) -> dict[str, float]:
        loss = torch.zeros((), dtype=torch.float64, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        for pixels, wanted in zip(
            torch.split(valid_images, num_at_once), torch.split(valid_labels, num_at_once), strict=True
        ):
            logits = model(normalized(pixels))
            loss += F.cross_entropy(logits, wanted, reduction="sum")
            correct += (logits.argmax(1) == wanted).sum()
        count = len(valid_labels)
        return {"valid_loss": loss.item() / count, "valid_accuracy": correct.item() / count}

    return Problem(
        model=network,
        loss=_loss,
        batch=batch,
        probe=probe,
        probe_share=partial(probe_share, num_images, batch_size=batch_size),
        evaluate=evaluate,
        metrics={"valid_loss": "min", "valid_accuracy": "max"},
        steps_per_epoch=steps_per_epoch,
        fingerprint=data.fingerprint,
    )


def _is_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


def _loss(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
    """Mean cross-entropy per image."""
    pixels, labels = batch
    return F.cross_entropy(model(pixels), labels), carry


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all pixels, shape (channels, 1, 1) each."""
    # From counts of the 256 values, exactly: no copy of all images in floating point.
    values = torch.arange(256, dtype=torch.float64)
    moments = []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * values).sum()
        moments.append((mean, (share * (values - mean).square()).sum().sqrt()))
    mean, deviation = (torch.tensor(part).float()[:, None, None] for part in zip(*moments, strict=True))
    return mean, deviation
