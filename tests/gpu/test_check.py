"""The check for GPUs runs on a CPU, so that it is ready where there is one, and sees what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = "mlp,deep_linear"


def checked(out: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--device",
        "cpu",
        "--out",
        str(out),
        "--slack",
        "20",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=900)
    lines = (out / "gpu.jsonl").read_text().splitlines() if (out / "gpu.jsonl").exists() else []
    return done, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gpu") / "folder"
    script = str(ROOT / "benchmarks" / "gpu_folder.py")
    subprocess.run([sys.executable, script, "--folder", str(made), "--no-wheels"], check=True, capture_output=True)
    return made


def test_part_a_holds_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    done, rows = checked(tmp_path, "--only", "A", "--cases", QUICK, "--folder", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["item"] for row in rows} == {"A0", *(f"C{number}" for number in range(1, 10))}
    of_gpus = {row["item"] for row in rows if row["value"] == "needs a GPU"}
    assert of_gpus == {"C6", "C9"}
    judged = [row for row in rows if row["holds"] is not None]
    assert len(judged) > 20
    assert all(row["holds"] for row in judged)
    assert (tmp_path / "gpu.txt").read_text() == done.stdout


def test_every_case_has_its_values_of_a_cpu(folder: Path) -> None:
    found = json.loads((folder / "references.json").read_text())["cases"]
    assert set(found) == {
        *("lstm", "awd_lstm", "gpt", "resnet20", "resnet18", "mlp", "logistic_regression", "deep_linear")
    }
    assert (folder / "references.json").stat().st_size < 20_000
    for case in found.values():
        assert 0 < case["error32"] < 0.1
        assert case["smoothness"] > 0
        assert len(case["float64"]["projections"]) == 8


def test_what_differs_from_the_cpu_is_told(folder: Path, tmp_path: Path) -> None:
    known = json.loads((folder / "references.json").read_text())
    case = known["cases"]["mlp"]
    case["weights"] = "0"
    case["float64"]["projections"].reverse()
    case["error32"] /= 10
    case["smoothness"] *= 1.01
    case["hessian"]["projections"].reverse()
    (tmp_path / "references.json").write_text(json.dumps(known))
    done, rows = checked(tmp_path, "--only", "C1,C2,C3,C4", "--cases", "mlp", "--folder", str(tmp_path))
    assert done.returncode == 1
    wrong = [(row["item"], row["name"]) for row in rows if row["holds"] is False]
    assert wrong == [
        ("C1", "mlp weights"),
        ("C2", "mlp gradient"),
        ("C3", "mlp error / the CPU's"),
        ("C4", "mlp eq. (20)"),
        ("C4", "mlp H v"),
    ]
    assert done.stdout.count("WRONG") == 5


def test_a_check_that_fails_or_is_late_leaves_the_others_alone(folder: Path, tmp_path: Path) -> None:
    known = json.loads((folder / "references.json").read_text())
    del known["cases"]["mlp"]["float64"]
    (tmp_path / "references.json").write_text(json.dumps(known))
    done, rows = checked(tmp_path, "--only", "C2,C8", "--cases", "mlp", "--folder", str(tmp_path))
    assert done.returncode == 1
    (failed,) = [row for row in rows if row.get("holds") is False]
    assert (failed["item"], failed["value"]) == ("C2", "KeyError: 'float64'")
    assert [row["holds"] for row in rows if row.get("item") == "C8"] == [True, True, None]
    late, rows = checked(tmp_path, "--only", "C8", "--cases", "mlp", "--folder", str(folder), "--slack", "0.0001")
    assert late.returncode == 1
    assert "DeadlineError: not done after" in late.stdout


def test_an_unknown_check_is_refused(tmp_path: Path) -> None:
    done, rows = checked(tmp_path, "--only", "C99", "--cases", "deep_linear")
    assert done.returncode == 2
    assert "no check is called C99; there are A, B, A0, C1" in done.stderr
    assert rows == []


def test_ray_is_carried_without_what_no_sweep_needs(tmp_path: Path) -> None:
    wheel, slimmed = tmp_path / "ray-1.whl", tmp_path / "slim.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ray/__init__.py", "")
        archive.writestr("ray/rllib/x.py", "")
        archive.writestr("ray/dataframe.py", "")
        archive.writestr("ray-1.dist-info/RECORD", "ray/__init__.py,,\nray/rllib/x.py,,\nray/dataframe.py,,\n")
    code = (
        "from benchmarks.gpu_folder import slim; from pathlib import Path; import sys; slim(*map(Path, sys.argv[1:]))"
    )
    subprocess.run([sys.executable, "-c", code, str(wheel), str(slimmed)], check=True, cwd=ROOT)
    with zipfile.ZipFile(slimmed) as archive:
        assert archive.namelist() == ["ray/__init__.py", "ray/dataframe.py", "ray-1.dist-info/RECORD"]
        assert archive.read("ray-1.dist-info/RECORD").decode() == "ray/__init__.py,,\nray/dataframe.py,,\n"
