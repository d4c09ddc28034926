"""Pages of made-up runs of many trials: seconds to make them, megabytes of file and of memory, seconds to draw them.

    python benchmarks/page.py [--trials 12 1000 10000] [--browser]

Each run has two seeds a cell, half of the cells clipped, 100 logged steps and 20 snapshots a trial, and is written by
the committer that real runs are written by. Every page is made in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sweeper.driver.commit import Committer
from sweeper.driver.open_segments import OpenSegment
from sweeper.planning.plan import arm_of
from sweeper.protocol.events import SegmentId
from sweeper.protocol.messages import SegmentFacts, SegmentItem
from sweeper.store.journal import Journal, RunState
from sweeper.store.planned_trials import TrialRecord
from sweeper.store.records import Opened, Planned
from sweeper.store.run_dir import RunDir

STEPS, SNAPSHOTS, SEEDS = 100, 20, 2
TRIALS_A_COMMIT = 500


def make_run(path: Path, trials: int) -> None:
    """A finished run of so many trials."""
    run_dir = RunDir(path)
    run_dir.create()
    committer = Committer(run_dir, Journal(run_dir.journal, 0), RunState(), measurement="m1")
    committer.record(Opened(driver_epoch=1, environment={}))
    cells = max(2, trials // SEEDS)
    rates = np.geomspace(0.01, 10, max(1, cells // 4))
    random = np.random.default_rng(0)
    records, written = [], 0
    for at in range(cells):
        swept = {
            "update_rule.learning_rate": float(f"{rates[at // 4 % len(rates)]:.6g}"),
            "update_rule.clip_norm": (None, 0.1, 0.3, 1.0)[at % 4],
        }
        for seed in range(SEEDS):
            records.append(
                TrialRecord(
                    trial_id=f"trial-{at}-{seed}",
                    cell_id=f"cell-{at}",
                    arm=arm_of({"optimizer": "sgd"} | {key.partition(".")[2]: of for key, of in swept.items()}),
                    seed=seed,
                    swept=swept,
                    learning_rate=swept["update_rule.learning_rate"],
                    clip_norm=swept["update_rule.clip_norm"],
                    steps=STEPS,
                )
            )
    committer.record(Planned(measurement="m1", measure={}, trials=tuple(records)))
    for record in records:
        committer.add(SegmentId(record.trial_id, 1, 0), segment_of(record, random))
        written += 1
        if written % TRIALS_A_COMMIT == 0:
            committer.commit(force=True, running=frozenset())
    committer.commit(force=True, running=frozenset())
    committer.refresh()


def segment_of(record: TrialRecord, random: np.random.Generator) -> OpenSegment:
    """A trial that is done: its loss falls the faster the larger its rate, and the largest unclipped ones diverge."""
    step = np.arange(STEPS + 1)
    rate, threshold = record.learning_rate or 1.0, record.clip_norm
    lost = threshold is None and rate > 3
    loss = 5 * np.exp(-step * rate / 100) + 0.5 + 0.1 * random.normal(size=len(step))
    norm = np.exp(random.normal(size=len(step))) * 0.3
    columns = {
        "step": step,
        "epoch": step / 10,
        "clipped": norm > (threshold or np.inf),
        "train_loss": loss,
        "learning_rate": np.full(len(step), rate),
        "grad_norm": norm,
        "step_size": np.full(len(step), rate),
        "update_norm": norm * rate,
        "threshold": np.full(len(step), threshold or np.nan),
        "valid_loss": np.where(step % 20 == 0, loss + 0.1, np.nan),
    }
    facts = SegmentFacts(
        num_steps=STEPS,
        num_clipped=int(columns["clipped"].sum()),
        last_finite_loss=float(loss[-1]),
        started_at=0.0,
        ended_at=1.0,
        train_s=1.0,
        evaluate_s=0.0,
        host="here",
        pid=1,
        data="made up",
        diverged_step=STEPS if lost else None,
    )
    item = SegmentItem(
        segment=SegmentId(record.trial_id, 1, 0),
        start=0,
        stop=STEPS,
        rows=columns,
        checkpoint=None,
        outcome="diverged" if lost else "done",
        facts=facts,
    )
    segment = OpenSegment(item=item)
    for at in range(0, STEPS, STEPS // SNAPSHOTS):
        grad_norm = float(norm[at])
        smoothness = (1 + 3 * grad_norm) * float(np.exp(0.3 * random.normal()))
        row = {"smoothness": smoothness, "smoothness_by_fraction": [1.0], "snr": 100.0, "grad_norm": grad_norm}
        row |= {"trial_id": record.trial_id, "step": at, "epoch": 0.0, "loss": 1.0}
        segment.add({"directional_smoothness": row}, 0.1)
    return segment


def make_page(run: Path, file: Path) -> None:
    """A page, and what it took: printed for the process that asked."""
    from sweeper.report.page.contents import build_page
    from sweeper.report.page.html import render_page
    from sweeper.tables.run import Run

    began = time.perf_counter()
    page = build_page(Run(run), [run])
    built = time.perf_counter()
    file.write_text(render_page(page), encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{built - began} {time.perf_counter() - built} {peak}")


def draw(file: Path) -> float:
    """Seconds until all charts are drawn in a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        tab = browser.new_page()
        began = time.perf_counter()
        tab.goto(file.as_uri())
        tab.wait_for_function("document.documentElement.dataset.drawn !== undefined", timeout=120_000)
        seconds = time.perf_counter() - began
        browser.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[12, 1000, 10_000])
    parser.add_argument("--browser", action="store_true", help="also draw each page in a Chromium")
    parser.add_argument("--page", nargs=2, metavar=("RUN", "FILE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.page:
        make_page(Path(asked.page[0]), Path(asked.page[1]))
        return
    print("| trials | contents, s | HTML, s | MB | memory, MiB |" + (" drawn, s |" if asked.browser else ""))
    print("|---:|---:|---:|---:|---:|" + ("---:|" if asked.browser else ""))
    for trials in asked.trials:
        with tempfile.TemporaryDirectory() as folder:
            run, file = Path(folder) / "run", Path(folder) / "report.html"
            make_run(run, trials)
            words = [sys.executable, __file__, "--page", str(run), str(file)]
            said = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
            built, rendered, peak = map(float, said)
            line = f"| {trials:,} | {built:.1f} | {rendered:.1f} | {file.stat().st_size / 1e6:.2f} | {peak:.0f} |"
            print(line + (f" {draw(file):.1f} |" if asked.browser else ""), flush=True)


if __name__ == "__main__":
    main()
