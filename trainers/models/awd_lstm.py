"""The AWD-LSTM: an LSTM language model with regularisers throughout (Merity, Keskar and Socher, 2018)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.models.language_model import Prediction
from trainers.models.lstm import HiddenState
from trainers.models.sizes import check_probabilities, check_sizes

__all__ = ["AWDLSTM", "WeightDropLSTM", "locked_dropout"]


class AWDLSTM(nn.Module):
    r"""The language model of Merity et al. (2018), "Regularizing and optimizing LSTM language models".

    All its dropout is off in evaluation mode, and with it f is a deterministic function of the parameters. In training
    mode the prediction comes with the penalty of Section 4.6, of the last layer's outputs h_t:

        alpha mean((m o h_t)^2) + beta mean((h_{t+1} - h_t)^2),   m the mask of the output's locked dropout

    Embedding and projection start uniform in [-0.1, 0.1], the layers with torch's default.

    Args:
        num_tokens: Size of the vocabulary.
        layers: Number of LSTM layers.
        hidden: Units of every layer but the last.
        embedding: Size of the embedding; with tied weights also the units of the last layer.
        tied: Let the projection share the embedding's weights.
        dropout: Probability of locked dropout at the last layer's output.
        dropout_input: The same at the first layer's input.
        dropout_hidden: The same between layers.
        dropout_embedding: Probability of dropping a word, in all its places in the batch at once.
        weight_drop: Probability of dropping a recurrent weight (DropConnect), for all time steps at once.
        activation_penalty: alpha.
        temporal_penalty: beta.

    Raises:
        TrainerError: A size is not positive, a probability not in [0, 1), or a penalty negative.

    Example:
        >>> sum(p.numel() for p in AWDLSTM(num_tokens=10_000).parameters())
        24221600
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        layers: int = 3,
        hidden: int = 1150,
        embedding: int = 400,
        tied: bool = True,
        dropout: float = 0.4,
        dropout_input: float = 0.65,
        dropout_hidden: float = 0.25,
        dropout_embedding: float = 0.1,
        weight_drop: float = 0.5,
        activation_penalty: float = 2.0,
        temporal_penalty: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes("awd_lstm", layers=layers, hidden=hidden, embedding=embedding)
        check_probabilities(
            "awd_lstm",
            dropout=dropout,
            dropout_input=dropout_input,
            dropout_hidden=dropout_hidden,
            dropout_embedding=dropout_embedding,
            weight_drop=weight_drop,
        )
        if min(activation_penalty, temporal_penalty) < 0:
            raise TrainerError("model awd_lstm: activation_penalty and temporal_penalty must not be negative")
        self.embedding = nn.Embedding(num_tokens, embedding)
        sizes = [embedding, *[hidden] * (layers - 1), embedding if tied else hidden]
        self.layers = nn.ModuleList([
            WeightDropLSTM(inputs, outputs, weight_drop) for inputs, outputs in itertools.pairwise(sizes)
        ])
        self.projection = nn.Linear(sizes[-1], num_tokens)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.projection.weight, -0.1, 0.1)
        nn.init.zeros_(self.projection.bias)
        if tied:
            self.projection.weight = self.embedding.weight
        self._dropout_embedding = dropout_embedding
        # What is dropped at the input of each layer, and at the output of the last.
        self._dropouts = [dropout_input, *[dropout_hidden] * (layers - 1), dropout]
        self._penalties = (activation_penalty, temporal_penalty)

    def forward(self, tokens: Tensor, state: tuple[HiddenState, ...] | None) -> Prediction:
        """The features for every next token, the states after the last one, and in training the penalty.

        Args:
            tokens: Token numbers, int64, shape (time, batch).
            state: One hidden state per layer before the first token; None for zeros.

        Returns:
            Features, shape (time, batch, width), the states, and the penalty.
        """
        outputs = self._embed(tokens)
        states: list[HiddenState] = []
        for index, layer in enumerate(self.layers):
            inputs = locked_dropout(outputs, self._dropouts[index], training=self.training)
            outputs, after = layer(inputs, None if state is None else state[index])
            states.append(after)
        features = locked_dropout(outputs, self._dropouts[-1], training=self.training)
        penalty = self._penalty(features, outputs) if self.training else None
        return Prediction(features, self.projection, tuple(states), penalty)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Word vectors, shape (time, batch, embedding), those of dropped words zero."""
        vectors: Tensor = self.embedding(tokens)
        if not (self.training and self._dropout_embedding):
            return vectors
        # One number per word of the vocabulary, looked up like the vectors: cheaper than masking the whole table.
        kept = F.dropout(vectors.new_ones(self.embedding.num_embeddings), self._dropout_embedding)
        return vectors * kept[tokens][..., None]

    def _penalty(self, dropped: Tensor, outputs: Tensor) -> Tensor | None:
        activation, temporal = self._penalties
        parts = []
        if activation:
            parts.append(activation * dropped.square().mean())
        if temporal and len(outputs) > 1:
            parts.append(temporal * (outputs[1:] - outputs[:-1]).square().mean())
        return torch.stack(parts).sum() if parts else None


class WeightDropLSTM(nn.Module):
    """One LSTM layer whose recurrent weights are dropped afresh for every batch.

    Args:
        inputs: Size of an input.
        hidden: Units.
        weight_drop: Probability of dropping a weight; in evaluation mode none is.
    """

    def __init__(self, inputs: int, hidden: int, weight_drop: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden)
        self._weight_drop = weight_drop

    def forward(self, inputs: Tensor, state: HiddenState | None) -> tuple[Tensor, HiddenState]:
        """Outputs, shape (time, batch, hidden), of inputs of shape (time, batch, inputs), and the state."""
        lstm = self.lstm
        if state is None:
            zeros = inputs.new_zeros(1, inputs.shape[1], lstm.hidden_size)
            state = (zeros, zeros)
        # This module's own mode: measuring keeps nn.LSTM in training mode, since cuDNN differentiates it in no other.
        weights = [getattr(lstm, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        weights[1] = F.dropout(weights[1], self._weight_drop, self.training)
        outputs, hidden, cell = torch.lstm(inputs, state, weights, True, 1, 0.0, lstm.training, False, False)
        return outputs, (hidden, cell)


def locked_dropout(values: Tensor, probability: float, *, training: bool) -> Tensor:
    """Dropout with one mask for all time steps (variational dropout; Gal and Ghahramani, 2016).

    Args:
        values: Shape (time, batch, width).
        probability: Of dropping a unit of a sequence.
        training: Whether to drop at all.

    Returns:
        Values of the same shape, those that remain scaled by 1 / (1 - probability).
    """
    if not (training and probability):
        return values
    return values * F.dropout(values.new_ones(values.shape[1:]), probability)
