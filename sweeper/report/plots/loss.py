"""Losses against the step (Figure 4 of the paper): curves that can be told apart, in as many panels as that takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D

from sweeper.errors import ClipsweepError
from sweeper.labels import counted
from sweeper.report.cells import deterministic
from sweeper.report.plots.axes import MAX_PANELS, UNORDERED, explain, in_order, panels
from sweeper.report.plots.cells import DrawnCell, drawn_cells, tell_apart, wrapped
from sweeper.tables.run import Run
from sweeper.value_texts import key_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from sweeper.report.plots.axes import Picture

__all__ = ["MAX_CURVES", "loss"]

MAX_CURVES = 8
"""The most curves in one panel; more cannot be told apart."""

_AXES = {"train_loss": "training loss", "valid_loss": "validation loss"}

_Style: TypeAlias = Literal["-", "--", ":"]

_FEW = 2
"""Logged losses of a trial that are drawn as dots, not as a line."""

_MARKERS: dict[_Style, str] = {"-": "o", "--": "s", ":": "^"}

_STYLES: dict[_Style, str] = {"-": "solid: no clipping", "--": "dashed: clip_norm", ":": "dotted: other rules"}


@dataclass(frozen=True, kw_only=True)
class _Colours:
    """What the colour of a curve says: a swept number in its order, or which of several problems and optimisers.

    Attributes:
        name: What it is called; empty for what has no number.
        of: A cell's value.
        colours: Value to colour.
    """

    name: str
    of: Callable[[DrawnCell], Any]
    colours: Mapping[Any, Any]

    def look(self, cell: DrawnCell) -> tuple[Any, _Style]:
        """Colour and line style of a cell; no two cells of a panel share both."""
        return self.colours[self.of(cell)], _style(cell)


def loss(run: Run, trials: pd.DataFrame) -> Picture:
    """Training and validation loss against the step: mean over seeds, band from the lowest to the highest seed.

    Colours follow the learning rate, or another number that is swept; line styles say what was done to the gradient,
    the same in every figure. Where more than :data:`MAX_CURVES` cells would share a panel, or two of them would look
    alike, there is a panel for each problem, optimiser or threshold.

    Args:
        run: The run.
        trials: The trials to draw.

    Returns:
        The figure; a cross marks where a seed diverged.

    Raises:
        ClipsweepError: None of the trials has a loss yet.
    """
    metrics = _with_last_iterates(run.metrics[run.metrics["trial_id"].isin(trials["trial_id"])], trials)
    columns = [name for name in _AXES if name in metrics and metrics[name].notna().any()]
    every = drawn_cells(run, trials)
    begun = set(metrics["trial_id"])
    cells = [cell for cell in every if not begun.isdisjoint(cell.trials["trial_id"])]
    if not cells or not columns:
        raise ClipsweepError(f"{run.path}: none of the chosen trials has a loss yet")
    colours = _colours(cells)
    found = _split(cells, colours)
    shown = found[: MAX_PANELS // len(columns)]
    pairs_per_row = 1 if len(shown) <= 3 else 2 if len(shown) <= 12 else 3
    width, height = (4.2, 3.2) if len(shown) == 1 else (3.2, 2.3) if pairs_per_row == 1 else (2.2, 1.8)
    scales = _scales(shown, metrics, columns)
    figure, axes = panels(
        len(shown) * len(columns),
        columns=pairs_per_row * len(columns),
        abreast=len(columns),
        width=width,
        height=height,
        sharex=len(set(scales)) == 1,
        sharey=len(set(scales)) == 1,
    )
    labels = dict(zip([cell.cell_id for cell in cells], tell_apart([cell.swept for cell in cells]), strict=True))
    # Without noise there is nothing to smooth.
    smooth = "train_loss" in columns and not deterministic(trials)
    marks = set()
    places = itertools.product(zip(shown, scales, strict=True), columns)
    for axis, (((of, group), scale), column) in zip(axes, places, strict=True):
        for cell in group:
            colour, style = colours.look(cell)
            rows = metrics[metrics["trial_id"].isin(cell.trials["trial_id"])]
            curve = _curve(
                axis,
                rows,
                column,
                smooth=smooth and column == "train_loss",
                label=labels[cell.cell_id],
                color=colour,
                linestyle=style,
            )
            figure.drawn += [{**cell.columns, "quantity": column, **sample} for sample in curve]
            if 0 < len(curve) <= _FEW * len(cell.trials):
                marks.add("dots: few losses were logged; train.log_every logs those between")
            if column == "train_loss":
                _crosses(axis, cell, scale.top, colour)
        axis.set(ylabel=_AXES[column], title=wrapped(of, figure.characters))
        if not axis.lines:
            # Not an empty frame: this problem has no such loss.
            axis.set_axis_off()
            axis.set_title("")
        if scale.is_log:
            axis.set_yscale("log")
        axis.set_ylim(scale.limits)
        axis.set_xlim(-0.03 * scale.steps, 1.03 * scale.steps)
    for axis in axes if len(set(scales)) > 1 else axes[-figure.columns :]:
        axis.set_xlabel("step")
    if len(found) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(found)} panels: choose with --where")
    notes = _notes(shown, scales, smooth=smooth) + sorted(marks)
    if len(cells) < len(every):
        notes.append(f"{counted(len(every) - len(cells), 'cell')} of {len(every)} not drawn: no losses yet")
    explain(figure, notes, _handles(shown, colours, labels))
    return figure


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """The axes that panels share.

    Attributes:
        lowest: The smallest loss.
        highest: The largest.
        top: Where the axis ends, so that one exploding run does not flatten all others.
        steps: The last step.
    """

    lowest: float
    highest: float
    top: float
    steps: int

    @property
    def is_log(self) -> bool:
        """Whether a linear axis would show most of the curves as zero."""
        return 0 < self.lowest * _MOST_LINEAR < self.top

    @property
    def is_cut(self) -> bool:
        """Whether there are losses above its end."""
        return self.highest > self.top * (1 + 1e-9)

    @property
    def limits(self) -> tuple[float, float]:
        """Lower and upper end."""
        if self.is_log:
            room = (self.top / self.lowest) ** 0.05
            return self.lowest / room, self.top * (1 if self.is_cut else room)
        room = 0.05 * (self.top - self.lowest) or 0.05 * abs(self.top) or 1.0
        return self.lowest - room, self.top + (0 if self.is_cut else room)


_MOST_LINEAR = 1000.0
"""Ratio of the largest to the smallest loss above which the axis is logarithmic."""

_ALIKE = 3.0
"""Problems whose losses, and whose steps, differ by less than this factor share their axes."""


def _scales(
    shown: Sequence[tuple[str, list[DrawnCell]]], metrics: pd.DataFrame, columns: Sequence[str]
) -> list[_Scale]:
    """The axes of each panel: one for all, unless their problems are of different sizes."""
    contexts = [{key_of(cell.context) for cell in group} for _, group in shown]
    own: list[_Scale] = []
    for context in contexts:
        # Panels of a problem share their axes.
        cells = [cell for _, group in shown for cell in group if key_of(cell.context) in context]
        own.append(_scale(cells, metrics, columns))
    tops, steps = [scale.top for scale in own], [scale.steps for scale in own]
    apart = [abs(max(values)) > _ALIKE * abs(min(values)) for values in (tops, steps)]
    if any(apart) or len({scale.is_log for scale in own}) > 1:
        return own
    return [_scale([cell for _, group in shown for cell in group], metrics, columns)] * len(shown)


def _scale(cells: Sequence[DrawnCell], metrics: pd.DataFrame, columns: Sequence[str]) -> _Scale:
    rows = metrics[metrics["trial_id"].isin({name for cell in cells for name in cell.trials["trial_id"]})]
    finite = [values for column in columns if len(values := rows[column][np.isfinite(rows[column])])]
    if not finite:
        return _Scale(lowest=0.0, highest=1.0, top=1.0, steps=1)
    return _Scale(
        lowest=float(min(values.min() for values in finite)),
        highest=float(max(values.max() for values in finite)),
        top=max(_readable_top(rows, column) for column in columns),
        steps=max(1, int(rows["step"].max())),
    )


def _style(cell: DrawnCell) -> _Style:
    """The line style of what a cell does to its gradient."""
    if not cell.transform:
        return "-"
    return "--" if cell.transform == "clip_norm" else ":"


def _colours(cells: Sequence[DrawnCell]) -> _Colours:
    """Colours by the learning rate or, if it is not swept, by another number that is."""
    choices: dict[str, Callable[[DrawnCell], Any]] = {"learning_rate": lambda cell: cell.learning_rate}
    for name in {**cells[0].context, **cells[0].options}:
        choices[name] = lambda cell, name=name: {**cell.context, **cell.options}.get(name)  # type: ignore[misc]
    choices["threshold"] = lambda cell: cell.threshold
    for name, of in choices.items():
        values = [value for cell in cells if (value := of(cell)) is not None]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            continue
        if len(numbers := set(values)) > 1:
            return _Colours(name=name, of=of, colours={**in_order(sorted(numbers)), None: "black"})

    def rest(cell: DrawnCell) -> Hashable:
        return key_of([cell.context, cell.options, cell.optimizer])

    kinds = dict.fromkeys(rest(cell) for cell in cells)
    return _Colours(name="", of=rest, colours=dict(zip(kinds, itertools.cycle(UNORDERED))))


def _split(cells: Sequence[DrawnCell], colours: _Colours) -> list[tuple[str, list[DrawnCell]]]:
    """The fewest panels in which every cell has its own look, with their titles."""
    sides = [_sides(cell, colours) for cell in cells]
    names = [name for name in sides[0] if len({key_of(side.get(name)) for side in sides}) > 1]
    # More than eight names would take too many subsets to try: the others always make panels.
    free, fixed = names[:8], names[8:]
    best: dict[Hashable, list[DrawnCell]] = {}
    for chosen in (subset for size in range(len(free) + 1) for subset in itertools.combinations(free, size)):
        groups: dict[Hashable, list[DrawnCell]] = {}
        for cell, side in zip(cells, sides, strict=True):
            groups.setdefault(key_of([side.get(name) for name in (*chosen, *fixed)]), []).append(cell)
        is_clear = all(len(_parts(group, colours)) == 1 for group in groups.values())
        if is_clear and (not best or len(groups) < len(best)):
            best, keys = groups, (*chosen, *fixed)
    if not best:
        keys = tuple(names)
        for cell, side in zip(cells, sides, strict=True):
            best.setdefault(key_of([side.get(name) for name in keys]), []).append(cell)
    if len(best) == 1 and not keys:
        titles = [""]
    else:
        firsts = [_sides(group[0], colours) for group in best.values()]
        titles = tell_apart([{name: side[name] for name in keys if name in side} for side in firsts])
    panels_found = []
    for title, group in zip(titles, best.values(), strict=True):
        parts = _parts(group, colours)
        for at, part in enumerate(parts):
            suffix = f"\npart {at + 1} of {len(parts)}" if len(parts) > 1 else ""
            panels_found.append(((title + suffix).strip(), part))
    return panels_found


def _sides(cell: DrawnCell, colours: _Colours) -> dict[str, Any]:
    """What may distinguish a cell's panel from others: all but what its colour says."""
    rule = cell.transform or cell.rule if colours.name == "threshold" else cell.rule
    sides = {**cell.context, **cell.options, "optimizer": cell.optimizer, "rule": rule}
    sides.pop(colours.name, None)
    return sides


