"""What a shell is offered while somebody types, and that nothing disturbs who types."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.cli.app import app
from sweeper.cli.completion import PLOT_KINDS

RATE, CLIP = "update_rule.learning_rate", "update_rule.clip_norm"

Complete = Callable[..., list[str]]


def make_run(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").touch()
    described = {"description": "Threshold of clipping."}
    schema = pa.schema([
        pa.field("trial_id", pa.string()),
        *(pa.field(name, pa.float64()) for name in (RATE, CLIP, "problem.k\x1b[2J")),
        pa.field("clip_norm", pa.float64(), metadata=described),
        pa.field("clipped_fraction", pa.float64()),
        pa.field("best_valid_loss", pa.float64()),
    ])
    rows = [
        {"trial_id": str(at), RATE: rate, CLIP: clip, "clip_norm": clip}
        for at, (rate, clip) in enumerate([(0.1, None), (10**-0.5, 0.5), (10**-0.5, None)])
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "trials.parquet")


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Complete:
    """``complete("report", "runs/")``: what bash is offered for the last word."""
    for name in ("runs/first", "runs/second", "elsewhere/deep/third"):
        make_run(tmp_path / name)
    (tmp_path / "src" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def completed(*words: str, shell: str = "bash") -> list[str]:
        monkeypatch.setattr("sys.argv", ["clipsweep"])
        monkeypatch.setenv("_CLIPSWEEP_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", " ".join(["clipsweep", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(["clipsweep", *words]))
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        with pytest.raises(SystemExit) as left:
            app(prog_name="clipsweep")
        assert not left.value.code
        said = capfd.readouterr()
        assert said.err == ""
        return said.out.split("\n")[:-1] if said.out.strip() else []

    return completed


def test_a_run_is_offered_from_its_folder_and_from_the_one_above(complete: Complete) -> None:
    assert complete("report", "ru") == complete("status", "runs/") == ["runs/first", "runs/second"]
    assert complete("fit", "runs/s") == ["runs/second"]
    assert complete("fit", "elsewhere/") == ["elsewhere/deep/third"]
    assert complete("fit", "sr") == ["src/"], "folders, where there is no run"
    assert complete("fit", "nowhere/") == []


def test_a_plot_is_of_runs_and_then_of_a_kind(complete: Complete) -> None:
    assert complete("plot", "s") == ["src/"]
    assert complete("plot", "runs/first", "s") == ["smoothness", "sharpness", "stability", "speedup", "src/"]
    assert complete("plot", "runs/first", "runs/s") == ["runs/second"]


def test_kinds_are_those_that_there_are(complete: Complete) -> None:
    from sweeper.report.plots.draw import PLOTS
    from sweeper.report.times import GROUPS
    from sweeper.spec.catalog import KINDS

    assert set(PLOT_KINDS) == set(PLOTS)
    assert complete("list", "") == list(KINDS)
    assert complete("times", "--by", "") == list(dict.fromkeys(["trial", "worker", "node"]))
    assert set(complete("times", "--by", "")) == set(GROUPS)


def test_formats_are_those_of_the_command(complete: Complete) -> None:
    assert complete("report", "runs/first", "--format", "") == ["table", "md", "csv", "json", "html"]
    assert complete("fit", "runs/first", "--format", "") == ["table", "md", "csv", "json"]
    assert complete("validate", "--format", "") == ["table", "json"]


def test_a_column_is_offered_by_its_short_name_and_by_its_path(complete: Complete) -> None:
    offered = complete("report", "runs/first", "--where", "")
    assert offered[:2] == ["learning_rate=", "clip_norm="]
    assert {f"{RATE}=", f"{CLIP}=", "trial_id="} <= set(offered)
    assert not any("\x1b" in name for name in offered), "no name reaches the terminal that it would act on"
    assert complete("report", "runs/first", "--by", "upd") == [RATE, CLIP]
    assert complete("report", "runs/first", "--sort", "b") == ["best_valid_loss"]
    assert complete("report", "runs/first", "--sort", "learn") == ["learning_rate"]


def test_the_only_column_that_fits_is_no_finished_word(complete: Complete) -> None:
    assert complete("plot", "runs/first", "loss", "--where", "learn") == ["learning_rate=", "learning_rate!="]
    assert complete("report", "runs/first", "--where", "clip") == ["clip_norm=", "clipped_fraction="]


def test_values_are_offered_as_tables_show_them(complete: Complete) -> None:
    assert complete("report", "runs/first", "--where", "learning_rate=", shell="fish") == [
        "learning_rate=0.1",
        "learning_rate=0.3162",
    ]
    assert complete("report", "runs/first", "--where", "'seed>1 and clip_norm!=", shell="fish") == [
        "seed>1 and clip_norm!=none",
        "seed>1 and clip_norm!=0.5",
    ]
    offered = complete("report", "runs/first", "--where", "'seed>1 and clip_", shell="fish")
    assert offered == ["seed>1 and clip_norm=\tswept", "seed>1 and clip_norm!=\tswept"]


@pytest.mark.parametrize("words", [("report", "runs/none", "--where", "a"), ("plot", "--where", ""), ("fit", "\0")])
def test_where_there_is_nothing_to_offer_nothing_is_said(complete: Complete, words: tuple[str, ...]) -> None:
    words = tuple(word.replace("\0", "no\u202esuch") for word in words)
    assert complete(*words) == []


def test_a_damaged_table_offers_nothing(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "runs" / "first" / "trials.parquet").write_bytes(b"PAR1 nonsense")
    assert complete("report", "runs/first", "--where", "") == []


def test_nothing_heavy_is_loaded_to_complete(complete: Complete, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['clipsweep']\nfrom sweeper.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(*sorted({'torch', 'ray', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    words = "clipsweep report runs/first --where learning_rat"
    environment = {"_CLIPSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "learning_rate=\nlearning_rate!=\n\n"
