"""A small decoder-only Transformer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.errors import TrainerError
from trainers.models.language_model import Prediction
from trainers.models.sizes import check_probabilities, check_sizes

__all__ = ["GPT"]


class GPT(nn.Module):
    """A pre-norm decoder with causal attention and learned positions, in the manner of GPT-2 (Radford et al., 2019).

    It sees one sequence at a time and carries nothing from one to the next. All weights start normal with deviation
    0.02, those that write to the residual stream with 0.02 / sqrt(2 layers), biases at zero.

    Args:
        num_tokens: Size of the vocabulary.
        max_length: The longest sequence.
        layers: Number of blocks.
        heads: Attention heads of each block.
        width: Size of the residual stream; a multiple of ``heads``.
        tied: Let the projection share the embedding's weights.
        dropout: Probability of dropping a unit after the embedding, of the attention and of each block's two branches.

    Raises:
        TrainerError: A size is not positive, a probability not in [0, 1), or ``heads`` does not divide ``width``.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        max_length: int,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes("gpt", layers=layers, heads=heads, width=width)
        check_probabilities("gpt", dropout=dropout)
        if width % heads:
            raise TrainerError(
                f"model gpt: width must be a multiple of heads, but {width} is not a multiple of {heads}"
            )
        self.embedding = nn.Embedding(num_tokens, width)
        self.positions = nn.Embedding(max_length, width)
        self.blocks = nn.ModuleList([_Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, num_tokens)
        self._dropout = dropout
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                writes = name.endswith(("attended.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if writes else 0.02)
        if tied:
            self.projection.weight = self.embedding.weight

    def forward(self, tokens: Tensor, state: None = None) -> Prediction:
        """The features for every next token.

        Args:
            tokens: Token numbers, int64, shape (time, batch), at most ``max_length`` of them in time.
            state: None: there is nothing to carry.

        Returns:
            Features, shape (time, batch, width).
        """
        places = torch.arange(len(tokens), device=tokens.device)
        stream = (self.embedding(tokens) + self.positions(places)[:, None]).transpose(0, 1)
        stream = F.dropout(stream, self._dropout, self.training)
        for block in self.blocks:
            stream = block(stream)
        return Prediction(self.norm(stream).transpose(0, 1), self.projection, None)


class _Block(nn.Module):
    """Attention, then a perceptron, each on the normalised stream and added to it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self._heads = heads
        self._dropout = dropout

    def forward(self, stream: Tensor) -> Tensor:
        """The stream, shape (batch, time, width), with both branches added."""
        stream = stream + F.dropout(self._attention(self.attention_norm(stream)), self._dropout, self.training)
        inner = self.contract(F.gelu(self.expand(self.perceptron_norm(stream))))
        return stream + F.dropout(inner, self._dropout, self.training)

    def _attention(self, inputs: Tensor) -> Tensor:
        batch, time, width = inputs.shape
        parts = self.attend(inputs).view(batch, time, 3, self._heads, width // self._heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        if self.training:
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=self._dropout, is_causal=True)
        else:
            # Fused attention has no second derivative, which f needs; f is defined in evaluation mode.
            mixed = _causal_attention(query, key, value)
        return self.attended(mixed.transpose(1, 2).reshape(batch, time, width))  # type: ignore[no-any-return]


def _causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention to what came before, in differentiable steps; shape (batch, heads, time, width) each."""
    time = query.shape[-2]
    later = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1)
    scores = (query @ key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    return scores.masked_fill(later, -math.inf).softmax(-1) @ value
