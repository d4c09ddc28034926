"""The stability frontier: where training diverged, over the threshold of each rule and the learning rate."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from sweeper.errors import ClipsweepError
from sweeper.report.advice import build_advice
from sweeper.report.fits import fit_cells, fit_hessians
from sweeper.report.plots.axes import MAX_PANELS, Picture, colour_bar, explain, log_labels, panels
from sweeper.report.plots.cells import NO_CLIPPING, DrawnCell, axis_words, drawn_cells, tell_apart, wrapped
from sweeper.report.searched import build_searched
from sweeper.report.stability import UNSTABLE, frontiers, unstable
from sweeper.search.frontier import bracket_of
from sweeper.tables.run import Run
from sweeper.value_texts import key_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from sweeper.report.advice import AdvisedRule

__all__ = ["frontier"]

# One hue after the other from light to dark: in order for every kind of colour vision, and in grey.
_COLOURS = "cividis_r"
_ADVICE = "#d55e00"
_MARKERS = "*PDX^v"


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """The cells that share a horizontal axis: one context, one optimiser, one rule and what is not clipped."""

    of: Mapping[str, Any]
    optimizer: str
    transform: str
    context: Hashable
    cells: Sequence[DrawnCell]


def frontier(run: Run, trials: pd.DataFrame) -> Picture:
    """Where training diverged, over threshold and learning rate, with the rules that theory advises.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure: a panel for each context, optimiser and rule. No clipping is in the panel of clipping by norm,
        to the right of all thresholds, behind a break in the axis.

    Raises:
        ClipsweepError: No trial ended, or fewer than two learning rates were swept.
    """
    searched = build_searched(run.path)
    by_seed = searched is not None and "update_rule.learning_rate" in searched.found.over
    # What a search holds on its way was stable for as long as the search wanted to know.
    ended = trials[trials["status"].isin(["done", "diverged", *(["held"] if by_seed else [])])]
    ended = ended.assign(unstable=unstable(run, ended))
    cells = [cell for cell in drawn_cells(run, ended) if cell.learning_rate is not None]
    if len({cell.learning_rate for cell in cells}) < 2:
        raise ClipsweepError(f"{run.path}: a frontier needs several learning rates")
    found = _panels(cells)
    shown = found[:MAX_PANELS]
    advised = _advice(run, ended)
    contexts = [sum(panel.context == context for panel in found) for context in {panel.context for panel in found}]
    # A row for each context, if they have as many panels each.
    columns = contexts[0] if len(contexts) > 1 and len(set(contexts)) == 1 and contexts[0] <= 5 else min(len(shown), 4)
    figure, axes = panels(len(shown), columns=columns, width=4.6 if columns == 1 else 2.7, height=2.6, sharey=True)
    things = {key_of(panel.of): panel.of for panel in shown}
    titles = dict(zip(things, tell_apart(list(things.values())), strict=True)) if len(things) > 1 else {}
    theories = list(dict.fromkeys(rule.theory for rules in advised.values() for rule in rules))
    drawn = set()
    dots = None
    sharpness = _sharpness(run, ended)
    for axis, panel in zip(axes, shown, strict=True):
        rules = advised.get(panel.context, ()) if _takes_advice(panel) else ()
        drawn |= {rule.theory for rule in rules}
        dots = _draw(axis, panel, rules, theories, by_seed=by_seed)
        axis.set_xlabel(wrapped(axis_words(panel.transform), figure.characters))
        figure.drawn += _rows(panel, rules)
        if (at_start := sharpness.get(panel.context)) is not None and panel.optimizer == "sgd":
            axis.axhline(2 / at_start, **_TWO_OVER)
            figure.drawn.append({**panel.cells[0].context, "drawn": "2 / lambda", "learning_rate": 2 / at_start})
        axis.set_title(
            wrapped("\n".join([*([titles[key_of(panel.of)]] if titles else []), panel.optimizer]), figure.characters)
        )
    rates = [
        *(float(cell.learning_rate) for panel in shown for cell in panel.cells if cell.learning_rate is not None),
        *(
            rule.learning_rate.mean
            for panel in shown
            if _takes_advice(panel)
            for rule in advised.get(panel.context, ())
        ),
    ]
    rates += [2 / norm for norm in sharpness.values()]
    for axis in axes:
        axis.set(yscale="log", ylim=(min(rates) / 1.6, max(rates) * 1.6))
        log_labels(axis.yaxis, axis.get_ylim())
    for axis in axes[:: figure.columns]:
        axis.set_ylabel("learning rate")
    if len(found) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(found)} panels: choose with --where")
    notes = ["theory's advice is from the fitted L0 and L1, bars: its 95 % interval"] if drawn else []
    assert dots is not None
    lines = [Line2D([], [], label="2/λ, λ the Hessian's norm at the start", **_TWO_OVER)] if sharpness else []
    handles = _handles([theory for theory in theories if theory in drawn], theories, by_seed=by_seed)
    explain(figure, notes, [*handles, *lines])
    if not by_seed:
        colour_bar(figure, dots, axes, "share of seeds that were unstable", shrink=1.0)
    return figure


def _panels(cells: Sequence[DrawnCell]) -> list[_Panel]:
    """The cells by what shares an axis, in the order of the plan."""
    groups: dict[Hashable, list[DrawnCell]] = {}
    details: dict[str, set[Hashable]] = {}
    for cell in cells:
        details.setdefault(cell.transform, set()).add(key_of(cell.details))
    for cell in cells:
        # No clipping is clipping by norm with a threshold that is never reached.
        transform = cell.transform or "clip_norm"
        key = key_of([cell.context, cell.optimizer, cell.options, transform, cell.details])
        groups.setdefault(key, []).append(cell)
    return [
        _Panel(
            # The optimiser has a line of its own in every title.
            of={
                **group[0].context,
                **group[0].options,
                **(
                    {group[0].transform.partition("(")[0]: group[0].details}
                    if len(details[group[0].transform]) > 1
                    else {}
                ),
            },
            optimizer=group[0].optimizer,
            transform=group[0].transform or "clip_norm",
            context=key_of(group[0].context),
            cells=group,
        )
        for group in groups.values()
    ]


def _takes_advice(panel: _Panel) -> bool:
    """Whether theory's rules, which clip by norm and then descend, belong here."""
    return panel.transform == "clip_norm" and panel.optimizer.startswith("sgd")


