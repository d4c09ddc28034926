"""Predict the next token of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainers.data.lengths import epoch_starts, num_sequences
from trainers.data.order import merged, probe_batches, probe_share
from trainers.data.text import load_corpus
from trainers.errors import TrainerError
from trainers.models.awd_lstm import AWDLSTM
from trainers.models.gpt import GPT
from trainers.models.language_model import Prediction
from trainers.models.lstm import LSTMLanguageModel
from trainers.options import call_factory, choose, nearest
from trainers.problem import Batch, Carry, Problem
from trainers.trees import map_tensors

__all__ = ["DEFAULT_MODEL", "MODELS", "language_modeling"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "lstm": LSTMLanguageModel,
    "awd_lstm": AWDLSTM,
    "gpt": GPT,
}

DEFAULT_MODEL: Mapping[str, Any] = {
    "use": "lstm",
    "layers": 2,
    "hidden": 200,
    "embedding": 200,
    "tied": True,
    "dropout": 0.0,
}

# Whatever the training's batch_size: no model here mixes the sequences of a batch, so cutting them otherwise gives the
# same f, also across a sweep over batch_size, and a gradient over more sequences at a time costs less per token.
_PROBE_SEQUENCES = 80

# On a GPU, which takes hardly longer for several times as many; but no more than have a table of logits, which
# Hessian-vector products need, of 1 GiB.
_PROBE_SEQUENCES_ON_GPU, _PROBE_LOGITS_ON_GPU = 512, 2**28


def language_modeling(
    *,
    corpus: str = "python-docs",
    model: Mapping[str, Any] = DEFAULT_MODEL,
    batch_size: int = 20,
    sequence_length: int = 35,
    evaluate_sequences: int = 20,
    evaluate_fraction: float = 1.0,
    random_length: Mapping[str, float] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Problem:
    """Truncated back-propagation through time over a text cut into parallel streams.

    The loss is the mean cross-entropy in nats per token. The hidden state is carried from batch to batch along the
    streams and starts at zero in every epoch. For f, the training text is cut into separate sequences whose state
    starts at zero, so that its gradient is exact, and is the plain cross-entropy, whatever a model adds in training.
    They come in batches of exactly 80 whatever the share of the data, or in one smaller batch if there are fewer. On a
    GPU the same sequences come in batches of up to 512, which changes f by no more than rounding.

    With ``random_length`` the lengths of the sequences vary, see :func:`trainers.data.lengths.epoch_starts`, and the
    learning rate of a step is multiplied by its length over ``sequence_length``.

    Args:
        corpus: As :func:`trainers.data.text.load_corpus` takes it.
        model: ``use`` names one of :data:`MODELS`, the rest are its options.
        batch_size: Number of parallel streams.
        sequence_length: Tokens per stream and step.
        evaluate_sequences: Number of parallel streams into which the validation text is cut; a few tokens that do not
            fill a row are left out.
        evaluate_fraction: Share of the validation text that is evaluated, from its beginning, in (0, 1].
        random_length: None for sequences of one length, or ``{"halved": 0.05, "jitter": 5.0}``, the probability of half
            the length and the standard deviation in tokens of Merity et al. (2018).
        seed: Of random lengths; otherwise batches follow the text. Initial weights come from torch's global generator.
        device: Where the data live.

    Returns:
        The problem, with the metric ``valid_loss``, and at the end ``test_loss`` of all of the test text.

    Raises:
        TrainerError: An option is out of range, or the text is too short for it.
        DataError: The corpus cannot be read.
    """
    sizes = {"batch_size": batch_size, "sequence_length": sequence_length, "evaluate_sequences": evaluate_sequences}
    for name, size in sizes.items():
        if size < 1:
            raise TrainerError(f"language_modeling: {name} must be at least 1, not {size!r}")
    if not 0 < evaluate_fraction <= 1:
        raise TrainerError(f"language_modeling: evaluate_fraction must lie in (0, 1], not {evaluate_fraction!r}")
    text = load_corpus(corpus)
    halved, jitter = _checked(random_length)
    options = dict(model)
    use = options.pop("use", "lstm")
    offered = {
        "num_tokens": len(text.vocabulary),
        "max_length": sequence_length if random_length is None else 2 * sequence_length,
    }
    network = call_factory(choose(MODELS, use, "model"), options, offered, called=f"model {use!r}")
    streams = _streams(text.train, batch_size, "batch_size").to(device)
    evaluated = text.valid[: math.ceil(evaluate_fraction * len(text.valid))]
    valid = _streams(evaluated, evaluate_sequences, "evaluate_sequences").to(device)
    # A text of a word or two has no next one to predict in several streams.
    num_tested = min(evaluate_sequences, len(text.test) // 2)
    tested = _streams(text.test, num_tested, "evaluate_sequences").to(device) if num_tested else None
    total = len(streams) - 1
    steps_per_epoch = num_sequences(total, sequence_length, halved=halved)
    if steps_per_epoch < 1:
        raise TrainerError(
            f"language_modeling: {len(text.train)} training tokens in {batch_size} streams are fewer than "
            f"{sequence_length} + 1 per stream: lower batch_size or sequence_length"
        )

    num_probed = (len(text.train) - 1) // sequence_length
    is_cpu = torch.device(device).type == "cpu"
    at_most = _PROBE_LOGITS_ON_GPU // (sequence_length * len(text.vocabulary))
    num_together = max(1, min(_PROBE_SEQUENCES_ON_GPU, at_most))

    def place(step: int) -> tuple[int, int]:
        """Start and length of a step's sequence."""
        epoch, index = divmod(step, steps_per_epoch)
        if random_length is None:
            return index * sequence_length, sequence_length
        starts = epoch_starts(total, sequence_length, halved=halved, jitter=jitter, seed=seed, epoch=epoch)
        start, stop = starts[index : index + 2].tolist()
        return start, stop - start

    def batch(step: int) -> Batch:
        return _window(streams, *place(step))

    def learning_rate_factor(step: int) -> float:
        return place(step)[1] / sequence_length

    def probe(fraction: float, draw: int = 0) -> Iterable[Batch]:
        inputs = text.train[: num_probed * sequence_length].view(num_probed, sequence_length)
        targets = text.train[1 : num_probed * sequence_length + 1].view(num_probed, sequence_length)
        chosen_ones = probe_batches(
            num_probed, fraction, batch_size=_PROBE_SEQUENCES, fingerprint=text.fingerprint, smaller=True, draw=draw
        )
        for chosen in chosen_ones if is_cpu else merged(chosen_ones, num_together):
            yield inputs[chosen].T.contiguous().to(device), targets[chosen].T.contiguous().to(device)

    def mean_loss(model: nn.Module, streams: Tensor) -> float:
        summed, carry = torch.zeros((), dtype=torch.float64, device=device), None
        for start in range(0, len(streams) - 1, sequence_length):
            inputs, targets = _window(streams, start, sequence_length)
            loss, carry = _cross_entropy(model, (inputs, targets), carry)
            summed += loss * len(inputs)
        return summed.item() / (len(streams) - 1)

    return Problem(
        model=network,
        loss=_training_loss,
        measured_loss=_cross_entropy,
        learning_rate_factor=learning_rate_factor,
        batch=batch,
        probe=probe,
        probe_share=partial(probe_share, num_probed, batch_size=_PROBE_SEQUENCES, smaller=True),
        evaluate=lambda model: {"valid_loss": mean_loss(model, valid)},
        test=None if tested is None else lambda model: {"test_loss": mean_loss(model, tested)},
        metrics={"valid_loss": "min"},
        steps_per_epoch=steps_per_epoch,
        fingerprint=text.fingerprint,
    )


