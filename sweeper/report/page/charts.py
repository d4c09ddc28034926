"""The charts of a page as Vega-Lite specifications, made with altair; their numbers are added in the browser.

Every mark has a cell. A reader who chooses cells, in a table or by brushing any chart, dims the marks of all others
everywhere: the parameters ``any`` and ``lit`` of each specification say which are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sweeper.report.page.data import Chart

__all__ = ["BRUSHED", "DATA", "specification", "title_of"]

DATA = "points"
"""What the data of every specification is called."""

BRUSHED: Mapping[str, tuple[str, ...]] = {
    "curves": ("step", "mean"),
    "scatter": ("grad_norm", "smoothness"),
    "rates": ("rate", "mean"),
    "frontier": ("threshold", "rate"),
    "activity": ("step", "share"),
    "constants": ("L0", "L1"),
}
"""Chart to the columns that its brush selects by."""

_TITLES: Mapping[str, tuple[str, str]] = {
    "curves": ("{quantity} by step", "Line: mean over the seeds of a cell. Band: lowest to highest seed."),
    "scatter": (
        "smoothness and gradient norm, snapshot by snapshot",
        "Each dot is a snapshot: smoothness along the step, eq. (20), over the gradient norm of the same function.",
    ),
    "rates": ("{loss} by learning rate", "Each dot is a cell."),
    "frontier": ("where training is stable", "Each square is a cell: the share of its seeds that were unstable."),
    "activity": ("how much is clipped, by step", "The share of steps on which the threshold was exceeded."),
    "constants": ("L0 and L1 of the upper line", "Each dot is a cell whose L1 can be identified; bars: 95 %."),
}
"""Chart to its title and to how it is read."""


def title_of(chart: Chart) -> tuple[str, str]:
    """A chart's title, and how it is read.

    Args:
        chart: The chart.

    Returns:
        Both, without markup.
    """
    title, reading = _TITLES[chart.kind]
    words = {name: str(value).replace("_", " ") for name, value in chart.options.items()}
    return title.format_map(words), reading


def specification(chart: Chart, *, num_arms: int, num_rates: int) -> dict[str, Any]:
    """A chart as Vega-Lite has it.

    Args:
        chart: The chart.
        num_arms: How many arms there are: lines and dots of different arms look different, as far as that can be seen.
        num_rates: How many learning rates were tried: colours stand for them where there are several.

    Returns:
        The specification, without data and colours: these are the theme's.
    """
    made = _MAKERS[chart.kind](chart, _Look(num_arms=num_arms, num_rates=num_rates))
    title, reading = title_of(chart)
    # The look is the theme's of the page, not altair's own.
    specified: dict[str, Any] = made.properties(
        width="container", height=300, description=f"{title}. {reading}"
    ).to_dict()
    specified.pop("config", None)
    return specified


class _Look:
    """What colour, dash and opacity say in every chart."""

    def __init__(self, *, num_arms: int, num_rates: int) -> None:
        self._num_rates = num_rates
        self.tells_arms = 1 < num_arms <= _MOST_ARMS

    def of_arms(self) -> _Look:
        """The same where colours stand for arms."""
        return _Look(num_arms=2 if self.tells_arms else 1, num_rates=1)

    def colour(self, *, legend: bool = True) -> dict[str, Any]:
        """By learning rate, or by arm where one rate was tried."""
        import altair as alt

        def shown(**more: Any) -> Any:
            return _legend(**more) if legend else None

        if self._num_rates > _MOST_RATES:
            scale = alt.Scale(type="log")
            return {"color": alt.Color("rate:Q", scale=scale, title="learning rate", legend=shown(type="gradient"))}
        if self._num_rates > 1:
            return {"color": alt.Color("rate:O", title="learning rate", legend=shown())}
        return {"color": alt.Color("arm:N", title="arm", legend=shown())} if self.tells_arms else {}

    def dash(self) -> dict[str, Any]:
        """By arm."""
        import altair as alt

        return {"strokeDash": alt.StrokeDash("arm:N", title="arm", legend=_legend())} if self.tells_arms else {}

    def shape(self) -> dict[str, Any]:
        """By arm."""
        import altair as alt

        return {"shape": alt.Shape("arm:N", title="arm", legend=_legend())} if self.tells_arms else {}

    def opacity(self, full: float) -> dict[str, Any]:
        """Dim what is not chosen."""
        import altair as alt

        return {"opacity": alt.condition(_IS_LIT, alt.value(full), alt.value(full * 0.07))}


_MOST_ARMS = 6
"""Arms whose dashes and shapes can be told apart."""

_MOST_RATES = 8
"""Learning rates that a legend names one by one."""

_IS_LIT = "!any || lit[datum.cell]"


def _legend(**more: Any) -> Any:
    """Above the chart, so that a phone has its whole width for the points."""
    import altair as alt

    return alt.Legend(orient="top", titleOrient="left", titleAnchor="middle", labelLimit=260, symbolOpacity=1, **more)


def _parameters() -> list[Any]:
    import altair as alt

    return [alt.param(name="any", value=False), alt.param(name="lit", value={})]


def _brush() -> Any:
    import altair as alt

    return alt.selection_interval(name="brush", zoom=False)


def _curves(chart: Chart, look: _Look) -> Any:
    import altair as alt

    domain = [chart.options["low"], chart.options["top"]]
    scale = alt.Scale(type="log" if chart.options["log"] else "linear", domain=domain, nice=not chart.options["cut"])
    words = str(chart.options["quantity"]).replace("_", " ")
    base = alt.Chart(alt.NamedData(name=DATA)).encode(x=alt.X("step:Q", title="step"), detail="cell:N")
    # The legend is that of the lines: one for fills and strokes alike could not be a gradient.
    fill, stroke = look.colour(legend=False), look.colour()
    band = base.mark_area(clip=True, interpolate="linear").encode(
        y=alt.Y("low:Q", scale=scale, title=words), y2="high:Q", **fill, **look.opacity(0.15)
    )
    line = base.mark_line(clip=True, strokeWidth=1.5, point=False).encode(
        y=alt.Y("mean:Q", scale=scale, title=words), **stroke, **look.dash(), **look.opacity(1.0)
    )
    layers = alt.layer(band, line.add_params(_brush())).add_params(*_parameters())
    return layers.resolve_legend(color="independent")


def _log() -> Any:
    """A logarithmic axis that ends near its points."""
    import altair as alt

    return alt.Scale(type="log", nice=False, padding=10)


def _scatter(chart: Chart, look: _Look) -> Any:
    import altair as alt

    return (
        alt
        .Chart(alt.NamedData(name=DATA))
        .mark_point(size=14, filled=True)
        .encode(
            x=alt.X("grad_norm:Q", scale=_log(), title="gradient norm ‖∇f(x)‖"),
            y=alt.Y("smoothness:Q", scale=_log(), title="local smoothness, eq. (20)"),
            **look.colour(),
            **look.shape(),
            **look.opacity(0.75),
        )
        .add_params(_brush(), *_parameters())
    )


def _rates(chart: Chart, look: _Look) -> Any:
    import altair as alt

    words = str(chart.options["loss"]).replace("_", " ")
    base = alt.Chart(alt.NamedData(name=DATA)).encode(x=alt.X("rate:Q", scale=_log(), title="learning rate"))
    arms = look.of_arms()
    # An interval of two seeds may span decades, and a loss near divergence even more: neither may hide the others.
    domain = [chart.options["low"], chart.options["top"]]
    # Each kind of axis would warn of what only the other one has.
    kind: dict[str, Any] = {"type": "log"} if chart.options["log"] else {"zero": False}
    scale = alt.Scale(domain=domain, nice=False, padding=10, **kind)
    bars = (
        base
        .transform_filter("isValid(datum.low) && isValid(datum.high)")
        .mark_rule(clip=True)
        .encode(y=alt.Y("low:Q", scale=scale, title=words), y2="high:Q", **arms.colour(), **arms.opacity(0.5))
    )
    dots = base.mark_point(size=60, filled=True, clip=True).encode(
        y=alt.Y("mean:Q", scale=scale, title=words), **arms.colour(), **arms.opacity(1.0)
    )
    layers = [bars] if chart.options["bars"] else []
    return alt.layer(*layers, dots.add_params(_brush())).add_params(*_parameters())


def _frontier(chart: Chart, look: _Look) -> Any:
    import altair as alt

    # Cells that differ in something else stand beside one another.
    abreast = int(chart.options["abreast"])
    offset = {"xOffset": alt.XOffset("beside:O")} if abreast > 1 else {}
    return (
        alt
        .Chart(alt.NamedData(name=DATA))
        .mark_square(size=max(12, 220 // abreast), opacity=1)
        .encode(
            x=alt.X(
                "threshold:N",
                sort=chart.options["thresholds"],
                title="threshold on the gradient norm",
                axis=alt.Axis(labelAngle=0),
            ),
            y=alt.Y("rate:Q", scale=_log(), title="learning rate"),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(domain=[0, 1], range="heatmap"),
                title="unstable",
                legend=_legend(format=".0%"),
            ),
            **offset,
            **look.opacity(1.0),
        )
        .add_params(_brush(), *_parameters())
    )


def _activity(chart: Chart, look: _Look) -> Any:
    import altair as alt

    return (
        alt
        .Chart(alt.NamedData(name=DATA))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("share:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%"), title="clipped steps"),
            detail="cell:N",
            **look.colour(),
            **look.dash(),
            **look.opacity(1.0),
        )
        .add_params(_brush(), *_parameters())
    )


def _constants(chart: Chart, look: _Look) -> Any:
    import altair as alt

    def axis(channel: Any, field: str, title: str) -> Any:
        return channel(f"{field}:Q", scale=_log(), title=title)

    base = alt.Chart(alt.NamedData(name=DATA))
    across = (
        base
        .transform_filter("datum.L0_low > 0")
        .mark_rule()
        .encode(
            x=axis(alt.X, "L0_low", "L0"),
            x2="L0_high:Q",
            y=axis(alt.Y, "L1", "L1"),
            **look.colour(),
            **look.opacity(0.5),
        )
    )
    up = (
        base
        .transform_filter("datum.L1_low > 0")
        .mark_rule()
        .encode(
            x=axis(alt.X, "L0", "L0"),
            y=axis(alt.Y, "L1_low", "L1"),
            y2="L1_high:Q",
            **look.colour(),
            **look.opacity(0.5),
        )
    )
    dots = base.mark_point(size=60, filled=True).encode(
        x=axis(alt.X, "L0", "L0"), y=axis(alt.Y, "L1", "L1"), **look.colour(), **look.shape(), **look.opacity(1.0)
    )
    return alt.layer(across, up, dots.add_params(_brush())).add_params(*_parameters())


_MAKERS: Mapping[str, Callable[[Chart, _Look], Any]] = {
    "curves": _curves,
    "scatter": _scatter,
    "rates": _rates,
    "frontier": _frontier,
    "activity": _activity,
    "constants": _constants,
}
