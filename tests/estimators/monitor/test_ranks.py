"""One model trained by two processes on gloo: f is the mean over the batches of both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from estimators import SmoothnessMonitor
from tests.estimators.monitor.conftest import Kept, mean_square, some_batches

ROOT = Path(__file__).parents[3]

SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "once": {"options": {"every": 1000}},
    "breaks": {"breaks": True},
    "never 0": {"never": 0},
    "never 1": {"never": 1},
    "taken": {},
    "uneven": {"uneven": True},
    "first batches": {"options": {"every": 1, "probe": 2, "budget": 100.0}},
    "noise": {"options": {"estimators": {"gradient_noise": {}}}},
}
"""What the two processes do, one after the other."""

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from torch.nn.parallel import DistributedDataParallel
from tests.estimators.monitor.conftest import mean_square, some_batches
from tests.estimators.monitor.test_ranks import SCENARIOS, small
from estimators import SmoothnessMonitor

folder, rank = Path(sys.argv[2]), int(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

def trained(name, settings):
    model = DistributedDataParallel(small())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    # Rank 0 has two batches of the probe, rank 1 one.
    probe = [some_batches(3)[:2], some_batches(3)[2:]][rank]
    if settings.get("uneven"):
        probe = [(x[: 16 - 8 * rank], y[: 16 - 8 * rank]) for x, y in probe]
    calls = []

    def loss_fn(given, batch):
        calls.append(1)
        if settings.get("breaks") and rank == 1 and len(calls) > 13:
            raise RuntimeError("out of luck")
        if settings.get("never") == rank:
            raise RuntimeError("never")
        return mean_square(given, batch)

    options = {"every": 2, "budget": None, "probe": probe} | settings.get("options", {})
    try:
        monitor = SmoothnessMonitor(model, optimizer, loss_fn, out=folder / name, **options)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    losses = []
    for k in range(6):
        # Rank 0 has the even batches, rank 1 the odd ones.
        batch = some_batches(12)[2 * k + rank]
        optimizer.zero_grad()
        loss = mean_square(model, batch)
        loss.backward()
        monitor.note(loss, batch)
        optimizer.step()
        losses.append(loss.item())
    monitor.close()
    return {"losses": losses, "weights": [p.double().sum().item() for p in model.parameters()]}

answers = {name: trained(name, settings) for name, settings in SCENARIOS.items()}
(folder / f"answers-{rank}.json").write_text(json.dumps(answers))
torch.distributed.destroy_process_group()
"""


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have gone through all scenarios, in two minutes at most: none of them hangs."""
    made = tmp_path_factory.mktemp("ranks")
    (made / "taken").mkdir()
    (made / "taken" / "thesis.tex").write_text("mine")
    commands = [[sys.executable, "-c", SCRIPT, str(ROOT), str(made), str(rank)] for rank in range(2)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) for command in commands]
    try:
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()
    return made


def answers_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """What both processes say of a scenario."""
    return [json.loads((folder / f"answers-{rank}.json").read_text())[name] for rank in range(2)]


def measured(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / name / "measurements" / "directional_smoothness.parquet")


def test_two_processes_measure_what_one_with_all_the_batches_does_and_train_as_without(
    folder: Path, kept: Kept
) -> None:
    answers = answers_of(folder, "plain")
    found = measured(folder, "plain")
    assert found["step"].tolist() == [0, 2, 4]
    assert answers[0]["weights"] == answers[1]["weights"]
    # One process whose gradient is the mean of both.
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    batches = some_batches(12)
    with SmoothnessMonitor(model, optimizer, mean_square, out=kept, every=2, budget=None, probe=some_batches(3)):
        for k in range(6):
            optimizer.zero_grad()
            ((mean_square(model, batches[2 * k]) + mean_square(model, batches[2 * k + 1])) / 2).backward()
            optimizer.step()
    for column in ("smoothness", "grad_norm", "loss", "update_norm"):
        assert found[column].tolist() == pytest.approx([row[column] for row in kept.measured()], rel=1e-4)
    assert (found["trust"] == "trusted").all()
    metrics = pd.read_parquet(folder / "plain" / "metrics.parquet")
    assert metrics["train_loss"].tolist() == pytest.approx(answers[0]["losses"])
    assert pd.read_parquet(folder / "plain" / "trials.parquet")["status"].tolist() == ["done"]
    # With one measurement, before anything was learned, the training is the same to the last bit.
    assert answers_of(folder, "once") == answers


def test_a_process_that_cannot_evaluate_f_hangs_nobody_and_the_row_says_so(folder: Path) -> None:
    answers = answers_of(folder, "breaks")
    assert answers == answers_of(folder, "plain")
    assert measured(folder, "breaks")["error"].tolist()[-1] == (
        "directional_smoothness: RankError: f could not be evaluated on 1 of 2 processes, whose logs say why"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_process_raises_at_the_start_all_do(rank: int, folder: Path) -> None:
    errors = [answer["error"] for answer in answers_of(folder, f"never {rank}")]
    assert "never" in errors[rank]
    assert errors[1 - rank].startswith(f"RankError: rank {rank} raised ")


def test_a_directory_that_cannot_be_used_is_told_to_all_processes(folder: Path) -> None:
    first, second = (answer["error"] for answer in answers_of(folder, "taken"))
    assert "is not empty and does not hold a run" in first
    assert second.startswith("RankError: rank 0 raised RunDirectoryError: ")


def test_batches_of_other_sizes_in_another_process_are_refused_in_both(folder: Path) -> None:
    for answer in answers_of(folder, "uneven"):
        assert answer["error"].startswith("ValueError: the probe batches of rank 1 are ['float32[8, 6]'")


def test_the_first_batches_of_both_loops_are_the_probe_and_a_budget_is_that_of_the_first(folder: Path) -> None:
    assert measured(folder, "first batches")["step"].tolist() == [1, 2, 3, 4, 5]


def test_other_estimators_and_a_missing_group_are_refused(folder: Path, kept: Kept) -> None:
    for answer in answers_of(folder, "noise"):
        assert answer["error"].startswith("ValueError: over several processes, critical_sharpness, directional_smooth")
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"distributed=True: torch\.distributed.init_process_group was not called"):
        SmoothnessMonitor(model, optimizer, mean_square, out=kept, distributed=True)
