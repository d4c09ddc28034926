"""Figure 2 of Zhang et al. (2020), small: where smoothness grows with the gradient norm, and where it hardly does."""

from __future__ import annotations

import copy
from pathlib import Path
from statistics import mean

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from estimators import ESTIMATORS
from sweeper.actors import build_probe
from sweeper.spec.measure import Measure
from trainers.problems import build_problem
from trainers.snapshot import flat_parameters

PTB = Path(__file__).parents[3] / "shared" / "data" / "ptb"
STEPS, EVERY = 200, 5


def rank_correlation(corpus: str, data_fraction: float, *, rate: float, clip_norm: float | None, seed: int) -> float:
    """Spearman's correlation of smoothness and gradient norm along one trajectory of an LSTM on real text."""
    model = {"use": "lstm", "layers": 1, "hidden": 64, "embedding": 64}
    problem = build_problem("language_modeling", {"corpus": corpus, "model": model}, seed=seed)
    measure = Measure(every=EVERY, data_fraction=data_fraction).model_dump(mode="json")
    probe = build_probe(problem, measure | {"audit": measure["audit"] | {"at": "start"}})
    network = copy.deepcopy(problem.model)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    carry, rows = problem.initial_carry(), []
    for step in range(STEPS):
        before = flat_parameters(network).clone()
        optimizer.zero_grad()
        loss, carry = problem.loss(network, problem.batch(step), carry)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
        if step % EVERY == 0:
            snapshot = torch.stack([before, flat_parameters(network)])
            rows.append(ESTIMATORS["directional_smoothness"](probe, snapshot, method="chebyshev"))
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
    corpus: str, data_fraction: float, seeds: tuple[int, ...]
):
    clipped = [rank_correlation(corpus, data_fraction, rate=30.0, clip_norm=0.25, seed=seed) for seed in seeds]
    plain = [rank_correlation(corpus, data_fraction, rate=2.0, clip_norm=None, seed=seed) for seed in seeds]
    # 40 points a trajectory: a correlation of 0.31 is what chance gives one time in twenty.
    assert min(clipped) > 0.5
    assert mean(clipped) - mean(plain) > 0.2
