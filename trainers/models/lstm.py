"""A word-level language model with an LSTM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.models.language_model import Prediction
from trainers.models.sizes import check_probabilities, check_sizes

__all__ = ["DropoutLSTM", "HiddenState", "LSTMLanguageModel"]

HiddenState = tuple[Tensor, Tensor]
"""h and c, shape (layers, batch, hidden) each."""


class DropoutLSTM(nn.LSTM):
    """An LSTM with dropout between its layers by torch's own generator, layer by layer.

    cuDNN draws from a generator of its own, whose state of 2 MB would be built anew for every step, and which no CUDA
    graph may hold. The parameters are those of :class:`torch.nn.LSTM`, of the same names.

    Example:
        >>> lstm = DropoutLSTM(2, 3, 2, dropout=0.5).eval()
        >>> lstm(torch.ones(4, 1, 2))[0].shape
        torch.Size([4, 1, 3])
    """

    def forward(  # type: ignore[override]
        self, inputs: Tensor, state: HiddenState | None = None
    ) -> tuple[Tensor, HiddenState]:
        """Outputs, shape (time, batch, hidden), of inputs of shape (time, batch, inputs), and the state."""
        if state is None:
            zeros = inputs.new_zeros(self.num_layers, inputs.shape[1], self.hidden_size)
            state = (zeros, zeros)
        outputs = inputs
        states: list[tuple[Tensor, Tensor]] = []
        for layer, parameters in enumerate(self.all_weights):
            weights: list[Tensor] = list(parameters)
            if layer:
                outputs = F.dropout(outputs, self.dropout, self.training)
            before = tuple(part[layer : layer + 1] for part in state)
            outputs, hidden, cell = torch.lstm(outputs, before, weights, True, 1, 0.0, self.training, False, False)
            states.append((hidden, cell))
        hidden, cell = (torch.cat(parts) for parts in zip(*states, strict=True))
        return outputs, (hidden, cell)


class LSTMLanguageModel(nn.Module):
    """Embedding, LSTM and projection onto the vocabulary, with dropout between them.

    Embedding and projection start uniform in [-0.1, 0.1], the LSTM with torch's default.

    Args:
        num_tokens: Size of the vocabulary.
        layers: Number of LSTM layers.
        hidden: Units per layer.
        embedding: Size of the embedding.
        tied: Let the projection share the embedding's weights; needs ``hidden == embedding``.
        dropout: Probability of dropping a unit after the embedding, between layers and before the projection.

    Raises:
        TrainerError: A size is not positive, a probability not in [0, 1), or tied sizes differ.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        layers: int = 2,
        hidden: int = 200,
        embedding: int = 200,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes("lstm", layers=layers, hidden=hidden, embedding=embedding)
        check_probabilities("lstm", dropout=dropout)
        if tied and hidden != embedding:
            raise TrainerError(
                f"model lstm: tied weights need hidden == embedding, but {hidden} != {embedding}; "
                "make them equal or set tied to false"
            )
        self.embedding = nn.Embedding(num_tokens, embedding)
        # Dropout between layers only: torch warns when there is a single one.
        self.lstm = (
            DropoutLSTM(embedding, hidden, layers, dropout=dropout)
            if dropout and layers > 1
            else nn.LSTM(embedding, hidden, layers)
        )
        self.projection = nn.Linear(hidden, num_tokens)
        self.dropout = nn.Dropout(dropout)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.projection.weight, -0.1, 0.1)
        nn.init.zeros_(self.projection.bias)
        if tied:
            self.projection.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: HiddenState | None) -> Prediction:
        """The features for every next token, and the hidden state after the last one.

        Args:
            tokens: Token numbers, int64, shape (time, batch).
            state: The hidden state before the first token; None for zeros.

        Returns:
            Features, shape (time, batch, hidden), and the state.
        """
        features, state = self.lstm(self.dropout(self.embedding(tokens)), state)
        return Prediction(self.dropout(features), self.projection, state)
