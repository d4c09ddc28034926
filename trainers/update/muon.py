"""Muon on a model's hidden matrices and AdamW on everything else, as one optimiser of a flat vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from trainers.errors import TrainerError
from trainers.update.decay import decaying, matching, runs
from trainers.update.flat import FlatParameters
from trainers.update.rule import UpdateRule, eager

__all__ = ["MuonWithAdamW", "hidden_matrices"]


def hidden_matrices(flat: FlatParameters, *, matrices: Sequence[str] | None) -> list[bool]:
    """Which parameters Muon takes.

    Args:
        flat: The parameters.
        matrices: Patterns of names of the matrices that AdamW takes; None for embeddings and the last matrix.

    Returns:
        Whether each is a matrix, of two dimensions, and not among those.

    Raises:
        TrainerError: A pattern matches no parameter, or no matrix is left.
    """
    layout = flat.layout
    excepted = flat.outer_matrices if matrices is None else matching(layout, matrices, option="rest.matrices")
    found = [len(shape) == 2 and name not in excepted for name, shape in layout]
    if not any(found):
        have = ", ".join(name for name, shape in layout if len(shape) == 2) or "none"
        why = "embeddings and the last matrix are AdamW's" if matrices is None else "rest.matrices names them all"
        raise TrainerError(
            f"update_rule.optimizer: muon has no matrix to train: {why}, and of two dimensions the model has: {have}; "
            "update_rule.rest.matrices says which of them AdamW takes"
        )
    return found


class MuonWithAdamW(torch.optim.Optimizer):
    """torch.optim's Muon (Jordan et al., 2024) and AdamW, each on its pieces of one flat vector, in place.

    For a hidden matrix X with gradient G, momentum mu and rate eta:

        B <- mu B + (1 - mu) G,   O = NS((1 - mu) G + mu B) or NS(B),   X <- (1 - eta lambda) X - eta s O

    with NS the Newton-Schulz iteration, which brings the singular values near 1, and s = sqrt(max(1, rows / columns)),
    or 0.2 sqrt(max(rows, columns)) for ``match_rms_adamw`` (Liu et al., 2025). AdamW's rate is scaled as eta is.

    Args:
        flat: Parameters and gradients.
        rule: With ``optimizer="muon"``.

    Raises:
        TrainerError: This torch has no Muon, or the rule does not fit the model.
    """

    def __init__(self, flat: FlatParameters, rule: UpdateRule) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise TrainerError(
                f"update_rule.optimizer: muon is that of torch 2.9 or later, and this is torch {torch.__version__}"
            )
        if flat.vector.dtype == torch.bfloat16 and not rule.nesterov:
            # Its iteration works in bfloat16, and in place on what is there already.
            raise TrainerError(
                "update_rule.nesterov: without it torch's Muon overwrites its momentum where parameters are bfloat16"
            )
        assert rule.rest is not None
        super().__init__([flat.vector], {"lr": rule.learning_rate})
        self._vector = flat.vector
        layout = flat.layout
        is_hidden = hidden_matrices(flat, matrices=rule.rest.get("matrices"))
        decays = [True] * len(layout)
        if rule.has_decay_groups:
            decays = decaying(layout, decay_on=rule.decay_on, no_decay=rule.no_decay)
        hidden: dict[bool, list[Tensor]] = {True: [], False: []}
        for index, (_, shape) in enumerate(layout):
            if is_hidden[index]:
                (at,) = runs(layout, [other == index for other in range(len(layout))])
                hidden[decays[index]].append(_piece(flat, at, shape))
        rest = {
            group: [
                _piece(flat, at)
                for at in runs(layout, [not h and d == group for h, d in zip(is_hidden, decays, strict=True)])
            ]
            for group in (True, False)
        }
        options = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, **rule.rest}
        options.pop("matrices", None)
        self._rest_rate = options.pop("learning_rate") / rule.learning_rate
        self._muon = eager(torch.optim.Muon)(
            _groups(hidden, rule.weight_decay),
            lr=rule.learning_rate,
            momentum=rule.momentum,
            nesterov=rule.nesterov,
            ns_steps=rule.ns_steps,
            adjust_lr_fn=rule.adjust_rate,
        )
        groups = _groups(rest, options.pop("weight_decay"))
        self._adamw = eager(torch.optim.AdamW)(groups, foreach=False, **options) if groups else None
        self._linked: Tensor | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take a step by the gradient in the buffer.

        Args:
            closure: For the signature of torch's own; it must be None.

        Raises:
            ValueError: There is a closure.
        """
        if closure is not None:
            raise ValueError("MuonWithAdamW takes no closure: compute the gradients before the step")
        self._link()
        learning_rate = self.param_groups[0]["lr"]
        for group in self._muon.param_groups:
            group["lr"] = learning_rate
        self._muon.step()  # type: ignore[no-untyped-call]
        if self._adamw is not None:
            for group in self._adamw.param_groups:
                group["lr"] = learning_rate * self._rest_rate
            self._adamw.step()

    def _link(self) -> None:
        """Make the state of both the pieces of this one's, which is new at the first step and after a resume."""
        state, hidden = self.state[self._vector], _pieces(self._muon)
        rest = [] if self._adamw is None else _pieces(self._adamw)
        if not state:
            num_hidden, num_rest = (sum(piece.numel() for piece in pieces) for pieces in (hidden, rest))
            state["momentum_buffer"] = self._vector.new_zeros(num_hidden, requires_grad=False)
            state["exp_avg"] = self._vector.new_zeros(num_rest, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(state["exp_avg"])
            # As torch has them: one for each piece, on the CPU.
            state["step"] = torch.zeros(len(rest))
        if self._linked is state["momentum_buffer"]:
            return
        for piece, buffer in zip(hidden, _split(state["momentum_buffer"], hidden), strict=True):
            self._muon.state[piece] = {"momentum_buffer": buffer.view(piece.shape)}
        averages = (_split(state[name], rest) for name in ("exp_avg", "exp_avg_sq"))
        for piece, step, average, square in zip(rest, state["step"].unbind(), *averages, strict=True):
            assert self._adamw is not None
            self._adamw.state[piece] = {"step": step, "exp_avg": average, "exp_avg_sq": square}
        self._linked = state["momentum_buffer"]


def _piece(flat: FlatParameters, at: slice, shape: Sequence[int] | None = None) -> Tensor:
    """A part of the vector that has the same part of the gradient as its own."""
    parameters, gradient = flat.vector.data[at], flat.gradient[at]
    piece = parameters if shape is None else parameters.view(*shape)
    piece.grad = gradient.view(piece.shape)
    return piece


def _groups(pieces: Mapping[bool, list[Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of what decays and of what does not."""
    return [
        {"params": members, "weight_decay": weight_decay if group else 0.0}
        for group, members in pieces.items()
        if members
    ]


def _pieces(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [piece for group in optimizer.param_groups for piece in group["params"]]


def _split(vector: Tensor, pieces: Sequence[Tensor]) -> list[Tensor]:
    """Consecutive parts of a vector, as long as the pieces."""
    ends = accumulate((piece.numel() for piece in pieces), initial=0)
    return [vector[start:stop] for start, stop in pairwise(ends)]
