"""The columns of every table: the only place where types, units and meanings are defined."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from sweeper.tables.columns import FLAG, NUMBER, TEXT, TIME, WHOLE, Column, schema_of
from sweeper.tables.measured import MEASURED
from sweeper.tables.trials import TRIALS

__all__ = [
    "COLUMNS",
    "MEASUREMENTS",
    "METRICS",
    "OF_ANALYTIC_METRICS",
    "TELEMETRY",
    "TRIAL_TYPES",
    "columns_of",
]

_LAST = "last iterate"
"""In the row of x_steps, which has metrics but no batch."""

_UNTOLD = "last iterate, or not told to a monitor"
"""The same, or in a loop of the user's own, of which is known what it says."""

_METRICS = (
    Column(name="trial_id", type=TEXT, meaning="The trial.", kind="id", shown="status"),
    Column(
        name="step",
        type=WHOLE,
        meaning="k: the row is about x_k, the weights before step k.",
        unit="steps",
        shown="plot loss",
    ),
    Column(
        name="epoch",
        type=NUMBER,
        meaning="Passes over the training data before step k.",
        unit="passes",
        null="not told to a monitor",
    ),
    Column(
        name="train_loss",
        type=NUMBER,
        meaning="Training loss of the batch of step k at x_k, the mean over its micro-batches where it has several.",
        unit="loss",
        null=_UNTOLD,
        shown="plot loss",
    ),
    Column(
        name="grad_norm",
        type=NUMBER,
        meaning="Norm of its gradient, before clipping or normalising.",
        unit="loss / weight",
        null=_UNTOLD,
        shown="advise",
    ),
    Column(
        name="step_size",
        type=NUMBER,
        meaning="Learning rate times the scale of clipping, eq. (5), or normalising, eq. (6).",
        null=_UNTOLD,
        shown="advise",
    ),
    Column(
        name="clipped", type=FLAG, meaning="Whether the gradient, or that of a micro-batch, was clipped.", null=_UNTOLD
    ),
    Column(
        name="update_norm",
        type=NUMBER,
        meaning="‖x_{k+1} − x_k‖.",
        unit="weight",
        null="last iterate, or no snapshot of a monitor",
    ),
    Column(
        name="learning_rate",
        type=NUMBER,
        meaning="Of step k, after schedule and warm-up; with muon, Muon's.",
        null=_UNTOLD,
    ),
    Column(
        name="threshold",
        type=NUMBER,
        meaning="γ of step k: a gradient of a larger norm is clipped to it, or its step skipped.",
        unit="loss / weight",
        null="last iterate, no clipping by one norm, a warm-up, or written before version 0.2",
    ),
)

_OWN = "not evaluated at this step"

OF_ANALYTIC_METRICS = (
    Column(name="gap", type=NUMBER, meaning="f(x_k) − f*, of analytic functions.", unit="loss", null=_OWN),
    Column(
        name="full_grad_norm",
        type=NUMBER,
        meaning="‖∇f(x_k)‖ without the noise, of analytic functions.",
        unit="loss / weight",
        null=_OWN,
    ),
)
"""The metrics of analytic trials; those of other problems are what their ``evaluate`` returns."""

_CPU = "trained on a CPU, or by an earlier version"

_TELEMETRY = (
    Column(name="trial_id", type=TEXT, meaning="The trial.", kind="id", shown="status"),
    Column(
        name="driver_epoch",
        type=pa.int32(),
        meaning="Which driver of the run committed the segment, from 1; called `epoch` before version 0.2.",
        shown="logs",
    ),
    Column(
        name="attempt",
        type=pa.int32(),
        meaning="Which attempt of the trial under that driver, from 1; one that never began leaves a gap.",
        shown="logs",
    ),
    Column(name="start", type=WHOLE, meaning="First step of the segment.", unit="steps", shown="logs"),
    Column(name="stop", type=WHOLE, meaning="The step after its last one.", unit="steps", shown="logs"),
    Column(name="started_at", type=TIME, meaning="When the segment began."),
    Column(name="ended_at", type=TIME, meaning="When it ended.", shown="logs"),
    Column(name="train_s", type=NUMBER, meaning="Spent on steps.", unit="s", shown="logs, report"),
    Column(name="evaluate_s", type=NUMBER, meaning="Spent on evaluations.", unit="s"),
    Column(
        name="waited_s",
        type=NUMBER,
        meaning="For which the trainer waited for estimators; in a recorded loop, all that the monitor took.",
        unit="s",
    ),
    Column(name="estimate_s", type=NUMBER, meaning="Spent by estimators on its snapshots.", unit="s"),
    Column(name="num_snapshots", type=WHOLE, meaning="Snapshots taken in it.", unit="snapshots"),
    Column(name="host", type=TEXT, meaning="Where it was trained.", shown="logs, report"),
    Column(
        name="node", type=TEXT, meaning="Ray's id of the node.", null="trained without Ray", kind="id", shown="report"
    ),
    Column(name="pid", type=WHOLE, meaning="Process that trained it.", kind="id"),
    Column(name="device", type=TEXT, meaning="The GPU that trained it.", null=_CPU, shown="report"),
    Column(name="driver", type=TEXT, meaning="Version of that GPU's driver.", null=f"{_CPU}, or it does not tell"),
    Column(name="cuda", type=TEXT, meaning="Version of CUDA that torch was built for.", null=_CPU),
    Column(name="cudnn", type=TEXT, meaning="Version of cuDNN, as torch numbers it.", null=_CPU),
    Column(
        name="measured_on",
        type=TEXT,
        meaning="The GPUs that measured its snapshots, separated by commas.",
        null="measured on CPUs, not at all, or by an earlier version",
    ),
    Column(name="data", type=TEXT, meaning="The problem's fingerprint of its data.", kind="id"),
    Column(
        name="environment_id",
        type=TEXT,
        meaning="Versions, processor and threads that it was trained with, and on a GPU that GPU.",
        kind="id",
    ),
)

COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "trials": TRIALS,
    "metrics": _METRICS,
    "telemetry": _TELEMETRY,
    **{f"measurements/{name}": columns for name, columns in MEASURED.items()},
}
"""Table to the columns that do not depend on the problem and on what is swept."""

MEASUREMENTS: Mapping[str, pa.Schema] = {name: schema_of(columns) for name, columns in MEASURED.items()}
"""Estimator to columns, one row per snapshot; ``docs/estimators.md`` says what every column means."""

METRICS = schema_of(_METRICS)
"""One row per logged step: loss and gradient of batch k at x_k. The problem's own metrics follow as further columns."""

TRIAL_TYPES: Mapping[str, pa.DataType] = {column.name: column.type for column in TRIALS}
"""Types of the columns of ``trials`` that do not depend on what is swept."""

TELEMETRY = schema_of(_TELEMETRY)
"""One row per segment: where it ran and what it cost. ``driver_epoch`` was called ``epoch`` before version 0.2."""


def columns_of(table: str) -> tuple[Column, ...]:
    """What is known of a table's columns.

    Args:
        table: Its name: ``trials``, ``metrics``, ``telemetry`` or ``measurements/<estimator>``.

    Returns:
        The columns; those of a problem's own metrics and of swept values are not among them.
    """
    return COLUMNS.get(table, ()) + (OF_ANALYTIC_METRICS if table == "metrics" else ())
