"""Finished runs of made-up cells, for pictures: losses are curves, and large rates diverge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.driver.commit import Committer
from sweeper.driver.open_segments import OpenSegment
from sweeper.planning.plan import arm_of
from sweeper.protocol.events import SegmentId
from sweeper.protocol.messages import SegmentFacts, SegmentItem
from sweeper.store.journal import Journal, RunState
from sweeper.store.planned_trials import TrialRecord
from sweeper.store.records import Opened, Planned
from sweeper.store.run_dir import RunDir
from sweeper.tables.run import Run

RATE, NORM, LAYER, ADAPTIVE, OFFSET, OPTIMIZER = (
    f"update_rule.{name}"
    for name in ("learning_rate", "clip_norm", "clip_layer_norm", "clip_adaptive", "normalize", "optimizer")
)
CORPUS = "problem.corpus"
LONG = "penn_treebank_with_the_usual_preprocessing_of_split_"
FACTS = SegmentFacts(
    num_steps=40,
    num_clipped=0,
    last_finite_loss=1.0,
    started_at=0.0,
    ended_at=1.0,
    train_s=1.0,
    evaluate_s=0.0,
    host="here",
    pid=1,
    data="made up",
)

Swept = Mapping[str, Any]


def _three_cells() -> list[Swept]:
    return [{RATE: rate, NORM: norm} for rate, norm in ((1.0, None), (10.0, None), (10.0, 0.25))]


def _twelve_cells() -> list[Swept]:
    return [{RATE: rate, NORM: norm} for rate in (0.3, 1.0, 3.0, 10.0) for norm in (None, 0.25, 1.0)]


def _sixty_cells() -> list[Swept]:
    """Two problems with long names, five rules of sgd at several thresholds, and adamw with and without clipping."""
    nothing: Swept = {OPTIMIZER: "sgd", NORM: None, LAYER: None, ADAPTIVE: None, OFFSET: None}
    rules: list[Swept] = [{NORM: None}, {NORM: 0.25}, {NORM: 1.0}, {LAYER: 0.1}, {OFFSET: 0.5}, {ADAPTIVE: 0.01}]
    cells: list[Swept] = []
    for corpus in (f"{LONG}a", f"{LONG}b"):
        cells += [{CORPUS: corpus, **nothing, **rule, RATE: rate} for rule in rules for rate in (0.3, 1.0, 3.0, 10.0)]
        adamw = {CORPUS: corpus, **nothing, OPTIMIZER: "adamw"}
        cells += [{**adamw, RATE: rate} for rate in (0.03, 0.1, 0.3, 1.0)]
        cells += [{**adamw, NORM: 1.0, RATE: rate} for rate in (0.1, 1.0)]
    return cells


def _run_of(
    path: Path,
    cells: Sequence[Swept],
    *,
    seeds: int = 2,
    diverges: Callable[[Swept, int], bool] = lambda swept, seed: False,
    measured: bool = False,
    evaluations: Callable[[], Sequence[float]] | None = None,
    more: Mapping[str, float] | None = None,
    loss: Callable[[Swept, int], float] | None = None,
    prefix: str = "",
) -> Run:
    """A finished run of these cells, written through the same committer as a real one."""
    run_dir = RunDir(path)
    run_dir.create()
    committer = Committer(run_dir, Journal(run_dir.journal, 0), RunState(), measurement="m1")
    committer.record(Opened(driver_epoch=1, environment={}))
    for number, swept in enumerate(cells):
        for seed in range(seeds):
            name = f"{prefix}trial-{number}-{seed}"
            rule = {"optimizer": "sgd"} | {
                key.partition(".")[2]: value for key, value in swept.items() if key.startswith("update_rule.")
            }
            trial = TrialRecord(
                trial_id=name,
                cell_id=f"{prefix}cell-{number}",
                arm=arm_of(rule),
                seed=seed,
                swept=swept,
                learning_rate=rule["learning_rate"],
                clip_norm=rule.get("clip_norm"),
                steps=40,
            )
            committer.record(Planned(measurement="m1", measure={}, trials=(trial,)))
            committer.add(
                SegmentId(name, 1, 0),
                _segment(
                    name,
                    rule["learning_rate"],
                    seed,
                    diverges(swept, seed),
                    measured,
                    evaluations if loss is None else partial(_constant, loss(swept, seed)),
                    more or {},
                ),
            )
    committer.commit(force=True, running=frozenset())
    committer.refresh()
    return Run(path)


def _constant(value: float) -> list[float]:
    return [value] * 5


def _segment(
    name: str,
    rate: float,
    seed: int,
    lost: bool,
    measured: bool,
    evaluations: Callable[[], Sequence[float]] | None,
    more: Mapping[str, float],
) -> OpenSegment:
    last = 20 if lost else 40
    step = np.arange(last + 1)
    loss = 2.0 + np.exp(step / 3) if lost else 2.0 * np.exp(-step / 100 * rate) + 0.5 + 0.01 * seed
    columns = {"step": step, "epoch": step / 10, "clipped": step < 0, "train_loss": loss}
    columns |= {
        key: np.full(last + 1, rate) for key in ("learning_rate", "grad_norm", "step_size", "update_norm", "threshold")
    }
    columns["valid_loss"] = np.where(step % 10 == 0, loss + 0.1, np.nan)
    if evaluations is not None:
        evaluated = np.ma.masked_all(last + 1)
        evaluated[step % 10 == 0] = evaluations()
        columns["valid_loss"] = evaluated
    columns |= {metric: np.full(last + 1, value) for metric, value in more.items()}
    facts = replace(FACTS, num_steps=last)
    item = SegmentItem(
        segment=SegmentId(name, 1, 0),
        start=0,
        stop=last,
        rows=columns,
        checkpoint=None,
        outcome="diverged" if lost else "done",
        facts=replace(facts, diverged_step=last, last_finite_loss=float(loss[-1])) if lost else facts,
    )
    segment = OpenSegment(item=item)
    for at in range(0, last if measured else 0, 4):
        norm = 2.0 ** (at / 8)
        row = {"smoothness": 1 + norm, "smoothness_by_fraction": [1.0], "snr": 100.0, "grad_norm": norm}
        segment.add({"directional_smoothness": {"trial_id": name, "step": at, "epoch": 0.0, "loss": 1.0, **row}}, 0.1)
    return segment


def _is_lost(swept: Swept, seed: int) -> bool:
    """Without clipping the largest rate diverges in all seeds, the next one in half of them."""
    is_clipped = any(swept.get(name) is not None for name in (NORM, LAYER, ADAPTIVE, OFFSET))
    return not is_clipped and (swept[RATE] >= 10 or (swept[RATE] == 3 and seed == 1))


@pytest.fixture(scope="session")
def made_run() -> Callable[..., Run]:
    """Makes a run: ``(path, cells, seeds=2, diverges=..., measured=False, loss=...) -> run``."""
    return _run_of


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., Run]:
    """Makes a run of any cells: ``(cells, path=..., seeds=2, diverges=..., measured=False, loss=...) -> run``."""
    return lambda cells, path=tmp_path / "run", **options: _run_of(path, cells, **options)


@pytest.fixture
def run_of_3(tmp_path: Path) -> Run:
    return _run_of(tmp_path / "run of 3", _three_cells(), diverges=_is_lost)


@pytest.fixture
def run_of_12(tmp_path: Path) -> Run:
    return _run_of(tmp_path / "run of 12", _twelve_cells(), diverges=_is_lost, measured=True)


@pytest.fixture(scope="module")
def run_of_60(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _run_of(tmp_path_factory.mktemp("made up") / "run of 60", _sixty_cells(), diverges=_is_lost, measured=True)