def _advice(run: Run, ended: pd.DataFrame) -> dict[Hashable, tuple[AdvisedRule, ...]]:
    """The advised thresholds and rates of each context."""
    try:
        fits, hessian = fit_cells(run, ended), fit_hessians(run, ended)
    except ClipsweepError:
        return {}
    found = build_advice(fits, steps=int(ended["steps"].max()), hessian=hessian)
    return {
        key_of(one.context_values): tuple(rule for rule in one.rules if rule.clip_norm is not None) for one in found
    }


def _sharpness(run: Run, ended: pd.DataFrame) -> dict[Hashable, float]:
    """The Hessian's norm at the start, by context, median over its trials; none where it is not measured."""
    if _HESSIAN not in run.estimators:
        return {}
    measured = run.measurements(_HESSIAN)
    found: dict[Hashable, list[float]] = {}
    for cell in drawn_cells(run, ended):
        mine = measured[measured["trial_id"].isin(cell.trials["trial_id"]) & (measured["step"] == 0)]
        norms = mine["spectral_norm"].astype(float)
        found.setdefault(key_of(cell.context), []).extend(norms[norms > 0].tolist())
    return {context: float(np.median(norms)) for context, norms in found.items() if norms}


_HESSIAN = "hessian_spectral_norm"
_TWO_OVER: dict[str, Any] = {"color": "#0072b2", "linewidth": 1.2, "linestyle": (0, (5, 2)), "zorder": 0}


