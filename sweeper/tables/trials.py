"""The columns of ``trials`` that every problem has: what a trial was, and how it ended."""

from __future__ import annotations

import pyarrow as pa

from sweeper.tables.columns import FLAG, NUMBER, TEXT, TIME, WHOLE, Column

__all__ = ["TRIALS"]

_OPEN = "not ended"
_UNBEGUN = "nothing committed"
_NOT_ANALYTIC = "not analytic"

TRIALS = (
    Column(
        name="trial_id", type=TEXT, meaning="Hash of all that the trial is trained with.", kind="id", shown="status"
    ),
    Column(name="cell_id", type=TEXT, meaning="The same without the seed.", kind="id", shown="plan, fit"),
    Column(
        name="arm",
        type=TEXT,
        meaning="The update rule up to its swept numbers: `sgd + clip_norm`.",
        kind="words",
        shown="plan, report, fit, advise",
    ),
    Column(
        name="case",
        type=TEXT,
        meaning="The name of the trial's case in `sweep.cases`.",
        null="no cases, or none with a name",
        kind="words",
        shown="report, fit, advise",
    ),
    Column(name="seed", type=WHOLE, meaning="The seed.", shown="status"),
    Column(
        name="status",
        type=TEXT,
        meaning="`queued`, `paused`, `running`, `held` (by a search), `done`, `diverged`, `failed` or `lost`.",
        shown="status, ls, report",
    ),
    Column(
        name="learning_rate",
        type=NUMBER,
        meaning="Of the update rule, set by a theorem too.",
        null="recorded, and parameter groups have different ones",
        shown="report, advise",
    ),
    Column(
        name="clip_norm",
        type=NUMBER,
        meaning="Threshold of clipping by norm, eq. (5).",
        unit="loss / weight",
        null="no clipping by norm",
        shown="report, advise",
    ),
    Column(
        name="steps",
        type=WHOLE,
        meaning="Steps to train.",
        unit="steps",
        null="recorded, not ended, and not told",
        shown="status",
    ),
    Column(
        name="final_train_loss",
        type=NUMBER,
        meaning="Mean of the last tenth of the logged losses; of an analytic trial, f at the last iterate.",
        unit="loss",
        null="diverged, or no loss yet",
        shown="report",
    ),
    Column(name="superseded", type=FLAG, meaning="Whether a changed spec has replaced the trial.", shown="status"),
    Column(
        name="code_id",
        type=TEXT,
        meaning="Beginning of the hash of your own code that it is trained with; of several, with + between them.",
        null="registered code",
        kind="id",
    ),
    Column(name="committed_step", type=WHOLE, meaning="Steps whose rows are committed.", unit="steps", shown="status"),
    Column(name="attempts", type=pa.int32(), meaning="How often the trial was begun.", shown="status"),
    Column(name="started_at", type=TIME, meaning="When its first segment began.", null=_UNBEGUN),
    Column(name="ended_at", type=TIME, meaning="When it ended.", null=_OPEN),
    Column(name="train_s", type=NUMBER, meaning="Spent on training steps.", unit="s"),
    Column(name="estimate_s", type=NUMBER, meaning="Spent by estimators on its snapshots.", unit="s"),
    Column(
        name="diverged_step",
        type=WHOLE,
        meaning="The first step whose loss, gradient or update is not finite, or whose loss exceeds `max_loss`.",
        unit="steps",
        null="not diverged",
        shown="plot loss",
    ),
    Column(
        name="last_finite_loss",
        type=NUMBER,
        meaning="The last training loss that was finite.",
        unit="loss",
        null="none was",
        shown="plot loss",
    ),
    Column(
        name="clipped_fraction",
        type=NUMBER,
        meaning="Share of the steps that were clipped.",
        null="no step committed",
        shown="report, advise, theory",
    ),
    Column(
        name="error",
        type=TEXT,
        meaning="Why it failed or was lost, in a line.",
        null="neither",
        kind="words",
        shown="status",
    ),
    Column(
        name="environment_id",
        type=TEXT,
        meaning="Versions, processor and threads that it was last trained with, which `environment.json` says, and on "
        "a GPU that GPU, of which `telemetry` says more.",
        null=_UNBEGUN,
        kind="id",
    ),
    Column(
        name="device",
        type=TEXT,
        meaning="The GPU that last trained it.",
        null="trained on a CPU, or by an earlier version",
        shown="report",
    ),
    Column(name="drift", type=FLAG, meaning="Whether these changed along the way."),
    Column(name="function_name", type=TEXT, meaning="The analytic function.", null=_NOT_ANALYTIC, shown="theory"),
    Column(
        name="hitting_time",
        type=WHOLE,
        meaning="T of eq. (7): the first t with ‖∇f(x_t)‖ ≤ ε.",
        unit="steps",
        null="not analytic, or not reached",
        shown="theory, plot phase, plot speedup",
    ),
    Column(
        name="hitting_status",
        type=TEXT,
        meaning="`hit`, `diverged` or `capped`.",
        null=_NOT_ANALYTIC,
        shown="theory, plot phase",
    ),
    Column(
        name="epsilon", type=NUMBER, meaning="ε, the gradient norm to reach.", unit="loss / weight", null=_NOT_ANALYTIC
    ),
    Column(name="L0", type=NUMBER, meaning="L0 of Definition 1.", unit="loss / weight²", null=_NOT_ANALYTIC),
    Column(name="L1", type=NUMBER, meaning="L1 of Definition 1.", unit="1 / weight", null=_NOT_ANALYTIC),
    Column(
        name="M",
        type=NUMBER,
        meaning="M of Assumption 4: the largest gradient norm where f ≤ f(x_0); Theorem 8 has sup ‖∇f‖ in its place.",
        unit="loss / weight",
        null=_NOT_ANALYTIC,
        shown="theory",
    ),
    Column(name="initial_gap", type=NUMBER, meaning="f(x_0) − f*.", unit="loss", null=_NOT_ANALYTIC),
    Column(
        name="noise",
        type=NUMBER,
        meaning="τ of Assumption 5: the bound on the gradient's noise; 0 for none.",
        unit="loss / weight",
        null=_NOT_ANALYTIC,
        shown="theory, plot floor",
    ),
    Column(
        name="iteration_bound",
        type=NUMBER,
        meaning="The theorem's bound on the hitting time.",
        unit="steps",
        null="no theorem sets the rule",
        shown="theory",
    ),
    Column(
        name="min_grad_norm",
        type=NUMBER,
        meaning="The smallest ‖∇f(x_k)‖.",
        unit="loss / weight",
        null="not analytic, or none was finite",
    ),
    Column(
        name="tail_grad_norm",
        type=NUMBER,
        meaning="Mean of ‖∇f(x_k)‖ over the second half of the steps.",
        unit="loss / weight",
        null="not analytic, or ended earlier",
        shown="theory, plot floor",
    ),
)
"""Swept values, and the best and last values of metrics, follow as further columns."""
