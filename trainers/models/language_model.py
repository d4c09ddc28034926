"""What a language model returns: the input of its output layer, a state to carry on, and what it adds to the loss."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from trainers.models.linear_cross_entropy import linear_cross_entropy

__all__ = ["Prediction"]


class Prediction(NamedTuple):
    """What a language model makes of a batch of tokens.

    Applying the output layer is left to the caller, who knows what is needed: a loss does not need the table of all
    logits.

    Attributes:
        features: Input of the output layer, shape (time, batch, width).
        projection: The output layer, from width to num_tokens, with a bias.
        state: To be passed in with the tokens that follow: any tree of tensors, or None.
        penalty: A scalar that training minimises in addition to the cross-entropy, and that is not part of f; None for
            nothing.
    """

    features: Tensor
    projection: nn.Linear
    state: Any
    penalty: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """Logits of every next token, shape (time, batch, num_tokens)."""
        logits: Tensor = self.projection(self.features)
        return logits

    def cross_entropy(self, targets: Tensor) -> Tensor:
        """Mean over all tokens, in nats.

        Args:
            targets: The tokens that follow, int64, shape (time, batch).

        Returns:
            A scalar.
        """
        layer = self.projection
        return linear_cross_entropy(self.features.flatten(0, 1), layer.weight, layer.bias, targets.flatten())