def _training_loss(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
    """Mean cross-entropy per token plus the model's penalty; the state is passed on without its history."""
    inputs, targets = batch
    prediction: Prediction = model(inputs, carry)
    loss = prediction.cross_entropy(targets)
    if prediction.penalty is not None:
        loss = loss + prediction.penalty
    return loss, map_tensors(Tensor.detach, prediction.state)


def _cross_entropy(model: nn.Module, batch: Batch, carry: Carry) -> tuple[Tensor, Carry]:
    """The same without any penalty."""
    inputs, targets = batch
    prediction: Prediction = model(inputs, carry)
    loss = prediction.cross_entropy(targets)
    return loss, map_tensors(Tensor.detach, prediction.state)


def _checked(random_length: Mapping[str, float] | None) -> tuple[float, float]:
    """The probability of half the length, and the deviation."""
    options = {"halved": 0.05, "jitter": 5.0} if random_length is not None else {"halved": 0.0, "jitter": 0.0}
    for name, value in (random_length or {}).items():
        if name not in options:
            raise TrainerError(f"language_modeling: unknown option {name!r} of random_length; {nearest(name, options)}")
        if not (0 <= value <= 1 if name == "halved" else 0 <= value < math.inf):
            raise TrainerError(f"language_modeling: random_length: {name} is out of range: {value!r}")
        options[name] = value
    return options["halved"], options["jitter"]


def _streams(tokens: Tensor, num_streams: int, option: str) -> Tensor:
    """The text as parallel columns, shape (tokens per stream, num_streams)."""
    length = len(tokens) // num_streams
    if length < 2:
        raise TrainerError(f"language_modeling: {len(tokens)} tokens are too few for {option} = {num_streams} streams")
    # A view: the text may be a file that all workers of a node have mapped.
    return tokens[: length * num_streams].view(num_streams, length).T


def _window(streams: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and, one token later, targets, shape (length or what remains, num_streams)."""
    stop = min(start + length, len(streams) - 1)
    return streams[start:stop].contiguous(), streams[start + 1 : stop + 1].contiguous()
