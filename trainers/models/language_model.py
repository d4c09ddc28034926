"""What every language model gives: logits, a state to carry on, and what it adds to the training loss."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Prediction"]


class Prediction(NamedTuple):
    """What a language model makes of a batch of tokens.

    Attributes:
        logits: Of every next token, shape (time, batch, num_tokens).
        state: To be passed in with the tokens that follow: any tree of tensors, or None.
        penalty: A scalar that training minimises beside the cross-entropy, and that is no part of f; None for nothing.
    """

    logits: Tensor
    state: Any
    penalty: Tensor | None = None
