"""What a shell completes: runs, columns and their values, formats, kinds.

Each function is called while somebody types: it loads no more than it needs, says nothing, and has no suggestions where
anything goes wrong.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import typer

from sweeper.formats import FORMATS

__all__ = [
    "PLOT_KINDS",
    "complete_column",
    "complete_condition",
    "complete_format",
    "complete_kind",
    "complete_run",
    "complete_run_or_plot",
    "complete_sort",
    "one_of",
]

PLOT_KINDS = (
    "smoothness",
    "loss",
    "fit",
    "frontier",
    "agreement",
    "sharpness",
    "stability",
    "noise",
    "phase",
    "speedup",
    "floor",
)
"""What ``plot`` draws: the names of ``PLOTS``, which is not loaded for them, as matplotlib takes a second."""

Suggestion = str | tuple[str, str]
"""A text, or one with what it means."""

_MOST = 200
_MOST_ENTRIES = 5_000
"""Of a folder, so that a large one does not hold up the shell."""

_MOST_VALUES = 30


def _quiet(complete: Callable[[typer.Context, str], Iterable[Suggestion]]) -> Callable[..., list[Suggestion]]:
    """The same without errors, and without what a terminal would act on."""

    @functools.wraps(complete)
    def safe(ctx: typer.Context, incomplete: str) -> list[Suggestion]:
        try:
            found = list(itertools.islice(complete(ctx, incomplete), _MOST))
        except Exception:  # a suggestion that there is not is no reason to disturb who types
            return []
        return [one for one in found if (one if isinstance(one, str) else one[0] + one[1]).isprintable()]

    return safe


def one_of(*names: str) -> Callable[..., list[Suggestion]]:
    """Completes one of a few names.

    Args:
        names: The names.

    Returns:
        A callback for ``autocompletion``.
    """

    def complete(ctx: typer.Context, incomplete: str) -> Iterable[Suggestion]:
        return names

    return _quiet(complete)


complete_format = one_of(*FORMATS)


@_quiet
def complete_kind(ctx: typer.Context, incomplete: str) -> Iterable[Suggestion]:
    """What ``clipsweep list`` lists."""
    from sweeper.spec.catalog import KINDS

    return tuple(KINDS)


# Runs


@_quiet
def complete_run(ctx: typer.Context, incomplete: str) -> Iterable[Suggestion]:
    """Run directories below what is typed, in its folder or one below; where there are none, folders."""
    return _runs(incomplete)


@_quiet
def complete_run_or_plot(ctx: typer.Context, incomplete: str) -> Iterable[Suggestion]:
    """Run directories; behind the first one kinds of plots, too."""
    kinds = PLOT_KINDS if _words(ctx) else ()
    return [*(kind for kind in kinds if kind.startswith(incomplete)), *_runs(incomplete)]


def _runs(incomplete: str) -> list[str]:
    folder, beginning = os.path.split(incomplete)
    runs: list[str] = []
    others: list[str] = []
    for name in _folders(folder or "."):
        if not name.startswith(beginning) or (name.startswith(".") and not beginning):
            continue
        path = os.path.join(folder, name)
        if _is_run(path):
            runs.append(path)
        elif inner := [found for one in _folders(path) if _is_run(found := os.path.join(path, one))]:
            runs += inner
        else:
            others.append(path + "/")
    return runs or others


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in itertools.islice(entries, _MOST_ENTRIES) if entry.is_dir())
    except OSError:
        return []


def _is_run(path: str) -> bool:
    return Path(path, "journal.jsonl").is_file()


# Columns


@_quiet
def complete_column(ctx: typer.Context, incomplete: str) -> Iterable[Suggestion]:
    """Columns of ``trials``, what is swept first."""
    return _columns(ctx).items()


@_quiet
def complete_sort(ctx: typer.Context, incomplete: str) -> Iterable[Suggestion]:
    """What rows of a report are sorted by."""
    columns = _columns(ctx)
    losses = [name for name in columns if name == "final_train_loss" or name.startswith(("best_", "test_"))]
    swept = [name for name, about in columns.items() if about == _SWEPT and "." not in name]
    return [*swept, *losses, "arm", "seeds", "trials", "diverged", "clipped_fraction", "rank_correlation"]


@_quiet
def complete_condition(ctx: typer.Context, incomplete: str) -> Iterator[Suggestion]:
    """The column of a condition, or, behind ``=``, the values that it has."""
    # What stands before the last "and" is done.
    done = incomplete[: incomplete.rfind(" and ") + 5] if " and " in incomplete else ""
    typed = incomplete[len(done) :]
    columns = {name: about for name, about in _columns(ctx).items() if typed.startswith(name) or name.startswith(typed)}
    for name in columns:
        for operator in ("!=", "="):
            if typed.startswith(f"{name}{operator}"):
                yield from (f"{done}{name}{operator}{text}" for text in _values(ctx, name))
                return
    named = [name for name in columns if name.startswith(typed)]
    for name in named:
        yield f"{done}{name}=", columns[name]
        # A shell ends the word behind the only suggestion, and a condition goes on.
        if len(named) == 1:
            yield f"{done}{name}!=", columns[name]


_SWEPT = "swept"


def _columns(ctx: typer.Context) -> Mapping[str, str]:
    """Name of a column to what it is: swept ones by their short names and by their paths."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(_trials(ctx))
    swept = _swept(schema.names)
    columns = dict.fromkeys([*swept.values(), *swept], _SWEPT)
    for field in schema:
        columns.setdefault(field.name, (field.metadata or {}).get(b"description", b"").decode())
    return columns


def _swept(columns: Iterable[str]) -> Mapping[str, str]:
    """Swept paths among the columns, each to its short name."""
    from sweeper.labels import short_names

    made = ("best_", "final_", "test_", "not_finite_")
    return short_names([name for name in columns if "." in name and not name.startswith(made) and name[-5:] != ".json"])


def _values(ctx: typer.Context, name: str) -> list[str]:
    """The values of a column, as tables show them."""
    import pyarrow.parquet as pq

    from sweeper.value_texts import texts_of

    file = pq.ParquetFile(_trials(ctx))
    column = next((path for path, short in _swept(file.schema_arrow.names).items() if short == name), name)
    values = file.read(columns=[column])[column].unique()
    return list(texts_of(values.slice(0, _MOST_VALUES).to_pylist()).values())


def _trials(ctx: typer.Context) -> Path:
    """The trials of the first run that the line names."""
    return next(path for word in _words(ctx) if (path := Path(word, "trials.parquet")).is_file())


def _words(ctx: typer.Context) -> list[str]:
    """The arguments of the line so far: in ``args`` where it is not yet one that can be read."""
    read = [ctx.params.get("run"), *(ctx.params.get("runs") or ()), ctx.params.get("kind")]
    return [str(word) for word in (*read, *ctx.args) if word]
