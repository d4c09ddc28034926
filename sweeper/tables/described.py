"""What tables and their columns are, in the words that Parquet files carry and ``docs/tables.md`` prints."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa

from sweeper.tables.columns import NUMBER, TEXT, Column, describe_columns
from sweeper.tables.schemas import columns_of

__all__ = ["ABOUT", "EXACT", "NOT_FINITE", "described", "made_column"]

EXACT = ".json"
"""End of the name of a column with a path's exact values, where values of one type cannot tell them: ``1`` and ``"1"``.

A path of the spec cannot have this name: a path is not swept together with a part of itself.
"""

NOT_FINITE = "not_finite_"
"""Beginning of the name of a column with the number of a metric's evaluations that gave NaN or infinity.

There is one only for metrics of which any trial has such evaluations; null for the other trials.
"""

ABOUT: Mapping[str, str] = {
    "trials": "What each trial was, and how it ended.",
    "metrics": "What training saw.",
    "telemetry": "Where each segment was trained, and what it cost.",
    "measurements/directional_smoothness": "Eq. (20) between two consecutive iterates.",
    "measurements/layer_smoothness": "Eq. (20) for one parameter tensor at a time.",
    "measurements/directional_curvature": "The curvature along the update, without a division by a small step.",
    "measurements/other_directions": (
        "Eq. (20) as far away as the step went, along the gradient and along random directions."
    ),
    "measurements/critical_sharpness": "How far along the update the loss stays below its value at the start.",
    "measurements/hessian_spectral_norm": "The eigenvalue of the Hessian that is largest in modulus.",
    "measurements/hessian_spectrum": "More eigenvalues of the Hessian, and its trace.",
    "measurements/preconditioned_sharpness": (
        "The top eigenvalue of the Hessian, preconditioned as the optimiser's step was."
    ),
    "measurements/gradient_noise": "The noise of the gradients of training batches, at x_k.",
    "measurements/authors_compat": (
        "What the script that the paper's authors published computes: for comparison, never for results."
    ),
    "measurements/own": "What estimators of your own measured: one row per snapshot for all of them.",
}
"""Table to what it is."""


def described(name: str, table: pa.Table, *, swept: Collection[str] = ()) -> pa.Table:
    """A table with descriptions, as Parquet keeps them for readers of Arrow.

    Args:
        name: ``trials``, ``metrics``, ``telemetry`` or ``measurements/<estimator>``.
        table: Its rows.
        swept: Swept paths.

    Returns:
        The same rows. The schema and every field have ``description``, fields also ``unit`` where they have one.
    """
    known = {column.name for column in columns_of(name)}
    made = [made_column(name, column, swept) for column in table.column_names if column not in known]
    described = describe_columns(table, [*columns_of(name), *made])
    return described.replace_schema_metadata({**(table.schema.metadata or {}), "description": ABOUT[name]})


def made_column(table: str, name: str, swept: Collection[str]) -> Column:
    """What a column is that depends on the problem or on what is swept.

    Args:
        table: The table.
        name: The column.
        swept: Swept paths.

    Returns:
        Its description.

    Example:
        >>> made_column("trials", "problem.width", ["problem.width"]).meaning
        'Swept: `problem.width` of the spec.'
        >>> made_column("trials", "best_valid_loss", []).meaning
        'The best value of `valid_loss` that is finite.'
    """
    if name in swept:
        return Column(name=name, type=NUMBER, meaning=f"Swept: `{name}` of the spec.")
    if name.endswith(EXACT) and name.removesuffix(EXACT) in swept:
        return Column(name=name, type=TEXT, meaning=f"Swept: `{name.removesuffix(EXACT)}` of the spec, as JSON.")
    meaning = f"`{name}`, as the problem's `evaluate` returns it."
    if table == "trials":
        meaning = f"`{name}`, evaluated once, at the end."
        for beginning, words in _OF_METRICS.items():
            if name.startswith(beginning):
                meaning = words.format(name.removeprefix(beginning))
    return Column(name=name, type=NUMBER, meaning=meaning)


_OF_METRICS = {
    "best_": "The best value of `{}` that is finite.",
    "final_": "The last value of `{}`.",
    NOT_FINITE: "How many evaluations of `{}` gave NaN or infinity.",
}
