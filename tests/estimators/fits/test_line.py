"""Fits on data with known answers, and intervals that cover what they claim on simulated trajectories."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from estimators.fits.line import fit_smoothness
from estimators.fits.quantile import envelope_line, profile_line, quantile_for, quantile_line
from estimators.fits.sections import autocorrelation_time, half_width, section_bounds, sections


def autoregressive(generator, n, phi):
    """An AR(1) series of unit variance, started in equilibrium."""
    noise = generator.standard_normal(n)
    series = np.empty(n)
    series[0] = noise[0]
    for t in range(1, n):
        series[t] = phi * series[t - 1] + math.sqrt(1 - phi**2) * noise[t]
    return series


def trajectory(seed, n=800, phi=0.8, L0=1.0, L1=2.0, spread=0.3):
    """Gradient norms that wander over decades, and a smoothness below L0 + L1 g by a lognormal factor."""
    generator = np.random.default_rng(seed)
    g = np.exp(autoregressive(generator, n, phi))
    return g, (L0 + L1 * g) * np.exp(-np.abs(spread * autoregressive(generator, n, phi)))


def pinball(x, y, line, quantile):
    residuals = y - line[0] - line[1] * x
    return np.where(residuals > 0, quantile * residuals, (quantile - 1) * residuals).sum()


@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(4))
def test_linear_programming_finds_the_least_loss(seed, quantile):
    """Against a search over both coefficients that knows nothing of linear programs."""
    x, y = trajectory(seed, n=120)
    line = quantile_line(x, y, quantile)
    found = optimize.differential_evolution(
        lambda p: pinball(x, y, p, quantile), [(0, 5), (0, 5)], seed=0, tol=1e-12, maxiter=400
    )
    assert pinball(x, y, line, quantile) <= found.fun * (1 + 1e-9)


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.75, 0.9, 0.95]), st.integers(3, 80))
@settings(max_examples=60, deadline=None)
def test_the_quick_line_is_the_linear_program_s(seed, quantile, n):
    generator = np.random.default_rng(seed)
    x = generator.lognormal(size=n)
    y = generator.lognormal(size=n) * (1 + generator.uniform(-0.5, 2) * x)
    y = np.abs(y)
    exact, quick = quantile_line(x, y, quantile), profile_line(x, y, quantile)
    assert pinball(x, y, quick, quantile) <= pinball(x, y, exact, quantile) + 1e-6 * y.sum()


@given(st.just(0.0) | st.floats(1e-6, 100), st.just(0.0) | st.floats(1e-6, 100), st.sampled_from([0.5, 0.95]))
@settings(deadline=None)
def test_points_on_a_line_give_the_line(L0, L1, quantile):
    x = np.geomspace(0.01, 10, 40)
    # The solver's tolerance is relative to the largest point.
    size = 1e-6 * (L0 + 10 * L1)
    np.testing.assert_allclose(quantile_line(x, L0 + L1 * x, quantile), (L0, L1), rtol=1e-6, atol=size)
    np.testing.assert_allclose(envelope_line(x, L0 + L1 * x), (L0, L1), rtol=1e-6, atol=size)


def test_coefficients_are_never_negative():
    x = np.linspace(1, 2, 50)
    falling = quantile_line(x, 10 - 3 * x, 0.5)
    assert falling[1] == 0
    steep = quantile_line(x, 10 * x - 9, 0.5)
    assert steep[0] == 0


def test_the_envelope_lies_above_all_points_and_touches():
    x, y = trajectory(3)
    L0, L1 = envelope_line(x, y)
    slack = L0 + L1 * x - y
    assert slack.min() >= -1e-9 * y.max()
    assert slack.min() <= 1e-9 * y.max()


def test_about_a_twentieth_of_the_points_lie_above_the_upper_line():
    x, y = trajectory(1, n=2000)
    L0, L1 = quantile_line(x, y, 0.95)
    assert np.mean(y > L0 + L1 * x) == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    ("count", "expected"), [(10_000, 0.95), (100, 0.95), (50, 0.9), (20, 0.75), (10, 0.5), (3, 0.5)]
)
def test_a_quantile_leaves_five_points_above(count, expected):
    assert quantile_for(count) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0]), ([1.0], [math.inf]), ([[1.0]], [[1.0]])]
)
def test_points_that_make_no_line_are_refused(x, y):
    for fit in (lambda: quantile_line(x, y, 0.5), lambda: envelope_line(x, y), lambda: profile_line(x, y, 0.5)):
        with pytest.raises(ValueError, match=r"points must be finite|x and y must have the same length"):
            fit()


# Autocorrelation


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_the_autocorrelation_time_of_an_autoregressive_series_is_known(phi):
    """tau_int = 1/2 + phi/(1 - phi)."""
    generator = np.random.default_rng(0)
    times = [autocorrelation_time(autoregressive(generator, 20_000, phi)) for _ in range(5)]
    assert np.mean(times) == pytest.approx(0.5 + phi / (1 - phi), rel=0.1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=50))
def test_the_autocorrelation_time_stays_in_its_bounds(series):
    assert 0.5 <= autocorrelation_time(series) <= max(0.5, len(series) / 2)


def test_sections_follow_one_another_and_hold_every_point_once():
    for effective, sizes in ((60.0, [3, 3, 2, 2]), (49.0, [4, 3, 3])):
        parts = sections(10, effective)
        assert np.concatenate(parts).tolist() == list(range(10))
        assert [part.size for part in parts] == sizes


def mean_coverage(phi, n=400, simulations=2000):
    """How often the 95 % interval of the mean of an AR(1) series holds the truth, 0."""
    hits = 0
    for simulation in range(simulations):
        series = autoregressive(np.random.default_rng(simulation), n, phi)
        effective = series.size / (2 * autocorrelation_time(series))
        means = [series[part].mean() for part in sections(n, effective)]
        bounds = section_bounds(series.mean(), means, effective)
        hits += bounds.low <= 0 <= bounds.high
    return hits / simulations


@pytest.mark.parametrize("phi", [0.0, 0.8, 0.95])
def test_sections_cover_the_mean_of_neighbours_that_depend_on_one_another(phi):
    """20 effective points at 0.8 would be 44, at 0.95 ten; 0.005 is the binomial standard deviation."""
    assert mean_coverage(phi) > 0.93


def test_sections_that_are_few_correlation_times_long_give_wider_intervals():
    """Of ten independent points five sections' worth of variance is lost to first order: 1 - 5/20."""
    parts = [1.0, -1.0, 0.5, -0.5]
    wide, narrow = (half_width(0.0, parts, effective=effective) for effective in (10.0, 1e9))
    assert wide / narrow == pytest.approx(1 / math.sqrt(0.75))
    assert half_width(0.0, parts, effective=0.5) == pytest.approx(2 * narrow), "by a factor of two at most"


