"""How much of a sweep each node did: trials, steps and seconds, from ``telemetry``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from sweeper.tables.run import Run

__all__ = ["NodeShare", "device_notes", "node_shares"]

_CPU = "CPU"


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
        device: Its GPUs, separated by commas; empty where it trained on CPUs.
    """

    host: str
    node: str
    trials: int
    steps: int
    train_s: float
    share: float
    device: str = ""


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
                device=", ".join(sorted(set(_devices(rows)) - {_CPU})),
            )
        )
    return tuple(sorted(shares, key=lambda share: (-share.steps, share.host, share.node)))


def device_notes(run: Run, trials: pd.DataFrame) -> tuple[str, ...]:
    """What to know of cells whose trials come from different GPUs, or from a GPU and a CPU.

    Args:
        run: The run.
        trials: The trials that count.

    Returns:
        One note; none where every cell is of one device.
    """
    if not run.has("telemetry") or "device" not in run.telemetry or run.telemetry["device"].isna().all():
        return ()
    cells = trials.set_index("trial_id")["cell_id"]
    telemetry = run.telemetry[run.telemetry["trial_id"].isin(cells.index)]
    rows = pd.DataFrame({"cell": telemetry["trial_id"].map(cells), "device": _devices(telemetry)})
    mixed = rows.groupby("cell")["device"].nunique() > 1
    if not mixed.any():
        return ()
    names = sorted(set(rows.loc[rows["cell"].isin(mixed[mixed].index), "device"]))
    which = f"{int(mixed.sum())} of {len(mixed)} cells" if len(mixed) > 1 else "the cell"
    return (
        f"{which} mixed different devices ({'; '.join(names)}): their trials differ in rounding, too; "
        "column device of `trials` and `telemetry` says which is which",
    )


def _devices(telemetry: pd.DataFrame) -> pd.Series[str]:
    """What trained each segment: a GPU with its driver, or a CPU."""
    if "device" not in telemetry:
        return pd.Series(_CPU, index=telemetry.index)
    named = [
        _CPU if pd.isna(device) else str(device) if pd.isna(driver) else f"{device}, driver {driver}"
        for device, driver in zip(telemetry["device"], telemetry["driver"], strict=True)
    ]
    return pd.Series(named, index=telemetry.index, dtype=object)
