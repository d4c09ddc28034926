"""Predict the next token of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.data.order import equal_chunks, probe_subset
from trainers.data.text import load_corpus
from trainers.errors import TrainerError
from trainers.models.lstm import LSTMLanguageModel
from trainers.options import call_factory, choose
from trainers.problem import Batch, Carry, Problem
from trainers.trees import map_tensors

__all__ = ["DEFAULT_MODEL", "MODELS", "language_modeling"]

MODELS: dict[str, Callable[..., nn.Module]] = {"lstm": LSTMLanguageModel}

DEFAULT_MODEL: Mapping[str, Any] = {
    "use": "lstm",
    "layers": 2,
    "hidden": 200,
    "embedding": 200,
    "tied": True,
    "dropout": 0.0,
}

# Larger than a training batch: a gradient over more sequences at a time is cheaper a token.
_PROBE_SEQUENCES = 80


def language_modeling(
    *,
    corpus: str = "python-docs",
    model: Mapping[str, Any] = DEFAULT_MODEL,
    batch_size: int = 20,
    sequence_length: int = 35,
    evaluate_sequences: int = 20,
    seed: int = 0,
    device: str = "cpu",
) -> Problem:
    """Truncated back-propagation through time over a text cut into parallel streams.

    The loss is the mean cross-entropy in nats a token. The hidden state is carried from batch to batch along the
    streams and starts at zero in every epoch. For f, the training text is cut into separate sequences whose state
    starts at zero, so that its gradient is exact.

    Args:
        corpus: As :func:`trainers.data.text.load_corpus` takes it.
        model: ``use`` names one of :data:`MODELS`, the rest are its options.
        batch_size: Number of parallel streams.
        sequence_length: Tokens a stream and step.
        evaluate_sequences: Number of parallel streams into which the validation text is cut; a few tokens that fill
            no row are left out.
        seed: Unused: batches follow the text. The initial weights come from torch's global generator.
        device: Where the data live.

    Returns:
        The problem, with the metric ``valid_loss``.

    Raises:
        TrainerError: An option is out of range, or the text is too short for it.
        DataError: The corpus cannot be read.
    """
    sizes = {"batch_size": batch_size, "sequence_length": sequence_length, "evaluate_sequences": evaluate_sequences}
    for name, size in sizes.items():
        if size < 1:
            raise TrainerError(f"language_modeling: {name} must be at least 1, not {size!r}")
    text = load_corpus(corpus)
    options = dict(model)
    use = options.pop("use", "lstm")
    network = call_factory(
        choose(MODELS, use, "model"), options, {"num_tokens": len(text.vocabulary)}, called=f"model {use!r}"
    )
    streams = _streams(text.train, batch_size, "batch_size").to(device)
    valid = _streams(text.valid, evaluate_sequences, "evaluate_sequences").to(device)
    steps_per_epoch = (len(streams) - 1) // sequence_length
    if steps_per_epoch < 1:
        raise TrainerError(
            f"language_modeling: {len(text.train)} training tokens in {batch_size} streams are fewer than "
            f"{sequence_length} + 1 a stream: lower batch_size or sequence_length"
        )

    def batch(step: int) -> Batch:
        start = step % steps_per_epoch * sequence_length
        return _window(streams, start, sequence_length)

    def probe(fraction: float) -> Iterable[Batch]:
        num_sequences = (len(text.train) - 1) // sequence_length
        inputs = text.train[: num_sequences * sequence_length].view(num_sequences, sequence_length)
        targets = text.train[1 : num_sequences * sequence_length + 1].view(num_sequences, sequence_length)
        for chosen in equal_chunks(
            probe_subset(num_sequences, fraction, fingerprint=text.fingerprint), _PROBE_SEQUENCES
        ):
            yield inputs[chosen].T.contiguous().to(device), targets[chosen].T.contiguous().to(device)

    def evaluate(model: nn.Module) -> dict[str, float]:
        total, carry = torch.zeros((), dtype=torch.float64, device=device), None
        for start in range(0, len(valid) - 1, sequence_length):
            inputs, targets = _window(valid, start, sequence_length)
            loss, carry = _loss(model, (inputs, targets), carry)
            total += loss * len(inputs)
        return {"valid_loss": total.item() / (len(valid) - 1)}

    return Problem(
        model=network,
        loss=_loss,
        batch=batch,
        probe=probe,
        evaluate=evaluate,
        steps_per_epoch=steps_per_epoch,
        fingerprint=text.fingerprint,
    )


def _loss(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
    """Mean cross-entropy a token; the state is handed on without its history."""
    inputs, targets = batch
    logits, state = model(inputs, carry)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), map_tensors(Tensor.detach, state)


def _streams(tokens: Tensor, num_streams: int, option: str) -> Tensor:
    """The text as parallel columns, shape (tokens a stream, num_streams)."""
    length = len(tokens) // num_streams
    if length < 2:
        raise TrainerError(f"language_modeling: {len(tokens)} tokens are too few for {option} = {num_streams} streams")
    return tokens[: length * num_streams].view(num_streams, length).T.contiguous()


def _window(streams: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and, one token later, targets, shape (length or what is left, num_streams)."""
    stop = min(start + length, len(streams) - 1)
    return streams[start:stop], streams[start + 1 : stop + 1]