# The whole fit


def test_a_trajectory_gives_back_the_constants_it_was_made_from():
    g, smoothness = trajectory(5, n=3000, spread=0.05)
    fit = fit_smoothness(g, smoothness)
    assert fit.upper[0] == pytest.approx(1.0, abs=0.1)
    assert fit.upper[1] == pytest.approx(2.0, rel=0.05)
    assert fit.L1.low <= fit.upper[1] <= fit.L1.high * 1.02
    assert fit.median[1] < fit.upper[1]
    assert fit.spearman > 0.9
    assert fit.unidentifiable == ""
    assert fit.range == (g.min(), g.max())
    assert fit.effective == pytest.approx(fit.count / (2 * fit.tau_int))


def test_the_intervals_of_one_trajectory_cover_the_truth():
    """The 0.95 quantile is a line known exactly; a bootstrap of blocks covered L1 in 78 % of such paths."""
    truth = np.array([1.0, 2.0]) * math.exp(0.3 * NormalDist().inv_cdf(0.95))
    covered = np.zeros(2)
    for seed in range(200):
        generator = np.random.default_rng(seed)
        g = np.exp(autoregressive(generator, 600, 0.9))
        smoothness = (1.0 + 2.0 * g) * np.exp(0.3 * autoregressive(generator, 600, 0.8))
        fit = fit_smoothness(g, smoothness)
        covered += [bounds.low <= of <= bounds.high for bounds, of in zip((fit.L0, fit.L1), truth, strict=True)]
    # Two binomial standard deviations below 0.95.
    assert (covered / 200 > 0.92).all(), covered