def _draw(axis: Axes, panel: _Panel, rules: Sequence[AdvisedRule], theories: Sequence[str], *, by_seed: bool) -> Any:
    """One panel; returns its points."""
    points = _points(panel)
    tried = sorted({float(value) for value in points["clip_norm"].dropna()})
    placed = [*tried, *(rule.clip_norm.mean for rule in rules if rule.clip_norm is not None)]
    low, high = (min(placed), max(placed)) if placed else (1.0, 1.0)
    gap = max(2.5, (high / low) ** 0.3)
    right = high * gap if placed else 1.0
    at = points["clip_norm"].fillna(right).to_numpy(float)
    if by_seed:
        # Each seed was tried at rates of its own: its trials stand side by side with those of the others.
        seeds = sorted(points["seed"].unique())
        middle = (len(seeds) - 1) / 2
        beside = {seed: gap ** (0.35 * (number - middle) / max(1.0, 2 * middle)) for number, seed in enumerate(seeds)}
        at = at * points["seed"].map(beside).to_numpy(float)
    for place, *ends in _brackets(points, at, right, by_seed=by_seed):
        axis.plot([place, place], ends, color="black", linewidth=2.5, alpha=0.6, zorder=1)
    shares = points.assign(x=at).groupby(["x", "learning_rate"])["diverged"].mean().reset_index()
    lost = shares["diverged"] >= UNSTABLE
    dots = None
    for chosen, marker in ((shares[~lost], "o"), (shares[lost], "s")):
        dots = axis.scatter(
            chosen["x"],
            chosen["learning_rate"],
            c=chosen["diverged"],
            cmap=_COLOURS,
            vmin=0,
            vmax=1,
            s=18 if by_seed else 60,
            marker=marker,
            edgecolors="black",
            linewidths=0.6,
            zorder=2,
        )
    for rule in rules:
        assert rule.clip_norm is not None
        x, y = rule.clip_norm, rule.learning_rate
        bars: dict[str, Any] = {
            "xerr": [[x.mean - x.low], [x.high - x.mean]],
            "yerr": [[y.mean - y.low], [y.high - y.mean]],
        }
        axis.errorbar(x.mean, y.mean, **bars, ecolor=_ADVICE, elinewidth=1.0, **_mark(rule.theory, theories), zorder=3)
    edge = gap**0.5
    axis.set(xscale="log", xlim=(low / edge, (right if points["clip_norm"].isna().any() else high) * edge))
    _threshold_ticks(axis, panel, tried, right if points["clip_norm"].isna().any() else None, gap)
    return dots


def _brackets(
    points: pd.DataFrame, at: np.ndarray[Any, Any], right: float, *, by_seed: bool
) -> list[tuple[float, float, float]]:
    """Place, last stable rate and first unstable one, of each threshold, or of each threshold and seed."""
    if not by_seed:
        found = [one for one in frontiers(points, {}) if one.stable is not None and one.unstable is not None]
        return [
            (right if one.clip_norm is None else one.clip_norm, float(one.stable or 0), float(one.unstable or 0))
            for one in found
        ]
    brackets = []
    for x, group in points.assign(x=at).groupby("x"):
        seen = {float(rate): not flag for rate, flag in zip(group["learning_rate"], group["diverged"], strict=True)}
        known = bracket_of(seen)
        if known.stable is not None and known.unstable is not None:
            brackets.append((float(str(x)), known.stable, known.unstable))
    return brackets


def _points(panel: _Panel) -> pd.DataFrame:
    """The panel's trials with the columns that :func:`sweeper.report.stability.frontiers` reads."""
    import pandas as pd

    return pd.concat([
        cell.trials[["seed"]].assign(
            arm=panel.optimizer,
            clip_norm=np.nan if cell.threshold is None else float(cell.threshold),
            learning_rate=float(cell.learning_rate or np.nan),
            # Like a trial that diverged counts one that is done, but ended above its start.
            diverged=cell.trials["unstable"].astype(float),
        )
        for cell in panel.cells
    ])


