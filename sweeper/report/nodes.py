"""How much of a sweep each node did: trials, steps and seconds, from ``telemetry``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from sweeper.tables.run import Run

__all__ = ["NodeShare", "node_shares"]


@dataclass(frozen=True, kw_only=True)
class NodeShare:
    """One node's work.

    Attributes:
        host: Its host name.
        node: The first eight digits of its Ray id; empty in runs of earlier versions.
        trials: Trials that were trained there, at least in part.
        steps: Steps trained there.
        train_s: Seconds of training, added up over its trainers.
        share: Its share of all steps; NaN if there are none.
    """

    host: str
    node: str
    trials: int
    steps: int
    train_s: float
    share: float


def node_shares(run: Run, trials: Collection[str]) -> tuple[NodeShare, ...]:
    """The work of each node, the busiest first.

    Args:
        run: The run.
        trials: The trials that count.

    Returns:
        One share per node; none if nothing has been committed.
    """
    if not run.has("telemetry"):
        return ()
    telemetry = run.telemetry
    telemetry = telemetry[telemetry["trial_id"].isin(trials)]
    nodes = telemetry["node"].astype(object).fillna("") if "node" in telemetry else pd.Series("", index=telemetry.index)
    steps = telemetry["stop"] - telemetry["start"]
    total = int(steps.sum())
    shares = []
    for (host, node), rows in telemetry.assign(node=nodes, steps=steps).groupby(["host", "node"]):
        done = int(rows["steps"].sum())
        shares.append(
            NodeShare(
                host=str(host),
                node=str(node)[:8],
                trials=int(rows["trial_id"].nunique()),
                steps=done,
                train_s=float(rows["train_s"].sum()),
                share=done / total if total else float("nan"),
            )
        )
    return tuple(sorted(shares, key=lambda share: (-share.steps, share.host, share.node)))
