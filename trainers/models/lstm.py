"""A word-level language model with an LSTM."""

from __future__ import annotations

from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.models.language_model import Prediction
from trainers.models.sizes import check_probabilities, check_sizes

__all__ = ["HiddenState", "LSTMLanguageModel"]

HiddenState = tuple[Tensor, Tensor]
"""h and c, shape (layers, batch, hidden) each."""


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
        # Between layers only: torch warns when there is a single one.
        self.lstm = nn.LSTM(embedding, hidden, layers, dropout=dropout if layers > 1 else 0.0)
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