def _rows(panel: _Panel, rules: Sequence[AdvisedRule]) -> list[dict[str, Any]]:
    """What a panel shows, as numbers."""
    rows = []
    for cell in panel.cells:
        share = float((cell.trials["status"] == "diverged").mean())
        told = {"drawn": "cell", "diverged": share, "seeds": len(cell.trials), "is_unstable": share >= UNSTABLE}
        rows.append({**cell.columns, **told})
    where = {**panel.cells[0].context, "optimizer": panel.optimizer, "transform": "clip_norm"}
    rows += [
        {
            **where,
            "drawn": rule.theory,
            "threshold": rule.clip_norm.mean,
            "threshold_low": rule.clip_norm.low,
            "threshold_high": rule.clip_norm.high,
            "learning_rate": rule.learning_rate.mean,
            "learning_rate_low": rule.learning_rate.low,
            "learning_rate_high": rule.learning_rate.high,
        }
        for rule in rules
        if rule.clip_norm is not None
    ]
    return rows


def _threshold_ticks(axis: Axes, panel: _Panel, tried: Sequence[float], right: float | None, gap: float) -> None:
    """A tick at each threshold that was tried, numbers where there is room, a break before no clipping."""
    low, high = np.log(axis.get_xlim())
    labels, last = [], -np.inf
    for threshold in tried:
        has_room = np.log(threshold) - last > 0.1 * (high - low)
        labels.append(f"{threshold:g}" if has_room else "")
        last = np.log(threshold) if has_room else last
    ticks = list(tried)
    if right is not None:
        ticks.append(right)
        is_unclipped = any(not cell.transform for cell in panel.cells)
        has_several = panel.transform.startswith(("clip_threshold", "clip_groups"))
        unknown = "several" if has_several else "not\nknown"
        labels.append(NO_CLIPPING.replace(" ", "\n") if is_unclipped else unknown)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.set_xticklabels(labels)
    if right is None or not tried:
        return
    middle, width = right / gap**0.5, gap**0.06
    transform = axis.get_xaxis_transform()
    ends = [middle / width, middle * width]
    axis.plot(ends, [0, 0], color="white", linewidth=2, transform=transform, clip_on=False, zorder=5)
    axis.plot(
        ends,
        [0, 0],
        marker=[(-0.5, -1), (0.5, 1)],
        markersize=7,
        color="black",
        linestyle="none",
        transform=transform,
        clip_on=False,
        zorder=6,
        gid="axis break",
    )
    axis.axvline(middle, color="grey", linewidth=0.7, linestyle=(0, (2, 3)), zorder=0)


def _mark(theory: str, theories: Sequence[str]) -> dict[str, Any]:
    """How a theory's rule is marked; the same in all panels."""
    marker = _MARKERS[theories.index(theory) % len(_MARKERS)]
    return {"marker": marker, "color": _ADVICE, "markersize": 9, "linestyle": "none", "markeredgecolor": "black"}


def _handles(drawn: Sequence[str], theories: Sequence[str], *, by_seed: bool) -> list[Line2D]:
    """What the marks mean."""
    many = "" if by_seed else f": {100 * UNSTABLE:g} % of the seeds or more"
    bar = "from the last stable rate to the first unstable" + (", seed by seed" if by_seed else "")
    # Of one seed there are two colours; of several, the bar beside the picture says what they mean.
    ends = [{"color": colormaps[_COLOURS](end)} if by_seed else {} for end in (0.0, 1.0)]
    stable_colour, unstable_colour = ends
    cell: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "linestyle": "none", "markersize": 7}
    return [
        Line2D([], [], marker="o", label="stable", **cell | stable_colour),
        Line2D([], [], marker="s", label=f"unstable{many}", **cell | unstable_colour),
        Line2D([], [], color="black", alpha=0.6, linewidth=2.5, label=bar),
        *(Line2D([], [], label=theory, **_mark(theory, theories)) for theory in drawn),
    ]