def test_an_interval_that_reaches_what_cannot_be_told_from_zero_starts_there():
    g, _ = trajectory(3, n=400)
    smoothness = 5.0 * np.exp(0.3 * np.random.default_rng(1).normal(size=g.size))
    fit = fit_smoothness(g, smoothness)
    assert fit.L1.low == 0.0
    assert 0 < fit.L1.high < 0.5 * float(np.median(smoothness / g))
    assert fit.L0.low > 0


def test_a_power_law_has_its_exponent_as_slope():
    g, _ = trajectory(2)
    fit = fit_smoothness(g, 3 * g**0.7)
    assert fit.slope == pytest.approx(0.7)
    assert fit.theil_sen == pytest.approx(0.7)
    assert fit.pearson == pytest.approx(1.0)


def test_one_wild_point_moves_least_squares_and_not_theil_sen():
    g, _ = trajectory(2, n=100)
    smoothness = 3 * g**0.7
    smoothness[np.argmax(g)] *= 1e6
    fit = fit_smoothness(g, smoothness)
    assert fit.theil_sen == pytest.approx(0.7, abs=0.02)
    assert abs(fit.slope - 0.7) > 0.2


@pytest.mark.parametrize(
    ("g", "why"),
    [
        (np.random.default_rng(0).uniform(1, 1.5, 500), "span only a factor of 1"),
        (np.geomspace(1, 100, 5), "only 5 points, an upper line takes 20"),
        (np.geomspace(1, 100, 19), "only 19 points, an upper line takes 20"),
        (np.geomspace(1, 100, 60), "independent ones"),
        (np.array([1.0, 2.0]), "only 2 points"),
        (np.array([]), "only 0 points"),
    ],
)
def test_where_the_slope_cannot_be_told_it_says_why(g, why):
    assert why in fit_smoothness(g, 1 + g).unidentifiable


def test_pairs_that_are_not_positive_and_finite_stay_out():
    g = np.array([1.0, 2.0, 0.0, 4.0, np.nan, 5.0])
    smoothness = np.array([1.0, np.inf, 1.0, 4.0, 1.0, 5.0])
    assert fit_smoothness(g, smoothness).count == 3


def test_long_trajectories_are_thinned_evenly():
    g, smoothness = trajectory(0, n=12_000)
    assert fit_smoothness(g, smoothness).count == 5000


def test_smoothness_that_has_nothing_to_do_with_the_gradient_has_a_rank_interval_around_zero():
    generator = np.random.default_rng(7)
    g = np.exp(autoregressive(generator, 600, 0.8))
    fit = fit_smoothness(g, np.exp(autoregressive(generator, 600, 0.8)))
    assert fit.spearman_bounds.low < 0 < fit.spearman_bounds.high


@pytest.mark.parametrize(("count", "quantile"), [(19, math.nan), (20, 0.75), (21, 1 - 5 / 21), (50, 0.9), (200, 0.95)])
def test_the_upper_line_says_its_quantile_and_is_none_where_it_would_be_the_middle(count, quantile):
    g = np.random.default_rng(0).permutation(np.geomspace(1, 100, count))
    fit = fit_smoothness(g, 1 + 2 * g)
    assert fit.quantile == pytest.approx(quantile, nan_ok=True)
    assert fit.upper == pytest.approx((1, 2) if count >= 20 else (math.nan, math.nan), nan_ok=True)
    assert math.isnan(fit.L1.low) == (count < 20)
    assert fit.median == pytest.approx((1, 2))
    assert math.isnan(fit.spearman_bounds.low) == (count < 20)