def _parts(group: Sequence[DrawnCell], colours: _Colours) -> list[list[DrawnCell]]:
    """Cells in panels of at most :data:`MAX_CURVES`, none of which looks like another."""
    parts: list[list[DrawnCell]] = []
    looks: list[set[Any]] = []
    for cell in group:
        look = colours.look(cell)
        at = next((at for at, used in enumerate(looks) if len(used) < MAX_CURVES and look not in used), len(parts))
        if at == len(parts):
            parts.append([])
            looks.append(set())
        parts[at].append(cell)
        looks[at].add(look)
    return parts


def _with_last_iterates(metrics: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Metrics in which an analytic trial has a loss at its last iterate too, where no batch is evaluated."""
    if "hitting_status" not in trials or "train_loss" not in metrics:
        return metrics
    ended = trials[trials["hitting_status"].notna() & (trials["status"] == "done")]
    last = metrics["trial_id"].map(dict(zip(ended["trial_id"], ended["committed_step"], strict=True)))
    loss_of = metrics["trial_id"].map(dict(zip(ended["trial_id"], ended["final_train_loss"], strict=True)))
    at_the_end = metrics["train_loss"].isna() & (metrics["step"] == last)
    return metrics.assign(train_loss=metrics["train_loss"].mask(at_the_end, loss_of))


def _curve(axis: Axes, rows: pd.DataFrame, column: str, *, smooth: bool, **look: Any) -> list[dict[str, Any]]:
    """Mean over seeds and the band between them; one batch's loss is noisy, so training loss is smoothed."""
    by_seed = rows.pivot(index="step", columns="trial_id", values=column).dropna(how="all")
    by_seed = by_seed.where(np.isfinite(by_seed))
    if smooth:
        by_seed = by_seed.rolling(max(1, len(by_seed) // 40), min_periods=1).mean()
    mean, low, high = by_seed.mean(axis=1), by_seed.min(axis=1), by_seed.max(axis=1)
    if not len(by_seed):
        return []
    if by_seed.count().max() <= _FEW:
        # A line would claim to know what lies between.
        axis.plot(by_seed.index, mean, marker=_MARKERS[look.pop("linestyle")], markersize=4, linestyle="none", **look)
    else:
        axis.plot(by_seed.index, mean, linewidth=0.8 * mpl.rcParams["lines.linewidth"], **look)
    axis.fill_between(by_seed.index, low, high, color=look["color"], alpha=0.15, linewidth=0)
    drawn = zip(by_seed.index, mean, low, high, by_seed.count(axis=1), strict=True)
    return [
        {"step": int(step), "mean": float(middle), "low": float(least), "high": float(most), "seeds": int(count)}
        for step, middle, least, most, count in drawn
    ]


def _crosses(axis: Axes, cell: DrawnCell, top: float, colour: Any) -> None:
    """A cross where each diverged seed ended, inside the axes."""
    for _, trial in cell.trials[cell.trials["status"] == "diverged"].iterrows():
        last = float(trial["last_finite_loss"])
        height = min(last, top) if math.isfinite(last) else top
        axis.plot(trial["diverged_step"], height, "x", color=colour, markersize=6, clip_on=False)


def _readable_top(metrics: pd.DataFrame, column: str) -> float:
    """Where to cut the axis, so that one exploding run does not flatten all others: half above the first losses."""
    values = metrics[column][np.isfinite(metrics[column])]
    first = metrics.loc[metrics["step"] == 0, "train_loss"]
    start = first[np.isfinite(first)].median()
    highest = values.max() if len(values) else 1.0
    return float(min(highest, 1.5 * start) if np.isfinite(start) and start > 0 else highest)


def _notes(shown: Sequence[tuple[str, list[DrawnCell]]], scales: Sequence[_Scale], *, smooth: bool) -> list[str]:
    """Sentences on how to read the curves."""
    seeds = sorted({cell.trials["seed"].nunique() for _, group in shown for cell in group})
    count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    notes = []
    if seeds[-1] > 1:
        notes.append(f"line: mean; band: lowest to highest of {count} seeds")
    if smooth:
        notes.append("training loss: running mean over a fortieth of the steps")
    if any(scale.is_cut for scale in scales):
        tops = list(dict.fromkeys(f"{scale.top:.3g}" for scale in scales if scale.is_cut))
        notes.append(f"axis cut at {tops[0]}" if len(tops) == 1 else "axes cut half above the first losses")
    if len(set(scales)) > 1:
        notes.append("problems of different sizes have axes of their own")
    return ["; ".join(notes)] if notes else []


def _handles(
    shown: Sequence[tuple[str, list[DrawnCell]]], colours: _Colours, labels: Mapping[str, str]
) -> list[Line2D]:
    """What curves are: one entry per cell in a single panel; in several, whose titles say the rest, per colour."""
    cells = [cell for _, group in shown for cell in group]
    styles = [style for style in _STYLES if style in {_style(cell) for cell in cells}]
    if len(shown) == 1:
        handles = [
            Line2D([], [], color=colour, linestyle=style, label=labels[cell.cell_id])
            for cell in cells
            for colour, style in [colours.look(cell)]
        ]
    else:
        values = sorted({colours.of(cell) for cell in cells} - {None}) if colours.name else []
        values += [None] if colours.name and any(colours.of(cell) is None for cell in cells) else []
        handles = [
            Line2D(
                [],
                [],
                color=colours.colours[value],
                label=f"{colours.name}={'none' if value is None else format(value, 'g')}".replace("$", "\\$"),
            )
            for value in values
        ]
        if not colours.name:
            firsts = {colours.of(cell): cell for cell in reversed(cells)}
            things = [{**cell.context, **cell.options, "optimizer": cell.optimizer} for cell in firsts.values()]
            handles = [
                Line2D([], [], color=colours.colours[kind], label=label)
                for kind, label in zip(firsts, tell_apart(things), strict=True)
                if len(firsts) > 1
            ]
    handles += [Line2D([], [], color="grey", linestyle=style, label=_STYLES[style]) for style in styles]
    if any((cell.trials["status"] == "diverged").any() for cell in cells):
        handles.append(Line2D([], [], color="grey", marker="x", linestyle="none", label="a seed diverged"))
    return handles
