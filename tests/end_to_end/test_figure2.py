"""Figure 2 of Zhang et al. (2020), small: where smoothness grows with the gradient norm, and where it hardly does."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from scipy.stats import spearmanr

from trainers.problems import build_problem

PTB = Path(__file__).parents[3] / "shared" / "data" / "ptb"


def rank_correlation(
    measured_along: Any, corpus: str, data_fraction: float, *, rate: float, clip_norm: float | None, seed: int
) -> float:
    """Spearman's correlation of smoothness and gradient norm along one trajectory of an LSTM on real text."""
    model = {"use": "lstm", "layers": 1, "hidden": 64, "embedding": 64}
    problem = build_problem("language_modeling", {"corpus": corpus, "model": model}, seed=seed)
    along = measured_along(
        problem,
        data_fraction=data_fraction,
        rate=rate,
        clip_norm=clip_norm,
        steps=200,
        every=5,
        methods=("chebyshev",),
    )
    rows = [row for (row,) in along]
    assert len(rows) == 40
    assert all(row["trust"] == "trusted" for row in rows)
    return float(spearmanr([row["smoothness"] for row in rows], [row["grad_norm"] for row in rows]).statistic)


@pytest.mark.parametrize(
    ("corpus", "data_fraction", "seeds"),
    [
        pytest.param("python-docs", 0.004, (0, 1), id="embedded text"),
        pytest.param(
            str(PTB),
            0.002,
            (0,),
            id="Penn Treebank",
            marks=[pytest.mark.slow, pytest.mark.skipif(not PTB.is_dir(), reason="Penn Treebank is not there")],
        ),
    ],
)
def test_smoothness_follows_the_gradient_norm_at_rate_30_with_clipping_far_more_than_at_rate_2_without(
    measured_along: Any, corpus: str, data_fraction: float, seeds: tuple[int, ...]
):
    def correlations(rate: float, clip_norm: float | None) -> list[float]:
        return [
            rank_correlation(measured_along, corpus, data_fraction, rate=rate, clip_norm=clip_norm, seed=seed)
            for seed in seeds
        ]

    clipped, plain = correlations(30.0, 0.25), correlations(2.0, None)
    # 40 points a trajectory: a correlation of 0.31 is what chance gives one time in twenty.
    assert min(clipped) > 0.5
    assert mean(clipped) - mean(plain) > 0.2
